"""What the recipe's decisions do to texts as they are read, and how much that was.

Of the decisions that exclude or include a text, the last one holds. Rewriting comes after that, in order, each on what the one before
left. Steps see the result, so that deduplication and decontamination judge what training will see.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from openbook.corpus.raw import RawText
from openbook.documents import Trace
from openbook.errors import InputError
from openbook.progress import say
from openbook.recipe_decisions import AnyDecision, Exclude, Include, Predicate, Reweight, Rewrite

DECISION = "decision"
"""What `step` says of a text that a decision dropped or changed."""


@dataclass
class Effect:
    """What a decision did to one component: `matched` texts that it is about; of these the `documents`, with so many bytes, that are out,
    in or other because of it; `replacements` of words."""

    matched: int = 0
    documents: int = 0
    bytes: int = 0
    replacements: int = 0


@dataclass(frozen=True)
class Ruling:
    """What becomes of one text. `out` is (reason, detail) if it is left out."""

    text: str
    out: tuple[str, str] | None = None
    invited: int | None = None
    """The decision that wants it in, which holds against the component's own `exclude`."""
    rescued: bool = False
    """Whether an earlier decision, or the component's `exclude`, wanted it out."""
    replacements: Sequence[tuple[int, int]] = ()
    """(number of the decision, how many) for each that changes the text."""

    def changes(self, identifier: str, raw: RawText) -> list[Trace]:
        return [
            Trace(identifier, raw.origin, DECISION, number, replacements=count, text=raw.text if index == 0 else None)
            for index, (number, count) in enumerate(self.replacements)
        ]


