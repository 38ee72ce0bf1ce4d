"""The order of training data, as arithmetic: which row of which component is sample number `i`.

Nothing here has state. A mixture is cut into blocks, each of which holds a known number of rows of each component, in an order that is a
keyed permutation of the block; within a component, each epoch visits every row once in an order that is a keyed permutation of the
component, so a fraction of an epoch is the beginning of one. Any sample is found in constant time, so resuming, another number of workers
or a skipped range are integers. The permutations are Feistel networks: a linear congruential shuffle is known to shift the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from openbook.errors import InputError, OpenbookError

U64 = npt.NDArray[np.uint64]
ROUNDS = 6
LARGEST_BLOCK, SMALLEST_BLOCK, BLOCKS = 512, 16, 16
"""Samples in a block of the mixture, over which shares are exact; a small corpus has smaller blocks, so that it has a few of them."""


def key(*parts: object) -> int:
    """A 64-bit key for a purpose."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:8], "little")


def _mix(x: U64) -> U64:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: npt.ArrayLike, size: int, seed: int) -> npt.NDArray[np.int64]:
    """The places of `index` (each in [0, size)) under a permutation of [0, size) chosen by `seed`.

    A balanced Feistel network over the next even power of two, walked along its cycle until it lands inside (Black and Rogaway 2002).
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    value = np.atleast_1d(np.asarray(index)).astype(np.uint64)
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        left, right = value[outside] >> shift, value[outside] & mask
        for number in range(ROUNDS):
            salt = np.uint64((seed + (number + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
            left, right = right, left ^ (_mix(right ^ salt) & mask)
        value[outside] = (left << shift) | right
        outside = value >= np.uint64(size)
    return value.astype(np.int64)


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to the weights that add up to `total` exactly (Hamilton's method)."""
    exact = [weight / sum(weights) * total for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def block_size(samples: int) -> int:
    """A power of two that divides the samples at hand into some BLOCKS blocks or more, within bounds."""
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, 1 << max(samples // BLOCKS, 1).bit_length() - 1))


def webster(targets: Sequence[int], count: int) -> list[int]:
    """How often each is drawn among the first `count` of sum(targets) draws that come as evenly as can be; every count to its target.

    Webster's divisor method: draw number k (from 0) of a target t is due at (2k + 1) / 2t, so counts never fall as `count` grows.
    """
    total = sum(targets)
    counts = [(2 * target * count + total) // (2 * total) for target in targets]
    while sum(counts) > count:
        late = max((i for i, c in enumerate(counts) if c), key=lambda i: (Fraction(2 * counts[i] - 1, targets[i]), i))
        counts[late] -= 1
    while sum(counts) < count:
        early = min(range(len(counts)), key=lambda i: (Fraction(2 * counts[i] + 1, targets[i]), i))
        counts[early] += 1
    return counts


class Plan(Protocol):
    """How many rows of which component are in which block."""

    names: list[str]
    rows: list[int]
    """There are so many of each component."""

    @property
    def samples(self) -> int:
        """How many samples a training may read."""

    @property
    def limit(self) -> str:
        """Why there are no more, and what to do, for people."""

    def find(self, sample: int) -> tuple[int, int]:
        """The block of a sample, and its place there."""

    def draws(self, block: int) -> tuple[Sequence[int], Sequence[int]]:
        """Rows of each component in a block, and in all before it. Raises UsedUp beyond the last."""


@dataclass(frozen=True)
class Span:
    """A stretch of blocks with the same quotas: it ends where a component has been seen as often as it may be."""

    first_block: int
    blocks: int
    quotas: tuple[int, ...]
    drawn: tuple[int, ...]
    """Rows of each component drawn before this span."""


class UsedUp(OpenbookError):
    """There are no more rows: data that were skipped have to be made up for by others."""


class Mixture:
    """A plan by weights: every block holds the same number of rows of each component (largest remainder), under each one's cap on epochs;
    how long a training is does not matter to it. A block is as large as it takes to have a place for every component, within bounds."""

    def __init__(self, rows: Mapping[str, int], weights: Mapping[str, float], max_epochs: Mapping[str, float]) -> None:
        self.names = [name for name, count in rows.items() if count > 0]
        self.rows = [rows[name] for name in self.names]
        self.spans = self._plan([weights[name] for name in self.names], [max_epochs[name] for name in self.names])
        self.blocks = sum(span.blocks for span in self.spans)

    def _plan(self, weights: list[float], max_epochs: list[float]) -> list[Span]:
        limits = [int(cap * rows) for cap, rows in zip(max_epochs, self.rows, strict=True)]
        self.block = block_size(sum(limits))
        while not all(largest_remainder(weights, self.block)) and self.block < min(LARGEST_BLOCK * 8, sum(limits) // BLOCKS):
            self.block *= 2
        drawn = [0] * len(limits)
        left = list(range(len(limits)))
        spans: list[Span] = []
        block = 0
        while left:
            quotas = [0] * len(limits)
            for index, quota in zip(left, largest_remainder([weights[i] for i in left], self.block), strict=True):
                quotas[index] = quota
            blocks = min((limits[i] - drawn[i]) // quotas[i] for i in left if quotas[i])
            if blocks:
                spans.append(Span(block, blocks, tuple(quotas), tuple(drawn)))
                block += blocks
                drawn = [count + blocks * quota for count, quota in zip(drawn, quotas, strict=True)]
            left = [i for i in left if not quotas[i] or limits[i] - drawn[i] >= quotas[i]]
        return spans

    @property
    def samples(self) -> int:
        """How many samples there are before every component has reached its cap."""
        return self.blocks * self.block

    @property
    def limit(self) -> str:
        return f"the corpus holds {self.samples:,} under its caps on epochs; use fewer steps, more text or a higher max_epochs"

    def find(self, sample: int) -> tuple[int, int]:
        return divmod(sample, self.block)

    def draws(self, block: int) -> tuple[Sequence[int], Sequence[int]]:
        for span in self.spans:
            if block < span.first_block + span.blocks:
                before = block - span.first_block
                return span.quotas, [drawn + before * quota for drawn, quota in zip(span.drawn, span.quotas, strict=True)]
        raise UsedUp(
            f"the corpus is used up: its {self.samples:,} rows under the caps on epochs are all read or skipped; "
            "a new run needs fewer steps, more text or a higher max_epochs"
        )


class Targets:
    """A plan by whole numbers: so many rows of each component, spread evenly. Then they come round again, though only to make up for data
    that were skipped."""

    def __init__(self, rows: Mapping[str, int], targets: Mapping[str, int]) -> None:
        self.names = [name for name, target in targets.items() if target and rows[name]]
        self.rows = [rows[name] for name in self.names]
        self.targets = [targets[name] for name in self.names]
        self.samples = sum(self.targets)
        self.block = block_size(self.samples)
        self._blocks = -(-self.samples // self.block)

    @property
    def limit(self) -> str:
        return f"the mixture asks for {self.samples:,} in all; use fewer steps, or more tokens or epochs of its components"

    def find(self, sample: int) -> tuple[int, int]:
        again, sample = divmod(sample, self.samples)
        block, place = divmod(sample, self.block)
        return again * self._blocks + block, place

    def draws(self, block: int) -> tuple[Sequence[int], Sequence[int]]:
        again, block = divmod(block, self._blocks)
        before = webster(self.targets, block * self.block)
        after = webster(self.targets, min((block + 1) * self.block, self.samples))
        quotas = [stop - start for start, stop in zip(before, after, strict=True)]
        return quotas, [again * target + start for target, start in zip(self.targets, before, strict=True)]


class Order:
    """Sample number to (component, row), a pure function of the seed and the mixture."""

    def __init__(self, mixture: Plan, seed: int) -> None:
        self.mixture, self.seed = mixture, seed
        self._known: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def require(self, samples: int) -> None:
        """Raises InputError if the mixture holds fewer samples than a run needs."""
        if samples > self.mixture.samples:
            raise InputError(f"training needs {samples:,} rows, but {self.mixture.limit}")

    def locate(self, sample: int) -> tuple[str, int]:
        """The component's name and the row in it. Raises UsedUp beyond the mixture."""
        block, place = self.mixture.find(sample)
        if self._known is None or self._known[0] != block:
            self._known = (block, *self._locate_block(block))
        _, components, rows = self._known
        return self.mixture.names[components[place]], int(rows[place])

    def drawn(self, samples: int) -> dict[str, int]:
        """How many of the first `samples` samples are rows of each component."""
        block, place = self.mixture.find(samples)
        counts = np.zeros(len(self.mixture.names), np.int64)
        if place:
            counts += np.bincount(self._locate_block(block)[0][:place], minlength=len(counts))
        if block:
            quotas, before = self.mixture.draws(block - 1)
            counts += np.asarray(quotas) + np.asarray(before)
        return dict(zip(self.mixture.names, counts.tolist(), strict=True))

    def _locate_block(self, block: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Component and row of every sample of a block: hardly more work than for one of them."""
        quotas, before = self.mixture.draws(block)
        size = sum(quotas)
        slots = permute(np.arange(size), size, key(self.seed, "block", block))
        ends = np.cumsum(quotas)
        components = np.searchsorted(ends, slots, side="right").astype(np.int64)
        rows = np.empty(size, dtype=np.int64)
        for component, (name, count, quota) in enumerate(zip(self.mixture.names, self.mixture.rows, quotas, strict=True)):
            first = before[component]
            draws = first + slots - (ends[component] - quota)
            for epoch in range(first // count, (first + quota - 1) // count + 1):
                mine = (components == component) & (draws // count == epoch)
                rows[mine] = permute(draws[mine] % count, count, key(self.seed, "epoch", name, epoch))
        return components, rows
