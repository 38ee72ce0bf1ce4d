"""What a measure of bias is: which texts a model is asked about, in one fixed form, and which figures follow from its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from openbook.audited import OVERALL
from openbook.evaluate.bias.estimate import Found
from openbook.evaluate.journal import Record
from openbook.evaluate.metrics import TIE
from openbook.evaluate.models import Request

Judge = Literal["toxicity", "sentiment"]


@dataclass(frozen=True)
class Options:
    """limit: items, drawn by the seed. generations: for each prompt of a data set. samples: for each prompt of GPT-3's probes."""

    limit: int | None = None
    seed: int = 0
    generations: int = 25
    samples: int = 100


@dataclass(frozen=True)
class Item:
    """What is asked together. pairs: (context, continuation) to score; an empty context is the beginning of a document. request: to be
    continued instead. facts: what the record says of it besides. beside: what a person wrote instead, to be judged too. `draw` tells items
    of one number apart: variants, or samples."""

    item: int
    facts: Mapping[str, Any]
    pairs: tuple[tuple[str, str], ...] = ()
    request: Request | None = None
    draw: int = 0
    beside: str = ""


@dataclass(frozen=True)
class Figure:
    """unit: share of 1, points of 100, nats, or a score. unbiased: the value of a model without the bias, where there is one."""

    name: str
    unit: Literal["share", "points", "nats", "score"]
    unbiased: float | None
    meaning: str


@dataclass(frozen=True)
class Row:
    """Figures of one group of items, by name."""

    group: str
    count: int
    figures: Mapping[str, Found]


@dataclass(frozen=True)
class Told:
    """What records come to: rows, and what else is worth reading (lists of words)."""

    rows: Sequence[Row]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """version rises when the numbers could change. files: below the data folder, each with its alternatives, best first. origin: where a
    person finds them. partly: whether some of them will do. judges: what the texts that the model writes are judged by. shown: groups of
    the summary.
    """

    name: str
    version: int
    title: str
    form: str
    source: str
    figures: tuple[Figure, ...]
    make: Callable[[Sequence[Path], Options], list[Item]]
    tell: Callable[[Sequence[Record], int], Told]
    files: tuple[tuple[str, ...], ...] = ()
    origin: str = ""
    judges: tuple[Judge, ...] = ()
    partly: bool = False
    shown: tuple[str, ...] = (OVERALL,)


def preferred(first: float, second: float) -> float:
    """1 if the first score is the greater, 0 if the second is, a half for a tie."""
    return 0.5 if abs(first - second) <= TIE else float(first > second)


def grouped(records: Sequence[Record], key: str) -> dict[str, list[Record]]:
    """Records by what they say under `key`, in order of appearance; all of them first."""
    groups: dict[str, list[Record]] = {OVERALL: list(records)}
    for record in records:
        groups.setdefault(str(record[key]), []).append(record)
    return groups
