"""Sums over microbatches that do not depend on who computed them.

Floating-point addition is not associative, so the order of a sum is part of its result. Here the order is one binary tree over the
microbatch index, whatever computes the leaves: that is what lets any number of workers give the same bits. A worker folds its own
range of leaves into the tree's nodes that lie whole inside the range; the nodes of all workers, folded again, give the root. A clip
norm is summed in integers, which are associative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

Gradients = dict[str, Tensor]
FRACTION_BITS = 36
"""Bits below the largest row's sum of squares that enter the norm: 2^26 rows fit in 63 bits."""
HALF = 2**32


class Gather(Protocol):
    """Everybody's numbers by rank, once everybody has come here. Whole numbers stay whole up to 2^53."""

    def __call__(self, *numbers: float) -> list[tuple[float, ...]]: ...


def alone(*numbers: float) -> list[tuple[float, ...]]:
    """What is gathered where there is nobody else."""
    return [numbers]


class Place(NamedTuple):
    """A node of the tree: `level` 0 are the leaves, and `position` counts from the left within a level."""

    level: int
    position: int

    @property
    def parent(self) -> Place:
        return Place(self.level + 1, self.position // 2)


def share(microbatches: int, rank: int, world: int) -> range:
    """The microbatches that one of `world` workers computes: contiguous, and the same number for all or one more."""
    return range(rank * microbatches // world, (rank + 1) * microbatches // world)


def nodes(leaves: range) -> list[Place]:
    """The places to which a TreeSum folds a range of leaves: the fewest nodes that cover it, from left to right."""
    found: list[Place] = []
    start = leaves.start
    while start < leaves.stop:
        level = (start & -start).bit_length() - 1 if start else leaves.stop.bit_length()
        while start + (1 << level) > leaves.stop:
            level -= 1
        found.append(Place(level, start >> level))
        start += 1 << level
    return found


class TreeSum:
    """A binary counter of partial sums: nodes come from left to right, and two children of one parent merge at once.

    Holds at most log2(leaves) + 1 partial sums where the leaves begin at 0. What is added is consumed: its tensors are overwritten.
    """

    def __init__(self) -> None:
        self.partial: list[tuple[Place, Gradients]] = []

    def add(self, place: Place, value: Gradients) -> None:
        while self.partial and self.partial[-1][0].level == place.level and self.partial[-1][0].parent == place.parent:
            _, left = self.partial.pop()
            torch._foreach_add_(list(left.values()), [value[name] for name in left])
            place, value = place.parent, left
        self.partial.append((place, value))

    def total(self) -> Gradients:
        """The root. Raises ValueError if the leaves were not 0 to a power of two."""
        if len(self.partial) != 1 or self.partial[0][0].position:
            raise ValueError("the number of microbatches should be a power of two")
        return self.partial[0][1]


def exact_norm(gradients: Iterable[Tensor], gather: Gather = alone) -> float:
    """The Euclidean norm of all gradients together, the same for any sharding by rows; inf or nan if any value is.

    Each row's squares are summed in float64 (an element of a vector is a row); the rows are summed as fixed-point integers scaled by
    the largest row's exponent. `gather` collects numbers from all who hold parts of the gradients.
    """
    rows = [_row_sums(gradient) for gradient in gradients if gradient.numel()]
    largest = torch.stack([row.max() for row in rows]).max().item() if rows else 0.0  # nan if any is
    tops = [top for (top,) in gather(largest)]
    if not all(map(math.isfinite, tops)):
        return math.nan
    if max(tops) == 0.0:
        return 0.0
    exponent = math.frexp(max(tops))[1]
    scale = 2.0 ** (FRACTION_BITS - exponent)
    total = sum((row * scale).to(torch.int64).sum() for row in rows)
    halves = gather(*divmod(int(total), HALF))  # a number that is gathered is exact up to 2^53
    return math.sqrt(sum(int(high) * HALF + int(low) for high, low in halves) / scale)


def _row_sums(gradient: Tensor) -> Tensor:
    if gradient.dim() == 1:
        return gradient.double().square()
    if gradient.shape[0] == 1:  # torch would cut a sum with one result into a piece for each thread
        gradient = pad(gradient, (0, 0, 0, 1))
    # Three times as fast as a sum of squares: nothing is stored in float64.
    return torch.linalg.vector_norm(gradient, dim=-1, dtype=torch.float64).square().flatten()
