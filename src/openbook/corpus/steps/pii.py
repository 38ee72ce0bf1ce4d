"""Personal data that has a form: mail addresses, public IPs, telephone numbers, IBANs, payment cards.

What has a checksum must pass it (ISO 13616 for IBANs, Luhn for cards). A telephone number is taken for one if it begins with + or
with a bracketed or dashed area code: bare digits are too often something else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openbook.corpus.steps.step import Columns, Limit, Step
from openbook.parts import Batch
from openbook.recipe_steps import PiiStep


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _luhn(number: str) -> bool:
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(code: str) -> bool:
    code = code.replace(" ", "")
    return 15 <= len(code) <= 34 and int("".join(str(int(character, 36)) for character in code[4:] + code[:4])) % 97 == 1


def _telephone(number: str) -> bool:
    return 8 <= sum(character.isdigit() for character in number) <= 15


@dataclass(frozen=True)
class Form:
    """How a kind is found. `sign` is a cheaper pattern (RE2) that every text with one has; `check` says whether a match is one."""

    pattern: re.Pattern[str]
    sign: str
    check: Callable[[str], bool] = lambda match: True


FORMS = {
    "email": Form(
        re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        r"[A-Za-z0-9._%+-]@[A-Za-z0-9-]",
    ),
    "ip": Form(re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)"), r"\d\.\d{1,3}\.\d{1,3}\.\d", _public),
    "iban": Form(
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), r"[A-Z]{2}\d{2} ?[A-Z0-9]{4} ?[A-Z0-9]{4}", _iban
    ),
    "card": Form(re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-]*\d)"), r"\d(?:[ -]?\d){12}", _luhn),
    "phone": Form(
        re.compile(
            r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
            r"|(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4})(?!\w)"
        ),
        r"\+\d|\d{3}\) ?\d{3}-\d|\d{3}-\d{3}-\d",
        _telephone,
    ),
}
"""Earlier kinds win where two overlap."""


def find(text: str, kinds: list[str]) -> list[tuple[int, int, str]]:
    """(start, end, kind) of what is found in a text, in order and without overlap."""
    found: list[tuple[int, int, str]] = []
    for kind in kinds:
        form = FORMS[kind]
        for match in form.pattern.finditer(text):
            if form.check(match.group()) and not any(match.start() < end and start < match.end() for start, end, _ in found):
                found.append((match.start(), match.end(), kind))
    return sorted(found)


def annotate(batch: Batch, _: Columns, settings: PiiStep, context: None) -> Columns:
    """How often each kind occurs."""
    texts = pa.array(batch.texts, pa.large_string())
    columns = {kind: np.zeros(len(batch.texts), np.int64) for kind in FORMS}
    suspects: dict[int, list[str]] = {}
    for kind, form in FORMS.items():
        for row in np.flatnonzero(pc.match_substring_regex(texts, form.sign).to_numpy(zero_copy_only=False)).tolist():
            suspects.setdefault(row, []).append(kind)
    for row, kinds in suspects.items():
        for found in find(batch.texts[row], kinds):
            columns[found[2]][row] += 1
    return columns


def limits(settings: PiiStep) -> list[Limit]:
    return [Limit(kind, kind, most=0) for kind in settings.kinds] if settings.policy == "drop" else []


def mask(text: str, _: None, settings: PiiStep) -> list[str]:
    pieces, place = [], 0
    for start, end, kind in find(text, list(settings.kinds)):
        pieces += [text[place:start], f"<{kind.upper()}>"]
        place = end
    return ["".join((*pieces, text[place:]))]


STEP = Step("pii", 1, annotate=annotate, limits=limits, rewrite=mask, rewrites=lambda settings: settings.policy == "mask")
