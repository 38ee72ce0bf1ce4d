"""Which licences may stay: SPDX expressions (ISO/IEC 5962, annex D) against the recipe's patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from openbook.corpus.steps.step import Columns, Removal, Step
from openbook.recipe_steps import LicenceStep

TOKEN = re.compile(r"\(|\)|[^\s()]+")


def is_allowed(expression: str, allow: Sequence[str]) -> bool:
    """AND asks for both sides, OR for one, and binds less. What is no SPDX expression is compared as a whole."""
    if any(fnmatchcase(expression, pattern) for pattern in allow):
        return True
    tokens = TOKEN.findall(expression)
    try:
        value = _either(tokens, allow)
    except IndexError:
        return False
    return value and not tokens


def _either(tokens: list[str], allow: Sequence[str]) -> bool:
    value = _both(tokens, allow)
    while tokens and tokens[0].upper() == "OR":
        tokens.pop(0)
        value = _both(tokens, allow) or value
    return value


def _both(tokens: list[str], allow: Sequence[str]) -> bool:
    value = _one(tokens, allow)
    while tokens and tokens[0].upper() == "AND":
        tokens.pop(0)
        value = _one(tokens, allow) and value
    return value


def _one(tokens: list[str], allow: Sequence[str]) -> bool:
    name = tokens.pop(0)
    if name == "(":
        value = _either(tokens, allow)
        return tokens.pop(0) == ")" and value
    if tokens and tokens[0].upper() == "WITH":
        name = f"{name} WITH {tokens[1]}"
        del tokens[:2]
    return any(fnmatchcase(name, pattern) for pattern in allow)


def judge(columns: Columns, _: Sequence[str], settings: LicenceStep) -> Iterator[Removal]:
    for row, licence in enumerate(columns["licence"].to_pylist()):
        if licence is None:
            if settings.unknown == "drop":
                yield Removal(row, "licence unknown", "the source states none")
        elif not is_allowed(licence, settings.allow):
            yield Removal(row, "licence not allowed", licence)


STEP = Step("licence", 1, judge=judge)
