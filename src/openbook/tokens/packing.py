"""Which tokens of a shard make a training row: `context + 1` of them, the first of which is read and not predicted.

A row is a list of pieces. A piece is a stretch of the shard that is predicted, and what is read before its first token is the token before
it: the end-of-document token where it begins a document, as when the model is used. `stream` takes the shard as one stream. `best-fit`
cuts only documents that are longer than a row, and packs what is left and the short ones by best-fit decreasing (Ding et al. 2024, "Fewer
Truncations Improve Language Modeling"); they pad rows that do not fill up, here the emptiest rows are cut up to fill them, so that no token
is lost but a row's worth at the end, and none is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Piece = tuple[int, int]
"""First position in the shard, and length."""


class Packing(Protocol):
    def __len__(self) -> int:
        """Rows."""

    def pieces(self, row: int) -> Sequence[Piece]:
        """Whose lengths add up to the context."""


class Stream:
    """Row after row of one stream."""

    def __init__(self, tokens: int, context: int) -> None:
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return max(0, (self.tokens - 1) // self.context)

    def pieces(self, row: int) -> Sequence[Piece]:
        return [(row * self.context + 1, self.context)]


class BestFit:
    """ends: of the documents in the shard, rising."""

    def __init__(self, ends: npt.ArrayLike, context: int) -> None:
        stops = np.asarray(ends, dtype=np.int64)
        starts = np.concatenate((np.zeros(1, np.int64), stops[:-1]))
        whole, rest = np.divmod(stops - starts, context)
        long = np.repeat(np.arange(len(stops)), whole)
        number = np.arange(len(long)) - np.repeat(np.cumsum(whole) - whole, whole)
        full = np.stack((starts[long] + number * context, np.full(len(long), context)), 1)
        left = np.flatnonzero(rest)
        left = left[np.argsort(-rest[left], kind="stable")]
        items = np.stack((starts[left] + whole[left] * context, rest[left]), 1)
        bins = _filled(_packed(items.tolist(), context), context)
        packed = np.array([piece for row in bins for piece in row], dtype=np.int64).reshape(-1, 2)
        self._pieces: Ints = np.concatenate((full, packed))
        sizes = np.concatenate((np.ones(len(full), np.int64), np.array([len(row) for row in bins], dtype=np.int64)))
        self._bounds: Ints = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def pieces(self, row: int) -> Sequence[Piece]:
        return [(start, length) for start, length in self._pieces[self._bounds[row] : self._bounds[row + 1]].tolist()]


def _packed(items: Sequence[Piece], context: int) -> list[list[Piece]]:
    """Every item, the longest first, into the row where it leaves the least room, or a new one."""
    rows: list[list[Piece]] = []
    by_room: list[list[int]] = [[] for _ in range(context + 1)]
    rooms = 0  # bit r: there is a row with room for r tokens
    for item in items:
        enough = rooms >> item[1]
        if enough:
            room = item[1] + (enough & -enough).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = context, len(rows)
            rows.append([])
        rows[row].append(item)
        by_room[room - item[1]].append(row)
        rooms |= 1 << (room - item[1])
    return rows


def _filled(rows: list[list[Piece]], context: int) -> list[list[Piece]]:
    """Full rows: the pieces of the emptiest go where there is room, cut to fit. What fills a row comes last in it."""
    rooms = [context - sum(length for _, length in row) for row in rows]
    wanting = sorted((row for row, room in enumerate(rooms) if room), key=lambda row: (rooms[row], row))
    first, last = 0, len(wanting)
    while first < last:
        last -= 1
        for start, length in rows[wanting[last]]:
            while length and first < last:
                row = wanting[first]
                taken = min(length, rooms[row])
                rows[row].append((start, taken))
                rooms[row] -= taken
                start, length = start + taken, length - taken
                first += rooms[row] == 0
    gone = set(wanting[last:])
    return [row for number, row in enumerate(rows) if number not in gone]


def tokens_of(tokens: npt.NDArray[np.integer], pieces: Sequence[Piece]) -> Ints:
    """(context + 1) ids. tokens: the whole shard, which ends with the end-of-document token, as before its first document."""
    parts = [tokens[start : start + length] for start, length in pieces]
    return np.concatenate((tokens[pieces[0][0] - 1 : pieces[0][0]] if pieces[0][0] else tokens[-1:], *parts)).astype(np.int64)


def segments_of(ends: Ints, pieces: Sequence[Piece]) -> Ints:
    """(context) numbers, 0, 0, … 1, 1 …: which stretch of a document each token that is read belongs to. A document begins with the
    end-of-document token before it, from which its first token is predicted."""
    begins = []
    place = 0
    for start, length in pieces:
        inside = ends[np.searchsorted(ends, start, side="right") : np.searchsorted(ends, start + length)] - start
        begins += [place, *(place + inside).tolist()]
        place += length
    marks = np.zeros(place, np.int64)
    marks[begins[1:]] = 1
    return np.cumsum(marks)
