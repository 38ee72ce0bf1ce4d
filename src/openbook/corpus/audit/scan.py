"""The one look at a text: which groups it names, what stands beside their names, profanity, personal data, language, years.

What is found in a text is kept by text, in tables as sparse as the findings, so that figures for any set of texts (those before a filter,
those that it removed) are sums over rows: no text is looked at twice. Of a rewritten shard only the texts that changed are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openbook.corpus.audit import lexicons
from openbook.corpus.audit.terms import Terms, load
from openbook.corpus.steps import language, pii
from openbook.corpus.steps.shards import batches
from openbook.files import written_aside
from openbook.parts import F64, I64, Batch, Bools
from openbook.recipe_steps import LanguageStep, PiiStep

SCAN = "openbook.corpus.audit.scan:scan"
VERSION = 1
LEAST_LETTERS = 3
"""Shorter words beside a term are not looked at."""
SURE = 0.8
"""Terms are not counted in a text that is in another language with this confidence."""
UNSURE = 0.5
"""Below this confidence, a text's language is "unsure"."""
YEAR = "^(1[5-9][0-9][0-9]|20[0-9][0-9])$"
PII = PiiStep(step="pii", policy="keep")
LANGUAGE = LanguageStep(step="language", keep=["en"])
"""For how much of a text is looked at; nothing is removed here."""

DOCUMENTS, GROUPS, BESIDE, YEARS = "documents", "groups", "beside", "years"
TABLES = (DOCUMENTS, GROUPS, BESIDE, YEARS)
Columns = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """What was found in some texts, by table. All tables but `documents` have a column `row`, the text's number."""

    documents: pa.Table
    groups: pa.Table
    """row, group, mentions, beside (words beside them), valenced (those of them with a valence), valence (its sum)."""
    beside: pa.Table
    """row, group, word, count"""
    years: pa.Table
    """row, decade, count"""


def scan(task: str) -> str:
    """{"path", "parent": {"path", "findings"} or null, "out", "terms", "window", "model"}: writes the folder `out` with a file for each
    table."""
    wanted = json.loads(task)
    terms = load(Path(wanted["terms"]))
    model = _model(wanted["model"]) if wanted["model"] else None
    found = []
    old = _Parent(wanted["parent"]) if wanted["parent"] else None
    place = 0
    for table in batches(Path(wanted["path"])):
        texts = table.column("text")
        fresh = old.changed(texts, table.column("parent"), place) if old else np.ones(len(texts), bool)
        rows = place + np.flatnonzero(fresh)
        part = look(texts.filter(pa.array(fresh)).to_pylist(), terms, wanted["window"], model)
        found.append(_numbered(part, rows))
        place += len(texts)
    if old:
        found.append(old.kept())
    merged = _merged(found, place)
    with written_aside(Path(wanted["out"])) as aside:
        aside.mkdir()
        for name in TABLES:
            pq.write_table(getattr(merged, name), aside / f"{name}.parquet", compression="zstd")
    return ""


def read(folder: Path) -> Findings:
    return Findings(**{name: pq.read_table(folder / f"{name}.parquet") for name in TABLES})


@lru_cache(maxsize=2)
def _model(path: str) -> Any:
    return language.load(Path(path))


class _Parent:
    """The findings in a shard from which another was rewritten: texts that stayed as they were need not be looked at again."""

    def __init__(self, where: Any) -> None:
        self.texts = pa.chunked_array([table.column("text").combine_chunks() for table in batches(Path(where["path"]), ["text"])])
        self.findings = read(Path(where["findings"]))
        self.now = np.full(len(self.texts), -1, np.int64)
        """The row that an unchanged text has now."""

    def changed(self, texts: pa.ChunkedArray, parents: pa.ChunkedArray, place: int) -> Bools:
        changed: Bools = pc.not_equal(texts, self.texts.take(parents)).to_numpy().astype(bool)
        rows = np.flatnonzero(~changed)
        self.now[parents.to_numpy()[rows]] = place + rows
        return changed

    def kept(self) -> Findings:
        tables = {name: getattr(self.findings, name) for name in TABLES}
        tables[DOCUMENTS] = tables[DOCUMENTS].append_column("row", pa.array(np.arange(len(self.now))))
        moved = {}
        for name, table in tables.items():
            rows = self.now[table.column("row").to_numpy()]
            kept = table.drop_columns("row").append_column("row", pa.array(rows))
            moved[name] = kept.filter(pa.array(rows >= 0))
        return Findings(**moved)


def _numbered(part: Findings, rows: I64) -> Findings:
    """The same findings, with the numbers that the texts have in their shard."""
    tables = {DOCUMENTS: part.documents.append_column("row", pa.array(rows))}
    for name in (GROUPS, BESIDE, YEARS):
        table = getattr(part, name)
        tables[name] = table.drop_columns("row").append_column("row", pa.array(rows[table.column("row").to_numpy()]))
    return Findings(**tables)


