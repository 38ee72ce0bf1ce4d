"""Manual pages to plain text: enough of roff(7), man(7) and mdoc(7) to keep the words and lose the markup."""

from __future__ import annotations

import re

_FONT = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)")
_SIZE = re.compile(r"\\s(?:\[[+-]?\d+\]|[+-]?\d)")
_NAMED = re.compile(r"\\(?:\((..)|\[([^\]]*)\])")
_ARGUMENT = re.compile(r"\"((?:[^\"]|\"\")*)\"|(\S+)")
_CHARACTERS = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "bu": "•", "em": "—", "en": "–", "hy": "-", "co": "©"}
_CHARACTERS |= {"ha": "^", "ti": "~", "ga": "`", "rs": "\\", "mu": "×", "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "or": "|", "bv": "|"}
_INLINE = {"B", "I", "BI", "IB", "BR", "RB", "IR", "RI", "SM", "SB", "TP", "IP", "Nm", "Nd", "Fl", "Ar", "Op", "Pa", "Xr", "Cm", "Dq", "Sq"}
_INLINE |= {"Em", "Sy", "Li", "Va", "Ev", "Dv", "Er", "Fn", "Ft", "Fa", "It", "Ql", "Ic", "Bx", "Fx", "Nx", "Ox", "Ux", "UR", "MT"}
_MDOC = {"Fl": "-"}
_JOINED = {"BI", "IB", "BR", "RB", "IR", "RI"}
"""Macros that set their arguments in alternating fonts, with no space between."""
_PARAGRAPH = {"P", "PP", "LP", "Pp", "sp", "TP", "IP", "HP", "It"}
_IGNORED_BLOCKS = {"de": "..", "ig": "..", "TS": ".TE", "EQ": ".EN"}


def to_text(source: str) -> str:
    """The readable text of a manual page's source."""
    lines: list[str] = []
    until: str | None = None
    for line in source.splitlines():
        if until is not None:
            until = None if line.startswith(until) else until
            continue
        if line.startswith((".", "'")):
            name, _, rest = line[1:].lstrip().partition(" ")
            until = _IGNORED_BLOCKS.get(name)
            lines.extend(_macro(name, rest))
        else:
            lines.append(_characters(line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _macro(name: str, rest: str) -> list[str]:
    arguments = [_characters((quoted or plain).replace('""', '"')) for quoted, plain in _ARGUMENT.findall(rest)]
    if name in ("TH", "Dt"):
        return [f"{arguments[0]}({arguments[1]})", ""] if len(arguments) > 1 else []
    if name in ("SH", "SS", "Sh", "Ss"):
        return ["", " ".join(arguments).upper() if name in ("SH", "Sh") else " ".join(arguments), ""]
    if name == "IP":
        arguments = arguments[:1]
    if name == "TP":
        arguments = []
    text = ("" if name in _JOINED else " ").join(arguments) if name in _INLINE else ""
    text = _MDOC.get(name, "") + text if text else text
    return ([""] if name in _PARAGRAPH else []) + ([text] if text else [])


def _characters(text: str) -> str:
    text = text.split('\\"')[0]
    text = _SIZE.sub("", _FONT.sub("", text))
    text = _NAMED.sub(lambda match: _CHARACTERS.get(match[1] or match[2], ""), text)
    for escape, plain in (
        ("\\-", "-"),
        ("\\&", ""),
        ("\\ ", " "),
        ("\\~", " "),
        ("\\'", "'"),
        ("\\`", "`"),
        ("\\|", ""),
        ("\\^", ""),
        ("\\%", ""),
        ("\\e", "\\"),
    ):
        text = text.replace(escape, plain)
    return text