@dataclass
class Rulings:
    """The decisions of a recipe at work; `effects` holds what each did, by component."""

    decisions: Sequence[AnyDecision]
    effects: list[dict[str, Effect]] = field(init=False)
    _spared: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """The decisions that may keep a document (component, id) against a step."""
    _kept: set[tuple[int, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.effects = [defaultdict(Effect) for _ in self.decisions]
        self._swaps = {number: Swap(one.swap) for number, one in self._numbered() if isinstance(one, Rewrite)}

    def _numbered(self) -> list[tuple[int, AnyDecision]]:
        return list(enumerate(self.decisions, 1))

    def on(self, raw: RawText, component: str, identifier: str, excluded: bool) -> Ruling:
        """Decides about a text that could be read; `excluded` if the component's `exclude` wants it out."""
        out = invited = None
        rescued = excluded
        rewriting = []
        for number, decision in self._numbered():
            if isinstance(decision, Reweight) or not matches(decision, raw, component, identifier):
                continue
            self.effects[number - 1][component].matched += 1
            if isinstance(decision, Exclude):
                out, invited = number, None
            elif isinstance(decision, Include):
                rescued = rescued or out is not None
                out, invited = None, number
                self._spared.setdefault((component, identifier), []).append(number)
            else:
                rewriting.append(number)
        if out is not None:
            self._count(out, component, raw.bytes)
            return Ruling(raw.text, (f"decision {out}", self.decisions[out - 1].what))
        text, replacements = raw.text, []
        for number in rewriting:
            text, count = self._swaps[number].swapped(text)
            if count:
                replacements.append((number, count))
        return Ruling(text, None, invited, rescued, replacements)

    def keep(self, ruling: Ruling, component: str, identifier: str, size: int) -> None:
        """Counts what the decisions did to a text that goes on to the steps."""
        for number, count in ruling.replacements:
            self._count(number, component, size)
            self.effects[number - 1][component].replacements += count
        if ruling.invited and ruling.rescued:
            self._count_kept(ruling.invited, component, identifier, size)

    def spared(self, component: str, identifier: str, size: int, step: str) -> int | None:
        """The number of the decision that keeps a document which a step would remove."""
        whole = identifier.partition("-")[0]
        for number in self._spared.get((component, whole), ()):
            decision = self.decisions[number - 1]
            if isinstance(decision, Include) and step in decision.steps:
                self._count_kept(number, component, identifier, size)
                return number
        return None

    def _count(self, number: int, component: str, size: int) -> None:
        effect = self.effects[number - 1][component]
        effect.documents += 1
        effect.bytes += size

    def _count_kept(self, number: int, component: str, identifier: str, size: int) -> None:
        """Counts a document once, however often it would have gone."""
        if (number, component, identifier) not in self._kept:
            self._kept.add((number, component, identifier))
            self._count(number, component, size)

    def require_some(self, component: str) -> None:
        """To be asked of a component of which nothing was kept. Raises InputError if decisions took it."""
        took = {number: self.effects[number - 1][component].documents for number, one in self._numbered() if isinstance(one, Exclude)}
        if any(took.values()):
            number = max(took, key=lambda one: took[one])
            raise InputError(
                f"corpus.decisions, number {number} ({self.decisions[number - 1].what}) leaves nothing of component {component!r}: "
                f"it takes {took[number]} texts; say more of which texts it is about, or set available = false in the component"
            )

    def warn(self) -> None:
        """Says which decisions were about texts, and met none; to be asked when all components were read."""
        for number, decision in self._numbered():
            if isinstance(decision, Reweight) or not decision.says_which:
                continue
            if not self.effects[number - 1]:
                say(f"  WARNING: decision {number} ({decision.what}) matches no text")
            elif isinstance(decision, Rewrite) and not any(effect.replacements for effect in self.effects[number - 1].values()):
                say(f"  WARNING: decision {number} ({decision.what}) changes no text: none of its words occurs")

    def told(self, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What decisions.json holds: each decision, and its effect by component. Of a reweighted component, all its training text."""
        rows = []
        for number, decision in self._numbered():
            if isinstance(decision, Reweight):
                parts = {name: figures[name]["train"] for name in decision.components or ()}
                effect = {name: {"documents": part["documents"], "bytes": part["bytes"]} for name, part in parts.items()}
            else:
                effect = {name: vars(part) for name, part in self.effects[number - 1].items()}
            told = decision.model_dump(mode="json", exclude_defaults=True)
            rows.append({"number": number, **told, "applied": applied(decision), "effect": effect})
        return rows


def applied(decision: AnyDecision) -> str:
    """Where a decision takes effect."""
    if isinstance(decision, Reweight):
        return "to the weight"
    return "when read" if decision.says_which else "declared"


def matches(decision: Predicate, raw: RawText, component: str, identifier: str) -> bool:
    """Whether a decision is about a text: all that it says holds, the cheapest looked at first."""
    if not decision.says_which or (decision.components is not None and component not in decision.components):
        return False
    if decision.origin and not any(fnmatchcase(raw.origin, pattern) for pattern in decision.origin):
        return False
    if decision.licence and not any(fnmatchcase(raw.licence or "unknown", pattern) for pattern in decision.licence):
        return False
    if any(raw.meta.get(key) != value for key, value in decision.meta.items()):
        return False
    if not all(_number(raw.meta.get(key)) >= low for key, low in decision.at_least.items()):
        return False
    if not all(_number(raw.meta.get(key)) <= high for key, high in decision.at_most.items()):
        return False
    if int(identifier[8:16], 16) / 2**32 >= decision.share:  # the first eight digits decide what is held out
        return False
    return decision.text is None or re.search(decision.text, raw.text) is not None


def _number(value: object) -> float:
    """What is no number compares as false with everything."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


class Swap:
    """Words that take each other's place."""

    def __init__(self, pairs: Sequence[Sequence[str]]) -> None:
        self.becomes: dict[str, str] = {}
        for one, other in pairs:
            self.becomes.setdefault(one.lower(), other)
            self.becomes.setdefault(other.lower(), one)
        words = sorted(self.becomes, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)

    def swapped(self, text: str) -> tuple[str, int]:
        """The text, and how many words of it are others."""
        return self.pattern.subn(lambda match: self._in_case(match.group()), text)

    def _in_case(self, word: str) -> str:
        other = self.becomes[word.lower()]
        if len(word) > 1 and word.isupper():
            return other.upper()
        return other[0].upper() + other[1:] if word[0].isupper() else other


def in_datasheet(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """The decisions as the datasheet prints them, in Markdown."""
    if not told:
        return []
    lines = ["## Editorial decisions", "", "| | decision | why | evidence | effect |", "|---:|---|---|---|---|"]
    for row in told:
        cells = [f"{row['action']}: {row['what']}", row["why"], row["evidence"], effect_in_words(row)]
        lines.append(f"| {row['number']} | " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return [
        *lines,
        "",
        "Decisions are applied to texts as they are read, before the steps. A text that one left out is in `dropped.parquet`; one that was "
        "rewritten stands in `traces.parquet` as it was.",
    ]


def effect_in_words(row: Mapping[str, Any]) -> str:
    if row["applied"] == "declared":
        return "declared: nothing of it was read"
    if row["action"] == "reweight":
        return f"weight × {row['factor']:g} of " + ", ".join(f"{name} ({part['bytes']:,} bytes)" for name, part in row["effect"].items())
    parts = {name: part for name, part in row["effect"].items() if part["documents"]}
    if not parts:
        return "matches nothing" if not row["effect"] else f"about {_sum(row, 'matched')} documents, none of which it changed"
    verb = {"exclude": "left out", "include": "kept", "rewrite": "rewrote"}[row["action"]]
    of = ", ".join(f"{name} {part['documents']:,}" for name, part in parts.items())
    replaced = f", {_sum(row, 'replacements')} words" if row["action"] == "rewrite" else ""
    return f"{verb} {_sum(row, 'documents')} documents of {_sum(row, 'bytes')} bytes{replaced} ({of})"


def _sum(row: Mapping[str, Any], key: str) -> str:
    return f"{sum(part[key] for part in row['effect'].values()):,}"
