"""What a step is: a name, a version, and pure functions of texts and settings.

Texts are looked at in shards. `annotate` gives columns, a value for each row; `limits` says which values a row may have. What needs a
model or an index of its own has `prepare`; what compares rows of different shards has `join`; what changes texts has `rewrite`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from openbook.parts import Batch, Bools
from openbook.recipe_steps import StepSection

Columns = Mapping[str, Any]
"""Arrays with a value for each row."""

Settings = Any
"""The step's own section of the recipe."""


@dataclass(frozen=True)
class Limit:
    """A rule: rows whose `column` is below `least` or above `most` go. `reason` is what dropped.parquet calls it."""

    reason: str
    column: str
    least: float | None = None
    most: float | None = None

    def broken(self, columns: Columns) -> Bools:
        values = np.asarray(columns[self.column])
        low = values < self.least if self.least is not None else np.zeros(len(values), bool)
        return low | (values > self.most) if self.most is not None else low

    def evidence(self, value: float) -> str:
        if self.least is not None and value < self.least:
            return f"{self.column} {value:.4g} < {self.least:g}"
        return f"{self.column} {value:.4g} > {self.most:g}"


@dataclass(frozen=True)
class Removal:
    """Why a row goes: the rule's name, and the value that broke it."""

    row: int
    reason: str
    evidence: str


class Source(Protocol):
    """Rows that are still in the corpus, for models and indexes to learn from."""

    def texts(self, components: Sequence[str], limit: int, source: random.Random) -> list[str]: ...

    def digest(self, components: Sequence[str]) -> str: ...


@dataclass(frozen=True)
class Prepared:
    """A model or an index: what it is a function of, how it is written to a file, and what people want to know of it."""

    facts: Any
    write: Callable[[Path], Any]


@dataclass(frozen=True)
class Sketch:
    """What `join` sees of a shard: its annotation, read when it is asked for, the ids of its rows, and which of them are still in."""

    read: Callable[[], pa.Table]
    ids: Sequence[str]
    alive: Bools

    @property
    def columns(self) -> pa.Table:
        return self.read()


@dataclass(frozen=True)
class Verdict:
    """What `join` says of a shard: rows to remove, and for `rewrite` the edits of each row (none where nothing changes)."""

    removals: Sequence[Removal] = ()
    edits: Mapping[int, Any] | None = None


@dataclass(frozen=True)
class Joined:
    verdicts: Sequence[Verdict]
    report: Mapping[str, Any] | None = None
    """Figures for people."""


@dataclass(frozen=True)
class Step:
    """One step. `version` rises when its code gives another result for the same texts and settings."""

    name: str
    version: int
    annotate: Callable[[Batch, Columns, Settings, Any], Columns] | None = None
    """Of the texts, the other columns of their shard, the settings, and what `load` gave."""
    limits: Callable[[Settings], Sequence[Limit]] | None = None
    judge: Callable[[Columns, Sequence[str], Settings], Iterable[Removal]] | None = None
    """Where a limit does not say it: of columns, ids, settings."""
    prepare: Callable[[Source, Settings], Prepared] | None = None
    load: Callable[[Path], Any] | None = None
    join: Callable[[Sequence[Sketch], Settings, Any], Joined] | None = None
    rewrite: Callable[[str, Any, Settings], list[str]] | None = None
    """The pieces that become of a text: of the text, its edits (or None for a step without `join`), the settings."""
    rewrites: Callable[[Settings], bool] = lambda settings: True


def table_rules(step: Step, settings: StepSection, columns: Columns, ids: Sequence[str]) -> list[Removal]:
    """The removals of a step without `join`; a row goes for the first rule it breaks."""
    removals = list(step.judge(columns, ids, settings)) if step.judge else []
    for limit in step.limits(settings) if step.limits else ():
        values = np.asarray(columns[limit.column])
        removals += [Removal(int(row), limit.reason, limit.evidence(values[row])) for row in np.flatnonzero(limit.broken(columns))]
    first: dict[int, Removal] = {}
    for removal in removals:
        first.setdefault(removal.row, removal)
    return [first[row] for row in sorted(first)]
