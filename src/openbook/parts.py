"""Texts taken apart: every step that looks at words or lines shares one list of them, in which each different one stands once.

What can be said of a word alone (its length, whether it has a letter) is computed for the different ones only, and with numpy: on
English text one word in thirteen is new.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LETTERS = re.compile(r"[^\W_]+")
PARAGRAPH_END = re.compile(r"\n{2,}")
LINE_END = re.compile(r"\n+")


@dataclass(frozen=True)
class Parts:
    """The parts of a batch of texts: `ids` (parts,) numbers them into `kinds`; those of text i lie between bounds[i] and bounds[i + 1]."""

    ids: I64
    kinds: pa.StringArray
    bounds: I64

    @classmethod
    def of(cls, parts: Sequence[Sequence[str]]) -> Parts:
        coded = pa.array(list(chain.from_iterable(parts)), pa.large_string()).dictionary_encode()
        bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum([len(part) for part in parts], dtype=np.int64)))
        return cls(coded.indices.to_numpy().astype(np.int64), coded.dictionary, bounds)

    @cached_property
    def counts(self) -> I64:
        """(texts,)"""
        return np.diff(self.bounds)

    @cached_property
    def texts(self) -> I64:
        """The text that each part belongs to: (parts,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def lengths(self) -> I64:
        """Characters of each part: (parts,)."""
        return pc.utf8_length(self.kinds).to_numpy(zero_copy_only=False).astype(np.int64)[self.ids]

    def matching(self, pattern: str) -> Bools:
        """Whether an RE2 pattern is found in each part: (parts,)."""
        return pc.match_substring_regex(self.kinds, pattern).to_numpy(zero_copy_only=False)[self.ids]

    def total(self, values: npt.NDArray[np.generic]) -> F64:
        """The sum of values of parts by text: (parts,) -> (texts,)."""
        return np.bincount(self.texts, weights=values, minlength=len(self.counts)).astype(np.float64)

    @cached_property
    def repeated(self) -> Bools:
        """Whether the same part stood earlier in the same text: (parts,)."""
        keys = self.texts * (len(self.kinds) + 1) + self.ids
        again = np.ones(len(keys), dtype=bool)
        again[np.unique(keys, return_index=True)[1]] = False
        return again

    def hashes(self, fold: bool = False) -> U64:
        """64 bits of BLAKE2b of each part: (parts,). `fold` takes no notice of case and of punctuation around a word."""
        words = self.kinds.to_pylist()
        if fold:
            words = [word.lower().strip(AROUND) or word for word in words]
        digests = b"".join(hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
        return np.frombuffer(digests, "<u8")[self.ids]


AROUND = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~“”‘’„«»…–—"


class Batch:
    """Some texts, and what several steps want to know of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._words: dict[str, Parts] = {}

    def words(self, segmenter: str) -> Parts:
        if segmenter not in self._words:
            split = str.split if segmenter == "whitespace" else LETTERS.findall
            self._words[segmenter] = Parts.of([split(text) for text in self.texts])
        return self._words[segmenter]

    @cached_property
    def lines(self) -> Parts:
        """Between runs of line ends, as Gopher's rules want them."""
        return Parts.of([LINE_END.split(text) for text in self.texts])

    @cached_property
    def characters(self) -> I64:
        """(texts,), at least 1."""
        return np.array([max(1, len(text)) for text in self.texts])


def rolling(hashes: U64, length: int) -> U64:
    """One hash for each run of `length` parts, by its first part: (parts,) -> (parts - length + 1,)."""
    runs = max(0, len(hashes) - length + 1)
    total = np.zeros(runs, np.uint64)
    for place in range(length):
        total = total * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + runs]
    return mixed(total)


def mixed(values: U64) -> U64:
    """Spreads every bit over all others (the end of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def whole_runs(parts: Parts, length: int) -> I64:
    """Places at which a run of `length` parts begins that lies in one text: ascending."""
    stops = np.repeat(parts.bounds[1:], parts.counts)
    return np.flatnonzero(np.arange(len(parts.ids)) + length <= stops)