def _merged(found: Sequence[Findings], rows: int) -> Findings:
    tables = {}
    for name in TABLES:
        parts = [getattr(part, name) for part in found]
        tables[name] = pa.concat_tables([part.select(parts[0].column_names) for part in parts]).sort_by("row")
    assert len(tables[DOCUMENTS]) == rows
    tables[DOCUMENTS] = tables[DOCUMENTS].drop_columns("row")
    return Findings(**tables)


def look(texts: Sequence[str], terms: Terms, window: int, model: Any = None) -> Findings:
    """The findings in some texts. `model` is that of the step `language`; without it no language is identified. Words are runs of letters
    and digits; `window` of them on either side of a term are beside it."""
    batch = Batch(texts)
    words = _Words(batch)
    documents: Columns = {
        "words": words.parts.counts,
        "bytes": np.array([len(text.encode()) for text in texts], np.int64),
        "profane": words.total(lexicons.rude()),
        **pii.annotate(batch, {}, PII, None),
        "language": pa.nulls(len(texts), pa.string()),
    }
    counted = np.ones(len(texts), bool)
    if model is not None:
        named = language.annotate(batch, {}, LANGUAGE, model)
        code, sure = np.asarray(named["language"], dtype=object), named["confidence"]
        counted = (code == terms.language) | (sure < SURE)
        documents["language"] = pa.array(np.where(code == "", "none", np.where(sure < UNSURE, "unsure", code)), pa.string())
    mentions = [_in(mention, counted, words) for mention in _mentions(words, terms)]
    groups, beside = _beside(words, mentions, terms, window)
    return Findings(pa.table(documents), groups, beside, _years(words))


class _Words:
    """The words of some texts: `lower` (words,) numbers each into `kinds`, where all are in lower case."""

    def __init__(self, batch: Batch) -> None:
        self.parts = batch.words("letters")
        coded = pc.utf8_lower(self.parts.kinds).dictionary_encode()
        self.kinds: pa.Array = coded.dictionary
        self.lower = coded.indices.to_numpy().astype(np.int64)[self.parts.ids]
        self.texts = self.parts.texts

    def among(self, known: Sequence[str]) -> Bools:
        """Which kinds are among some words: (kinds,)."""
        return pc.is_in(self.kinds, value_set=pa.array(known, self.kinds.type)).to_numpy(zero_copy_only=False)

    def total(self, known: frozenset[str] | None) -> pa.Array:
        """How many words of each text are among some; nulls where there is no list."""
        if known is None:
            return pa.nulls(len(self.parts.counts), pa.int64())
        return pa.array(self.parts.total(self.among(sorted(known))[self.lower]).astype(np.int64))


@dataclass(frozen=True)
class _Mentions:
    """Where terms of one category stand: `at` (mentions,) ascending, `length` in words, `group`."""

    at: I64
    length: I64
    group: I64


def _in(mentions: _Mentions, counted: Bools, words: _Words) -> _Mentions:
    here = counted[words.texts[mentions.at]]
    return _Mentions(mentions.at[here], mentions.length[here], mentions.group[here])


def _mentions(words: _Words, terms: Terms) -> Iterator[_Mentions]:
    """By category. Of terms that overlap the longest counts, of equally long ones the first."""
    places = _Places(words, terms)
    total = len(words.lower)
    for category in range(len(terms.categories)):
        group, length = np.full(total, -1, np.int16), np.zeros(total, np.int8)
        for phrase in (phrase for phrase in terms.phrases if phrase.category == category):
            at = places.of(phrase.words, phrase.exact)
            if len(at):
                for offset in range(len(phrase.words)):
                    group[at + offset] = -1
                if phrase.group is not None:
                    group[at], length[at] = phrase.group, len(phrase.words)
        at = np.flatnonzero(group >= 0)
        ends = np.maximum.accumulate(at + length[at])
        free = np.concatenate((np.ones(min(1, len(at)), bool), at[1:] >= ends[:-1]))
        at = at[free]
        yield _Mentions(at, length[at].astype(np.int64), group[at].astype(np.int64))


