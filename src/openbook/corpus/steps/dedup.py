"""Deduplication by equality: of whole texts, of lines or paragraphs, of runs of words. In all three the first occurrence stays.

Each has items with 64-bit hashes in its annotation; what stood earlier in the corpus is found by sorting them. A corpus has more items than
memory may hold, so they are sorted in as many passes as it takes, each over its own part of the range of hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openbook.corpus.steps.step import Columns, Joined, Removal, Sketch, Step, Verdict
from openbook.parts import PARAGRAPH_END, U64, Batch, Bools, Parts, rolling, whole_runs
from openbook.recipe_steps import ExactStep, LinesStep, SubstringStep

PASS_ITEMS = 8_000_000
"""Items sorted together: some 300 MB."""


def occurred(sketches: Sequence[Sketch], passes: int) -> list[Bools]:
    """For the items of each shard, in order, whether an equal one that is alive stood earlier in the corpus."""
    again: list[Bools] = [np.zeros(0, bool)] * len(sketches)
    width = np.uint64((2**64 - 1) // passes)
    for number in range(passes):
        places, items = [], [np.empty(0, np.uint64)]
        for index, sketch in enumerate(sketches):
            hashes, alive = _items(sketch)
            if number == 0:
                again[index] = np.zeros(len(hashes), bool)
            wanted = alive & (np.minimum(hashes // width, np.uint64(passes - 1)) == number)
            places.append(np.flatnonzero(wanted))
            items.append(hashes[wanted])
        later = np.ones(sum(map(len, items)), bool)
        later[np.unique(np.concatenate(items), return_index=True)[1]] = False
        start = 0
        for flags, place in zip(again, places, strict=True):
            flags[place] = later[start : start + len(place)]
            start += len(place)
    return again


def _items(sketch: Sketch) -> tuple[U64, Bools]:
    """A shard's items, and whether each one's text is alive."""
    lists = _combined(sketch)
    hashes: U64 = lists.flatten().to_numpy(zero_copy_only=False).astype(np.uint64)
    return hashes, np.repeat(sketch.alive, np.diff(lists.offsets.to_numpy()))


def _combined(sketch: Sketch) -> pa.Array:
    column = sketch.columns.column("items").combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _passes(sketches: Sequence[Sketch]) -> int:
    return 1 + sum(pc.sum(pc.list_value_length(_combined(sketch))).as_py() or 0 for sketch in sketches) // PASS_ITEMS


def _lists(hashes: U64, counts: Any) -> pa.Array:
    """Items as a list for each text."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32()), pa.array(hashes))


def exact_hashes(batch: Batch, _: Columns, __: ExactStep, ___: None) -> Columns:
    digests = (hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=8).digest() for text in batch.texts)
    return {"items": np.frombuffer(b"".join(digests), "<u8")}


def join_exact(sketches: Sequence[Sketch], _: ExactStep, __: None) -> Joined:
    first: dict[int, str] = {}
    verdicts = []
    for sketch in sketches:
        removals = []
        for row, item in enumerate(_combined(sketch).to_pylist()):
            if sketch.alive[row] and first.setdefault(item, sketch.ids[row]) != sketch.ids[row]:
                removals.append(Removal(row, "duplicate", f"same words as document {first[item]}"))
        verdicts.append(Verdict(removals))
    return Joined(verdicts)


def _units(text: str, settings: LinesStep) -> list[str]:
    return text.split("\n") if settings.unit == "line" else PARAGRAPH_END.split(text)


def line_hashes(batch: Batch, _: Columns, settings: LinesStep, __: None) -> Columns:
    long = [[unit.strip() for unit in _units(text, settings) if len(unit.strip()) >= settings.min_chars] for text in batch.texts]
    parts = Parts.of(long)
    return {"items": _lists(parts.hashes(), parts.counts)}


def join_lines(sketches: Sequence[Sketch], _: LinesStep, __: None) -> Joined:
    """The edits of a text are the numbers of its long lines that go."""
    return _join(sketches, lambda flags: np.flatnonzero(flags).tolist())


def without_lines(text: str, edits: list[int], settings: LinesStep) -> list[str]:
    goes, number, kept = set(edits), 0, []
    for unit in _units(text, settings):
        if len(unit.strip()) < settings.min_chars:
            kept.append(unit)
            continue
        if number not in goes:
            kept.append(unit)
        number += 1
    left = ("\n" if settings.unit == "line" else "\n\n").join(kept)
    return [left] if left.strip() else []


def run_hashes(batch: Batch, _: Columns, settings: SubstringStep, __: None) -> Columns:
    words = batch.words("whitespace")
    places = whole_runs(words, settings.words)
    counts = np.maximum(0, words.counts - settings.words + 1)
    return {"items": _lists(rolling(words.hashes(), settings.words)[places], counts)}


def join_runs(sketches: Sequence[Sketch], settings: SubstringStep, _: None) -> Joined:
    """The edits of a text are [first, stop) words that stood earlier, in the corpus or in the same text."""
    return _join(sketches, lambda flags: _spans(flags, settings.words))


def _spans(flags: Bools, length: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for first in np.flatnonzero(flags).tolist():
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], first + length)
        else:
            spans.append((first, first + length))
    return spans


def without_words(text: str, edits: list[list[int]], _: SubstringStep) -> list[str]:
    places = _word_places(text)
    kept, place = [], 0
    for first, stop in edits:
        kept.append(text[place : places[first][0]])
        place = places[stop - 1][1]
    left = "".join((*kept, text[place:]))
    return [left] if left.strip() else []


def _word_places(text: str) -> list[tuple[int, int]]:
    """[start, end) of what `str.split` gives, in characters."""
    places, end = [], 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        places.append((start, end))
    return places


def _join(sketches: Sequence[Sketch], edits_of: Callable[[Bools], Any]) -> Joined:
    flags = occurred(sketches, _passes(sketches))
    verdicts = []
    for sketch, part in zip(sketches, flags, strict=True):
        bounds = _combined(sketch).offsets.to_numpy()
        rows = np.unique(np.searchsorted(bounds, np.flatnonzero(part), side="right") - 1).tolist()
        verdicts.append(Verdict(edits={row: edits_of(part[bounds[row] : bounds[row + 1]]) for row in rows}))
    return Joined(verdicts, {"repeated": int(sum(part.sum() for part in flags)), "items": sum(map(len, flags))})


EXACT = Step("exact", 1, annotate=exact_hashes, join=join_exact)
LINES = Step("lines", 1, annotate=line_hashes, join=join_lines, rewrite=without_lines)
SUBSTRING = Step("substring", 1, annotate=run_hashes, join=join_runs, rewrite=without_words)
