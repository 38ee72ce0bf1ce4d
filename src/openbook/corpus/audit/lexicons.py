"""Lists of words that packages bring: VADER's valences (Hutto and Gilbert 2014) and better-profanity's. Nothing is copied from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from openbook.corpus.steps.profanity import words

PACKAGES = {"sentiment": "vaderSentiment", "profanity": "better-profanity"}


@cache
def facts() -> dict[str, Any]:
    """Package and version of each lexicon, or why it could not be used."""
    found: dict[str, Any] = {}
    for use, package in PACKAGES.items():
        try:
            found[use] = {"package": package, "version": version(package)}
        except PackageNotFoundError:
            found[use] = {
                "package": package,
                "missing": f"the package {package} is not installed; `pip install 'openbook[filters]'` brings it",
            }
    return found


@cache
def valences() -> Mapping[str, float] | None:
    """How unpleasant or pleasant a word is, from -4 to 4, as ten people judged it; single words of letters only."""
    if "version" not in facts()["sentiment"]:
        return None
    lines = files("vaderSentiment").joinpath("vader_lexicon.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    return {row[0].lower(): float(row[1]) for row in rows if row[0].isalpha()}


@cache
def rude() -> frozenset[str] | None:
    """Words of the list of profanity."""
    return frozenset(words(None)) if "version" in facts()["profanity"] else None