class _Places:
    """Finds words in a row. The places of every first word are looked up once."""

    def __init__(self, words: _Words, terms: Terms) -> None:
        self.texts = words.texts
        self._ids = {False: words.lower, True: words.parts.ids}
        self._numbers: dict[bool, dict[str, int]] = {}
        self._first: dict[bool, dict[int, I64]] = {}
        for exact, kinds in ((False, words.kinds), (True, words.parts.kinds)):
            wanted = sorted({word for phrase in terms.phrases if phrase.exact == exact for word in phrase.words})
            numbers = pc.index_in(pa.array(wanted, kinds.type), value_set=kinds).to_pylist()
            self._numbers[exact] = {word: number for word, number in zip(wanted, numbers, strict=True) if number is not None}
            self._first[exact] = self._places(exact, terms, len(kinds))

    def _places(self, exact: bool, terms: Terms, kinds: int) -> dict[int, I64]:
        heads = {phrase.words[0] for phrase in terms.phrases if phrase.exact == exact} & self._numbers[exact].keys()
        wanted = np.zeros(kinds, bool)
        wanted[[self._numbers[exact][word] for word in heads]] = True
        at = np.flatnonzero(wanted[self._ids[exact]])
        at = at[np.argsort(self._ids[exact][at], kind="stable")]
        numbers, starts = np.unique(self._ids[exact][at], return_index=True)
        return dict(zip(numbers.tolist(), np.split(at, starts[1:]), strict=False))

    def of(self, phrase: Sequence[str], exact: bool) -> I64:
        numbers = [self._numbers[exact].get(word) for word in phrase]
        if None in numbers:
            return np.zeros(0, np.int64)
        at, ids = self._first[exact][numbers[0]], self._ids[exact]  # type: ignore[index]
        for offset, number in enumerate(numbers[1:], 1):
            at = at[at + offset < len(ids)]
            at = at[(ids[at + offset] == number) & (self.texts[at + offset] == self.texts[at])]
        return at


def _beside(words: _Words, mentions: Sequence[_Mentions], terms: Terms, window: int) -> tuple[pa.Table, pa.Table]:
    """The tables `groups` and `beside`. A word that stands beside two mentions of a group counts once for it."""
    kinds = words.kinds
    telling = pc.and_(pc.utf8_is_alpha(kinds), pc.greater_equal(pc.utf8_length(kinds), LEAST_LETTERS)).to_numpy(zero_copy_only=False)
    content = (telling & ~words.among(sorted(terms.skip)))[words.lower]
    for mention in mentions:
        for offset in range(int(mention.length.max(initial=0))):
            content[mention.at[mention.length > offset] + offset] = False
    at = np.concatenate([mention.at for mention in mentions])
    group = np.concatenate([mention.group for mention in mentions])
    total, text = max(1, len(words.lower)), words.texts[at]
    near = at[:, None] + np.array([step for step in range(-window, window + 1) if step])  # (mentions, 2 * window)
    inside = (near >= words.parts.bounds[text][:, None]) & (near < words.parts.bounds[text + 1][:, None])
    inside &= content[np.clip(near, 0, total - 1)] if len(content) else False
    pairs = np.unique((group[:, None] * total + near)[inside])
    group_of, place = pairs // total, pairs % total
    count = len(terms.groups)
    known, which = np.unique(text * count + group, return_inverse=True)
    own = np.searchsorted(known, words.texts[place] * count + group_of)
    valence = _valences(words)[words.lower[place]]
    valued = ~np.isnan(valence)

    def sums(weights: F64) -> F64:
        return np.bincount(own, weights=weights, minlength=len(known)).astype(np.float64)

    groups = pa.table(
        {
            "row": known // count,
            "group": known % count,
            "mentions": np.bincount(which, minlength=len(known)).astype(np.int64),
            "beside": np.bincount(own, minlength=len(known)).astype(np.int64),
            "valenced": sums(valued.astype(np.float64)).astype(np.int64),
            "valence": sums(np.where(valued, valence, 0.0)),
        }
    )
    keys, counts = np.unique(own * max(1, len(kinds)) + words.lower[place], return_counts=True)
    own, kind = keys // max(1, len(kinds)), keys % max(1, len(kinds))
    word = kinds.take(pa.array(kind)).cast(pa.string())
    return groups, pa.table({"row": known[own] // count, "group": known[own] % count, "word": word, "count": counts.astype(np.int64)})


def _valences(words: _Words) -> F64:
    """The valence of each kind, nan where it has none: (kinds,)."""
    known = lexicons.valences()
    if known is None:
        return np.full(len(words.kinds), np.nan)
    places = pc.index_in(words.kinds, value_set=pa.array(list(known), words.kinds.type))
    return pa.array(list(known.values()), pa.float64()).take(places).to_numpy(zero_copy_only=False)


def _years(words: _Words) -> pa.Table:
    """Years that texts name, by decade: numbers from 1500 to 2099 that stand alone."""
    years = pc.match_substring_regex(words.kinds, YEAR).to_numpy(zero_copy_only=False)
    at = np.flatnonzero(years[words.lower])
    value = np.array([int(kind) if year else 0 for kind, year in zip(words.kinds.to_pylist(), years, strict=True)], np.int64)
    keys, counts = np.unique(words.texts[at] * 10_000 + value[words.lower[at]] // 10 * 10, return_counts=True)
    return pa.table({"row": keys // 10_000, "decade": keys % 10_000, "count": counts.astype(np.int64)})
