"""Figures as people read them. What is missing or not finite is a dash: a report never invents a number."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "–"
SPACE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit: a line never breaks there."""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def count(value: Any) -> str:
    """All digits, in groups of three."""
    return f"{value:,.0f}" if is_number(value) else NOTHING


def figure(value: Any, digits: int = 3) -> str:
    return f"{value:,.{digits}f}" if is_number(value) else NOTHING


def percent(value: Any, digits: int = 1) -> str:
    return f"{value:.{digits}%}" if is_number(value) else NOTHING


def _scaled(value: Any, units: tuple[str, ...], base: float = 1000.0) -> str:
    """Three significant digits with the unit that leaves one to three digits before the point."""
    if not is_number(value):
        return NOTHING
    index = 0
    while abs(value) >= 999.5 and index < len(units) - 1:
        value, index = value / base, index + 1
    whole = index == 0 and float(value).is_integer()
    digits = 0 if whole else max(0, 2 - max(0, math.floor(math.log10(abs(value)))))
    return f"{value:.{digits}f}{SPACE}{units[index]}".rstrip()


def rounded(value: Any) -> str:
    """For headlines: 4.72 million. Small numbers keep all their digits."""
    if is_number(value) and abs(value) < 100_000:
        return count(value)
    return _scaled(value, ("", "thousand", "million", "billion", "trillion"))


def size(value: Any) -> str:
    return _scaled(value, ("bytes", "kB", "MB", "GB", "TB", "PB"))


def speed(value: Any) -> str:
    return _scaled(value, ("FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s", "EFLOP/s"))


def hours(seconds: Any) -> str:
    """Hours to two digits after the point, or two that say something."""
    if not is_number(seconds):
        return NOTHING
    return f"{seconds / 3600:,.2f}" if seconds >= 360 else f"{seconds / 3600:.2g}"


def energy(joules: Any) -> str:
    """Joules, and watt-hours beside them."""
    if not is_number(joules):
        return NOTHING
    return f"{_scaled(joules, ('J', 'kJ', 'MJ', 'GJ', 'TJ'))} ({_scaled(joules / 3600, ('Wh', 'kWh', 'MWh', 'GWh'))})"


def duration(seconds: Any) -> str:
    """The two largest units: 2 h 05 min."""
    if not is_number(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.{1 if seconds >= 1 else 2}f}{SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        return SPACE.join((f"{whole // 60}", "min", f"{whole % 60:02d}", "s"))
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return SPACE.join((f"{minutes // 60}", "h", f"{minutes % 60:02d}", "min"))
    hours = round(seconds / 3600)
    return SPACE.join((f"{hours // 24}", "days", f"{hours % 24}", "h"))


def moment(time: Any) -> str:
    """An ISO time to the second, without its zone: all times of a logbook are UTC."""
    return str(time)[:19].replace("T", " ") if time else NOTHING


def printable(text: Any) -> str:
    """Text from outside, with the characters that HTML cannot hold shown as symbols."""
    shown = str(text).encode("utf-8", "replace").decode()
    return "".join(_symbol(ord(character)) or character for character in shown)


def _symbol(code: int) -> str | None:
    if code < 0x20 and code not in (0x09, 0x0A):
        return chr(0x2400 + code)
    return "\N{REPLACEMENT CHARACTER}" if 0x7F <= code < 0xA0 else None
