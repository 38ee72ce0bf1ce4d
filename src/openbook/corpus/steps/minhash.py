"""Near-duplicates by MinHash and banding (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3).

A signature has `hashes` places; the share of equal places estimates the Jaccard similarity of two texts' sets of shingles. The places are
parted into bands; texts that agree in a whole band are near-duplicates, and of each cluster of them the first text stays. Two texts of
similarity s are found with probability 1 - (1 - s^rows)^bands: see `found`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from openbook.corpus.steps.step import Columns, Joined, Removal, Sketch, Step, Verdict
from openbook.parts import Batch, Parts, mixed, rolling
from openbook.recipe_steps import MinHashStep

U32 = npt.NDArray[np.uint32]
RECALL = 0.9
BLOCK = 8_000
"""Shingles whose hashes are computed together: bounds memory, stays in the processor's cache."""


def found(similarity: float, bands: int, rows: int) -> float:
    """The probability that two texts are taken for near-duplicates."""
    return 1 - (1 - similarity**rows) ** bands


def banding(hashes: int, threshold: float) -> tuple[int, int]:
    """(bands, rows): as many rows as leave a pair at the threshold a chance of RECALL to be found. More rows mistake fewer pairs."""
    rows = max((rows for rows in range(1, hashes + 1) if found(threshold, hashes // rows, rows) >= RECALL), default=1)
    return hashes // rows, rows


def coefficients(settings: MinHashStep) -> tuple[U32, U32]:
    """Odd multipliers and offsets of the family of hashes: (hashes, 1) each."""
    source = np.random.Generator(np.random.Philox(settings.seed))
    multipliers, offsets = source.integers(0, 2**32, (2, settings.hashes, 1), dtype=np.uint32)
    return multipliers | np.uint32(1), offsets


def shingles(words: Parts, length: int) -> list[U32]:
    """A 32-bit hash for each run of words of each text; a text shorter than that is one shingle."""
    hashes = words.hashes(fold=True)
    cut = [hashes[start:stop] for start, stop in zip(words.bounds[:-1], words.bounds[1:], strict=True)]
    return [(rolling(part, min(length, max(1, len(part)))) >> np.uint64(32)).astype(np.uint32) for part in cut]


def signature(runs: U32, multipliers: U32, offsets: U32) -> U32:
    """(hashes,)"""
    least = np.full(len(multipliers), np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(runs), BLOCK):
        np.minimum(least, (runs[None, start : start + BLOCK] * multipliers + offsets).min(axis=1), out=least)
    return least


def annotate(batch: Batch, _: Columns, settings: MinHashStep, __: None) -> Columns:
    multipliers, offsets = coefficients(settings)
    runs = shingles(batch.words(settings.segmenter), settings.shingle)
    signatures = np.stack([signature(part, multipliers, offsets) for part in runs]) if runs else np.empty((0, settings.hashes), np.uint32)
    return {"signature": pa.FixedSizeListArray.from_arrays(pa.array(signatures.reshape(-1)), settings.hashes)}


def join(sketches: Sequence[Sketch], settings: MinHashStep, _: None) -> Joined:
    """Clusters are what bands connect, however many links away."""
    bands, rows = banding(settings.hashes, settings.threshold)
    alive = np.concatenate([sketch.alive for sketch in sketches]) if sketches else np.empty(0, bool)
    places = np.flatnonzero(alive)
    leader = np.arange(len(alive))
    signatures = [_signatures(sketch, settings.hashes) for sketch in sketches]
    for band in range(bands):
        keys = np.concatenate([_band(part[:, band * rows : (band + 1) * rows]) for part in signatures])[places]
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        for one, other in zip(places[order[same]].tolist(), places[order[same + 1]].tolist(), strict=True):
            _unite(leader, one, other)
    ids = [name for sketch in sketches for name in sketch.ids]
    verdicts, start = [], 0
    for sketch in sketches:
        leaders = [(row, _find(leader, start + row)) for row in np.flatnonzero(sketch.alive).tolist()]
        verdicts.append(
            Verdict([Removal(row, "near-duplicate", f"of document {ids[first]}") for row, first in leaders if first != start + row])
        )
        start += len(sketch.alive)
    return Joined(verdicts, {"bands": bands, "rows": rows, "found_at_threshold": round(found(settings.threshold, bands, rows), 4)})


def _signatures(sketch: Sketch, hashes: int) -> U32:
    """(texts, hashes)"""
    return sketch.columns.column("signature").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, hashes)


def _band(places: U32) -> npt.NDArray[np.uint64]:
    """One hash of a band of each signature: (texts, rows) -> (texts,)."""
    total = np.full(len(places), places.shape[1], np.uint64)
    for column in places.T:
        total = mixed(total * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64))
    return total


def _find(leader: npt.NDArray[np.int64], row: int) -> int:
    while leader[row] != row:
        leader[row] = leader[leader[row]]
        row = int(leader[row])
    return row


def _unite(leader: npt.NDArray[np.int64], one: int, other: int) -> None:
    first, second = sorted((_find(leader, one), _find(leader, other)))
    leader[second] = first


STEP = Step("minhash", 1, annotate=annotate, join=join)
