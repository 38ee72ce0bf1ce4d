"""Sums over microbatches that do not depend on who computed them.

Floating-point addition is not associative, so the order of a sum is part of its result. Here the order is one binary tree over the
microbatch index, whatever computes the leaves: that is what will let any number of workers give the same bits. A clip norm is summed
in integers, which are associative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

Gradients = dict[str, Tensor]
FRACTION_BITS = 40
"""Bits below the largest row's sum of squares that enter the norm: 2^22 rows fit in 63 bits."""


class TreeSum:
    """A binary counter of partial sums: leaves come in index order, and two neighbours of equal size merge at once.

    Holds at most log2(leaves) + 1 partial sums. Leaves are consumed: their tensors are overwritten.
    """

    def __init__(self) -> None:
        self._partial: list[tuple[int, Gradients]] = []

    def add(self, leaf: Gradients) -> None:
        size = 1
        while self._partial and self._partial[-1][0] == size:
            _, left = self._partial.pop()
            torch._foreach_add_(list(left.values()), [leaf[name] for name in left])
            leaf, size = left, size * 2
        self._partial.append((size, leaf))

    def total(self) -> Gradients:
        """The root. Raises ValueError if the number of leaves was no power of two."""
        if len(self._partial) != 1:
            raise ValueError("the number of microbatches should be a power of two")
        return self._partial[0][1]


def exact_norm(gradients: Iterable[Tensor]) -> float:
    """The Euclidean norm of all gradients together, the same for any sharding by rows; inf or nan if any value is.

    Each row's squares are summed in float64; the rows are summed as fixed-point integers scaled by the largest row's exponent.
    """
    rows = [gradient.double().square().sum(-1).flatten() for gradient in gradients]
    largest = max(float(row.max()) for row in rows)
    if not math.isfinite(largest) or any(bool(row.isnan().any()) for row in rows):
        return math.nan
    if largest == 0.0:
        return 0.0
    exponent = math.frexp(largest)[1]
    scale = 2.0 ** (FRACTION_BITS - exponent)
    total = sum(int((row * scale).to(torch.int64).sum()) for row in rows)
    return math.sqrt(total / scale)
