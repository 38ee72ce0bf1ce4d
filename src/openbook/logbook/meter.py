"""What a piece of work cost: wall time, CPU time, peak memory, and energy where a counter measures it; as a whole and by phase.

Energy is read from the RAPL counters of Linux and the total-energy counter of NVML. A counter that is missing or unreadable is
absent from the result: nothing is ever estimated here.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

POWERCAP = Path("/sys/class/powercap")
MOST_WATTS = 2000.0
"""No package draws more. A counter that fell, and would need more than this to have wrapped around, was reset."""


class Counter:
    """Joules since it was made, from a reading that only rises, wraps around after `top`, or starts again from zero.

    A counter is reset when its driver is loaded again; what it had counted since the last reading is then lost, and what it shows is
    counted: too little, never too much. Two wraps between two readings cannot be told from one: a package that draws 200 W takes
    about twenty minutes for one.
    """

    def __init__(self, source: str, read: Callable[[], float], top: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.source = source
        self._read, self._top, self._now = read, top, now
        self._last, self._when, self._total = read(), now(), 0.0

    def joules(self) -> float:
        """Raises whatever the reading raises."""
        value, when = self._read(), self._now()
        rise = value - self._last
        if rise < 0:
            wrapped = rise + self._top if self._top is not None else None
            possible = MOST_WATTS * (when - self._when + 1.0)  # a second for the counter's own period
            rise = wrapped if wrapped is not None and 0 <= wrapped <= possible else value
        self._last, self._when, self._total = value, when, self._total + rise
        return self._total


def counters(powercap: Path) -> list[Counter]:
    """Every energy counter of this machine that can be read."""
    return [*_rapl(powercap), *_nvml()]


def _rapl(root: Path) -> Iterator[Counter]:
    """One for each package, in microjoules."""
    for folder in sorted(root.glob("intel-rapl:?")) if root.is_dir() else []:
        path = folder / "energy_uj"
        try:
            top = (int((folder / "max_energy_range_uj").read_text()) + 1) / 1e6
            yield Counter("measured:rapl", partial(_microjoules, path), top)
        except (OSError, ValueError):  # unreadable without root since CVE-2020-8694
            continue


def _microjoules(path: Path) -> float:
    return int(path.read_text()) / 1e6


def _nvml() -> list[Counter]:
    """One for each GPU (Volta and later), in millijoules."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [Counter("measured:nvml", partial(_millijoules, pynvml, handle)) for handle in handles]
    except Exception:  # no library, no driver, or a GPU without the counter: absent, whatever the reason
        return []


def _millijoules(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


class Meter:
    """`with Meter() as meter: …`, then `meter.cost()`; `cost` may also be called on the way. A phase is `with meter.phase("validate"): …`,
    as often as wanted, one at a time."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap
        self._phases: dict[str, dict[str, Any]] = {}
        self.elsewhere = 0.0
        """CPU seconds of other processes at the same work, as far as they have told."""

    def __enter__(self) -> Meter:
        self._counters = counters(self._powercap)
        self._begin = self._reading()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._final = self.cost()

    def cost(self) -> dict[str, Any]:
        """Seconds, CPU seconds (with children), peak resident bytes of the process so far; joules by counter and phases, if any."""
        if hasattr(self, "_final"):
            return self._final
        total = _difference(self._begin, self._reading())
        unit = 1 if sys.platform == "darwin" else 1024
        result = _rounded({**total, "cpu_seconds": total["cpu_seconds"] + self.elsewhere})
        result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        if self._phases:
            result["phases"] = {name: _rounded(part, total["joules"]) for name, part in self._phases.items()}
        return result

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds what the block costs to the phase, however the block ends. CPU seconds are those of this process and its children."""
        before = self._reading()
        try:
            yield
        finally:
            cost, part = _difference(before, self._reading()), self._phases.setdefault(name, {})
            for figure in ("seconds", "cpu_seconds"):
                part[figure] = part.get(figure, 0.0) + cost[figure]
            joules = part.setdefault("joules", {})
            for source, value in cost["joules"].items():
                joules[source] = joules.get(source, 0.0) + value

    def _reading(self) -> dict[str, Any]:
        joules: dict[str, float] = {}
        for counter in list(self._counters):
            try:
                joules[counter.source] = joules.get(counter.source, 0.0) + counter.joules()
            except Exception:  # a GPU that fell off the bus, a file that vanished: a sum without it would say too little
                self._counters = [other for other in self._counters if other.source != counter.source]
        known = {counter.source for counter in self._counters}
        joules = {source: value for source, value in joules.items() if source in known}
        return {"seconds": time.monotonic(), "cpu_seconds": _cpu_seconds(), "joules": joules}


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    joules = {source: value - before["joules"][source] for source, value in after["joules"].items()}
    return {**{figure: after[figure] - before[figure] for figure in ("seconds", "cpu_seconds")}, "joules": joules}


def _rounded(cost: dict[str, Any], sources: Collection[str] | None = None) -> dict[str, Any]:
    """To the millisecond and millijoule; joules only where there are any, and only of the sources named."""
    result: dict[str, Any] = {figure: round(cost[figure], 3) for figure in ("seconds", "cpu_seconds")}
    joules = {source: round(value, 3) for source, value in cost["joules"].items() if sources is None or source in sources}
    return result | ({"joules": joules} if joules else {})


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
