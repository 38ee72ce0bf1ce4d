"""Editorial decisions: what somebody decided about the corpus, why, on what evidence, and what follows from it, where a program can do it.

`[[corpus.decisions]]` lists them. They are applied to each text as it is read, in order, before any step; docs/corpus.md says how.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from openbook.section import Name, Section

Told = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""Words for people."""
Fact = str | int | float | bool
Removing = Literal[
    "length",
    "licence",
    "language",
    "gopher-quality",
    "gopher-repetition",
    "c4",
    "fineweb",
    "quality",
    "perplexity",
    "profanity",
    "pii",
    "exact",
    "minhash",
]
"""The steps that remove whole texts by a rule."""


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise PydanticCustomError("expression", "should be a regular expression; {why}", {"why": str(error)}) from None
    return value


def _pairs(value: list[list[str]]) -> list[list[str]]:
    for pair in value:
        if len(pair) != 2 or not all(re.fullmatch(r"\w(?:[\w'’-]*\w)?", word) for word in pair):
            raise PydanticCustomError("swap", 'should be pairs of words, such as [["he", "she"], ["his", "her"]]')
    return value


class Decision(Section):
    """What every decision has."""

    what: Told
    why: Told
    evidence: Told
    """A path, an address or a sentence: where the reason can be checked."""
    components: list[Name] | None = None
    """The components that it concerns; without it, all."""


class Predicate(Decision):
    """Which texts a decision is about: those of `components` for which all that is said holds."""

    origin: list[str] = []
    """Shell patterns, of which one matches where the text was found."""
    text: Annotated[str, AfterValidator(_expression)] | None = None
    """A regular expression that is found in the text as it was read."""
    licence: list[str] = []
    """Shell patterns, of which one matches the licence; a text without one has the licence "unknown"."""
    meta: dict[str, Fact] = {}
    """What the source says of the text, such as {lang = "ru"}."""
    at_least: dict[str, float] = {}
    """Numbers that the source gives, such as {year = 1900}; a text without the number does not match."""
    at_most: dict[str, float] = {}
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of those texts, only this share, by hash."""

    @property
    def says_which(self) -> bool:
        """Whether texts can be told by it; otherwise it is about something that was never read, and only printed."""
        limits = (self.origin, self.text, self.licence, self.meta, self.at_least, self.at_most)
        return self.components is not None or any(limits) or self.share < 1


class Exclude(Predicate):
    """Texts that are left out."""

    action: Literal["exclude"]


class Include(Predicate):
    """Texts that stay: whatever a component's `exclude` or an earlier decision says, and whatever the named steps find."""

    action: Literal["include"]
    steps: list[Removing] = []


class Reweight(Decision):
    """A factor on the weights of components."""

    action: Literal["reweight"]
    factor: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _of_which(self) -> Reweight:
        if not self.components:
            raise PydanticCustomError("components", "reweight needs components = [...]: whose weight is multiplied")
        return self


class Rewrite(Predicate):
    """Words that take each other's place: whole words, both ways, case kept. Of a word in two pairs, the first decides what it becomes."""

    action: Literal["rewrite"]
    swap: Annotated[list[list[str]], Field(min_length=1), AfterValidator(_pairs)]

    @property
    def says_which(self) -> bool:
        return True  # without more words, all of them


AnyDecision = Annotated[Exclude | Include | Reweight | Rewrite, Field(discriminator="action")]


def require_components(decisions: list[Any], known: set[str]) -> None:
    """Raises a complaint that names a component which the recipe does not have."""
    for number, decision in enumerate(decisions, 1):
        for name in decision.components or ():
            if name not in known:
                told = {"number": number, "name": name, "known": ", ".join(sorted(known))}
                raise PydanticCustomError("decision", "decisions, number {number}: no component is called {name}; there are {known}", told)
