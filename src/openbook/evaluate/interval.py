"""Bits per byte of a set of documents, with an interval over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openbook.model.initialise import generator

RESAMPLES = 1_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """Bits per byte, and the ends of its 95 % interval; None where there is one document, which says nothing about others."""

    bpb: float
    low: float | None
    high: float | None


def bits_per_byte(bits: Sequence[float], sizes: Sequence[int], seed: int) -> Estimate:
    """Total bits over total bytes of documents, and the percentile bootstrap interval of that ratio (Efron 1979; Efron and Tibshirani
    1993, section 13.3): documents are drawn with replacement, each with its bits and its bytes.

    The same seed draws the same documents, so that two scorers' intervals over the same documents are comparable.
    """
    bits_d, sizes_d = np.asarray(bits, dtype=np.float64), np.asarray(sizes, dtype=np.float64)  # (documents,) each
    value = float(bits_d.sum() / sizes_d.sum())
    count = len(bits_d)
    if count == 1:
        return Estimate(value, None, None)
    dice = generator(seed, "bootstrap")
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        drawn = dice.integers(0, count, count)
        ratios[index] = bits_d[drawn].sum() / sizes_d[drawn].sum()
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
