"""Which items share a run of words with the training text: GPT-3's split into clean and dirty (Brown et al. 2020, appendix C).

A word is a run of letters and digits in lower case. The run's length is, for each task, the fifth percentile of its items' words, at least
8 and at most 13. A run that stands in more than ten documents is a commonplace and no leak. An item without any such run can be
neither clean nor dirty. The index holds the items' runs alone; the corpus is read a row group at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openbook.documents import read_documents
from openbook.errors import InputError
from openbook.parts import LETTERS, U64, Parts, rolling, whole_runs
from openbook.progress import track
from openbook.run import Run

SHORTEST, LONGEST, PERCENTILE = 8, 13, 5
COMMON = 10
"""Documents; in more of them, a run is a commonplace."""
BATCH = 1 << 22
"""Characters of documents that are looked at together."""


@dataclass(frozen=True)
class Overlap:
    """Numbers of items (from 1). ngram: words in a run. short: items without a run."""

    ngram: int
    dirty: frozenset[int]
    short: frozenset[int]

    def parts(self) -> dict[str, Any]:
        return {"ngram": self.ngram, "dirty_items": sorted(self.dirty), "short_items": sorted(self.short)}


def strings(value: Any) -> Iterator[str]:
    """Every text in an item's fields, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from strings(inner)


def corpus_files(run: Path) -> list[Path]:
    """The training documents of a run. Raises InputError if it has none."""
    opened = Run(run)
    if opened.imported or opened.stage_record("corpus") is None:
        raise InputError(f"{run}: its corpus is not known, so nobody can say which items were in it; leave --contamination out")
    return [opened.verified("corpus", f"corpus/{name}/train.parquet") for name in opened.recipe.corpus.components]


def overlaps(tasks: Mapping[str, Sequence[Mapping[str, Any]]], files: Sequence[Path]) -> dict[str, Overlap]:
    """Of each task's items those that overlap with the documents in `files`."""
    indices = {name: _Index(items) for name, items in tasks.items()}
    lengths = {index.ngram for index in indices.values()}
    with track("evaluate: overlap with the corpus", len(files)) as bar:
        for number, file in enumerate(files):
            bar.update(number, file.parent.name)
            for texts in _batches(file):
                words = Parts.of([LETTERS.findall(text) for text in texts])
                hashes = words.hashes(fold=True)
                for length in lengths:
                    places = whole_runs(words, length)
                    runs = rolling(hashes, length)[places] if len(places) else np.empty(0, np.uint64)
                    for index in indices.values():
                        if index.ngram == length:
                            index.look(runs, words.texts[places])
    return {name: index.overlap() for name, index in indices.items()}


def _batches(file: Path) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for document in read_documents(file):
        texts.append(document.text)
        size += len(document.text)
        if size > BATCH:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


class _Index:
    """The runs of a task's items, ascending, and in how many documents each stands."""

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        found = [list(strings(item)) for item in items]
        words = Parts.of([LETTERS.findall(text) for item in found for text in item])
        item_of = np.repeat(np.arange(len(found)), [len(item) for item in found])  # (texts,)
        sizes = np.bincount(item_of, weights=words.counts, minlength=len(found))  # (items,)
        self.items, self.ngram = len(found), int(np.clip(np.percentile(sizes, PERCENTILE), SHORTEST, LONGEST))
        places = whole_runs(words, self.ngram)
        own = rolling(words.hashes(fold=True), self.ngram)[places] if len(places) else np.empty(0, np.uint64)
        self.owners = item_of[words.texts[places]]
        self.runs, self.run_of = np.unique(own, return_inverse=True)
        self.documents = np.zeros(len(self.runs), np.int64)

    def look(self, runs: U64, texts: Any) -> None:
        """Counts a batch's documents, each once for a run."""
        at = np.searchsorted(self.runs, runs)
        at[at == len(self.runs)] = 0
        hits = np.flatnonzero(self.runs[at] == runs) if len(self.runs) else np.empty(0, np.int64)
        pairs = np.unique(np.stack([at[hits], texts[hits]], 1), axis=0)
        self.documents += np.bincount(pairs[:, 0], minlength=len(self.runs))

    def overlap(self) -> Overlap:
        leaked = (self.documents > 0) & (self.documents <= COMMON)
        dirty = np.unique(self.owners[leaked[self.run_of]]) + 1
        short = np.setdiff1d(np.arange(self.items), self.owners) + 1
        return Overlap(self.ngram, frozenset(dirty.tolist()), frozenset(short.tolist()))
