"""A byte n-gram model, counted on the training text: what a document costs to a model that has only counted.

Contexts of 0 … `order` preceding bytes are interpolated by the method of Witten and Bell (1991, method C; Chen and Goodman 1998,
section 2.4):

    P_k(b | c) = (count(c, b) + kinds(c) * P_{k-1}(b | shorter c)) / (count(c) + kinds(c)),    P_{-1}(b) = 1/256

where `kinds(c)` is how many different bytes were seen after c. At the beginning of a document only its own bytes are context.

A gram of k + 1 bytes is packed into an unsigned 64-bit integer, its last byte lowest, so that sorted grams keep the followers of a
context side by side, and whatever the formula needs is a difference between two places of a sorted array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

ORDER = 5
BATCH_BYTES = 8_000_000
"""Bytes looked at together; bounds the memory beside the counts."""
LAST_BYTE = np.uint64(255)


@dataclass(frozen=True)
class Counts:
    """Grams of one length, in ascending order, and how many occurrences lie before each: (grams,) and (grams + 1,)."""

    grams: U64
    before: I64

    @classmethod
    def of(cls, grams: U64, counts: I64) -> Counts:
        return cls(grams, np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))))

    def interpolate(self, grams: U64, shorter: F64) -> F64:
        """P_k of the last byte of each gram, from P_{k-1} of the same bytes: (positions,) -> (positions,)."""
        asked, back = np.unique(grams, return_inverse=True)  # ascending look-ups stay in the processor's cache
        first = np.searchsorted(self.grams, asked & ~LAST_BYTE)
        stop = np.searchsorted(self.grams, asked | LAST_BYTE, side="right")
        here = self.before[np.searchsorted(self.grams, asked, side="right")] - self.before[np.searchsorted(self.grams, asked)]
        kinds = stop - first
        seen = self.before[stop] - self.before[first]
        unknown = kinds == 0  # a context never seen leaves the word to the shorter one: (0 + 1 * P_{k-1}) / (0 + 1)
        kinds[unknown] = 1
        return (here[back] + kinds[back] * shorter) / (seen + kinds)[back]


class NGram:
    """Byte counts as a scorer; `tables[k]` holds the grams of k + 1 bytes."""

    def __init__(self, tables: Sequence[Counts]) -> None:
        self.tables = tables

    @classmethod
    def train(cls, documents: Iterable[bytes], order: int = ORDER) -> NGram:
        """Counts documents, which need not fit into memory together; their order does not matter. `order` is at most 7.

        Only the longest grams are counted in the text. Those one byte shorter are the same ones without their first byte, and the
        one more that each document begins with.
        """
        grams, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        beginnings: list[list[U64]] = [[np.empty(0, np.uint64)] for _ in range(order)]
        for batch in _batches(documents):
            packed, available = _pack(batch, order)
            for length in range(order):
                beginnings[length].append(packed[available == length] & _mask(length))
            found, times = np.unique(packed[available == order], return_counts=True)
            grams, counts = _merge(np.concatenate((grams, found)), np.concatenate((counts, times)))
        tables = [Counts.of(grams, counts)]
        for length in reversed(range(order)):
            extra = np.concatenate(beginnings[length])
            ones = np.ones(len(extra), np.int64)
            grams, counts = _merge(np.concatenate((grams & _mask(length), extra)), np.concatenate((counts, ones)))
            tables.insert(0, Counts.of(grams, counts))
        return cls(tables)

    def bits(self, documents: Sequence[bytes]) -> list[float]:
        return [bits for batch in _batches(documents) for bits in self._batch_bits(batch)]

    def _batch_bits(self, documents: Sequence[bytes]) -> list[float]:
        packed, available = _pack(documents, len(self.tables) - 1)
        probability = np.full(len(packed), 1 / 256)
        for length, table in enumerate(self.tables):
            reach = available >= length
            probability[reach] = table.interpolate(packed[reach] & _mask(length), probability[reach])
        ends = np.cumsum([len(document) for document in documents])
        return [float(part.sum()) for part in np.split(-np.log2(probability), ends[:-1])]


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Whole documents, about BATCH_BYTES at a time."""
    batch: list[bytes] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _mask(length: int) -> np.uint64:
    """Keeps the last `length` + 1 bytes of a packed gram."""
    return np.uint64((1 << 8 * (length + 1)) - 1)


def _pack(documents: Sequence[bytes], order: int) -> tuple[U64, I64]:
    """For each byte the gram that ends there, and how many of the `order` bytes before it are of its own document: (bytes,) each."""
    text = np.frombuffer(b"".join(documents), np.uint8)
    packed = text.astype(np.uint64)
    for back in range(1, min(order + 1, len(text))):
        packed[back:] |= text[:-back].astype(np.uint64) << np.uint64(8 * back)
    sizes = np.array([len(document) for document in documents])
    starts = np.cumsum(sizes) - sizes
    return packed, np.minimum(np.arange(len(text)) - np.repeat(starts, sizes), order)


def _merge(grams: U64, counts: I64) -> tuple[U64, I64]:
    """Each gram once, in ascending order, with the sum of its counts. The input is made of a few ascending runs, which a stable sort
    merges rather than sorts."""
    order = np.argsort(grams, kind="stable")
    grams = grams[order]
    new = np.ones(len(grams), dtype=bool)
    new[1:] = grams[1:] != grams[:-1]
    first = np.flatnonzero(new)
    return grams[first], np.add.reduceat(counts[order], first)
