"""Sums over documents: of any set of rows, and of any sets added together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from openbook.corpus.audit.scan import BESIDE, Findings
from openbook.corpus.steps.pii import FORMS
from openbook.parts import F64, I64, Bools

PROFANE = "profane"
COUNTED = (PROFANE, *FORMS)
"""What is counted in every text besides groups."""
SIZES = 32
"""Strata by size: a document of 2^n up to 2^(n+1) words is in stratum n."""


@dataclass(frozen=True)
class Looked:
    """A shard with what was found in it: everything by row."""

    findings: Findings
    licences: Sequence[str]
    groups: int

    def column(self, name: str) -> F64:
        return self.findings.documents.column(name).to_numpy(zero_copy_only=False).astype(np.float64)

    @cached_property
    def words(self) -> F64:
        return self.column("words")

    @cached_property
    def strata(self) -> I64:
        """(rows,)"""
        return np.log2(np.maximum(1, self.words)).astype(np.int64)

    def by_group(self, name: str) -> tuple[I64, I64, F64]:
        """(row, group, value) of a column of the table of groups."""
        table = self.findings.groups
        row, group, value = (table.column(key).to_numpy() for key in ("row", "group", name))
        return row, group, value.astype(np.float64)

    @cached_property
    def mentions(self) -> Bools:
        """Which groups each text names: (rows, groups)."""
        found = np.zeros((len(self.words), self.groups), bool)
        row, group, value = self.by_group("mentions")
        found[row[value > 0], group[value > 0]] = True
        return found


@dataclass
class Tally:
    """Sums over documents. Moments are sums of x, y, x², xy, y² with x what is counted and y words (or, for valence, words with one)."""

    documents: int = 0
    words: float = 0.0
    bytes: float = 0.0
    counted: F64 = field(default_factory=lambda: np.zeros((len(COUNTED), 5)))
    holding: F64 = field(default_factory=lambda: np.zeros(len(COUNTED)))
    """Documents with any."""
    naming: F64 = field(default_factory=lambda: np.zeros(0))
    """Documents that name a group: (groups,)."""
    mentions: F64 = field(default_factory=lambda: np.zeros((0, 5)))
    valence: F64 = field(default_factory=lambda: np.zeros((0, 5)))
    valued: F64 = field(default_factory=lambda: np.zeros(0))
    """Documents with a valenced word beside a group: (groups,)."""
    languages: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    decades: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, looked: Looked, alive: Bools) -> Tally:
        words, groups = looked.words, looked.groups
        tally = cls(int(alive.sum()), float(words[alive].sum()), float(looked.column("bytes")[alive].sum()))
        squares = float((words[alive] ** 2).sum())
        for place, name in enumerate(COUNTED):
            found = np.nan_to_num(looked.column(name)[alive])
            sums = [found.sum(), tally.words, (found**2).sum(), (found * words[alive]).sum(), squares]
            tally.counted[place], tally.holding[place] = sums, (found > 0).sum()
        tally.naming = looked.mentions[alive].sum(axis=0).astype(np.float64)
        row, group, value = looked.by_group("mentions")
        here = alive[row]
        tally.mentions = _moments(group[here], value[here], words[row[here]], groups)
        tally.mentions[:, 1], tally.mentions[:, 4] = tally.words, squares
        _, _, valence = looked.by_group("valence")
        _, _, valued = looked.by_group("valenced")
        here &= valued > 0
        tally.valence = _moments(group[here], valence[here], valued[here], groups)
        tally.valued = np.bincount(group[here], minlength=groups).astype(np.float64)
        codes = np.asarray(looked.findings.documents.column("language").to_pylist(), dtype=object)[alive]
        tally.languages = Counter(code for code in codes.tolist() if code)
        tally.licences = Counter(np.asarray(looked.licences, dtype=object)[alive].tolist())
        years = looked.findings.years
        kept = alive[years.column("row").to_numpy()]
        for decade, count in zip(
            years.column("decade").to_numpy()[kept].tolist(), years.column("count").to_numpy()[kept].tolist(), strict=True
        ):
            tally.decades[decade] += count
        return tally

    def same(self, other: Tally) -> bool:
        """Whether two states of a component differ in no figure that texts make."""
        plain = (self.documents, self.words, self.bytes) == (other.documents, other.words, other.bytes)
        return plain and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("counted", "mentions", "valence"))

    def __add__(self, other: Tally) -> Tally:
        if not self.documents:
            return other
        if not other.documents:
            return self
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def _moments(group: I64, x: F64, y: F64, groups: int) -> F64:
    """(groups, 5)"""
    return np.stack([np.bincount(group, weights=value, minlength=groups) for value in (x, y, x * x, x * y, y * y)], axis=1)


@dataclass
class Removed:
    """What one step removed of some documents, by stratum: (groups, strata) of those that name a group, (strata,) of all."""

    naming: F64
    naming_gone: F64
    all: F64
    gone: F64

    @classmethod
    def of(cls, looked: Looked, before: Bools, gone: Bools) -> Removed:
        def counts(rows: Bools) -> tuple[F64, F64]:
            row, group = np.nonzero(looked.mentions & rows[:, None])
            keys = group * SIZES + looked.strata[row]
            naming = np.bincount(keys, minlength=looked.groups * SIZES).reshape(looked.groups, SIZES)
            return naming.astype(np.float64), np.bincount(looked.strata[rows], minlength=SIZES).astype(np.float64)

        return cls(*(array for pair in zip(counts(before), counts(gone), strict=True) for array in pair))

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.naming + other.naming, self.naming_gone + other.naming_gone, self.all + other.all, self.gone + other.gone)


def beside(looked: Looked, alive: Bools) -> pa.Table:
    """group, word, count, documents: of the words beside terms in some rows."""
    table = getattr(looked.findings, BESIDE)
    kept = table.filter(pa.array(alive[table.column("row").to_numpy()]))
    return summed(kept.drop_columns("row").append_column("documents", pa.array(np.ones(len(kept), np.int64))))


def summed(table: pa.Table) -> pa.Table:
    found = table.group_by(["group", "word"]).aggregate([("count", "sum"), ("documents", "sum")])
    return found.rename_columns(["group", "word", "count", "documents"])


@dataclass
class Part:
    """A component's sums: `states` by the number of steps before, `removed` by the number of the step, if it was applied to the component,
    `words` beside groups in the first state and the last."""

    states: dict[int, Tally] = field(default_factory=dict)
    removed: dict[int, Removed] = field(default_factory=dict)
    words: dict[int, pa.Table] = field(default_factory=dict)

    def add(self, number: int, tally: Tally, near: pa.Table | None) -> None:
        self.states[number] = self.states[number] + tally if number in self.states else tally
        if near is not None:
            self.words[number] = summed(pa.concat_tables([self.words[number], near])) if number in self.words else near

    def remove(self, number: int, removed: Removed) -> None:
        self.removed[number] = self.removed[number] + removed if number in self.removed else removed
