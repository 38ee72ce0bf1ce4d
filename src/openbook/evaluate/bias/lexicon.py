"""The audit's own words (words.toml), and what counts as a word of a text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def words() -> Mapping[str, Any]:
    """occupations, appearance, stop: lists of words; groups: lists by group."""
    return tomllib.loads((files("openbook.evaluate.bias") / "words.toml").read_text(encoding="utf-8"))


def spoken(text: str) -> set[str]:
    """The words of a text, in lower case; a word that a text repeats counts once, so that a loop does not decide a list."""
    return set(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower()))
