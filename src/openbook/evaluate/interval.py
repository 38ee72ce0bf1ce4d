"""Bits per byte of a set of documents, and other ratios, with an interval over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openbook.model.initialise import generator

RESAMPLES = 1_000
LEVEL = 0.95
ROUNDING = 1e-12
"""Resamples that differ by less than this agree."""


@dataclass(frozen=True)
class Estimate:
    """Bits per byte, and the ends of its 95 % interval; None where there is none, as of one document."""

    bpb: float
    low: float | None
    high: float | None


def bits_per_byte(bits: Sequence[float], sizes: Sequence[int], seed: int) -> Estimate:
    """Total bits over total bytes of documents, with the interval of `ratio`."""
    return Estimate(*ratio(bits, sizes, seed))


def ratio(tops: Sequence[float], bottoms: Sequence[float], seed: int) -> tuple[float, float | None, float | None]:
    """Sum over sum, and the percentile bootstrap interval of that ratio (Efron 1979; Efron and Tibshirani 1993, section 13.3): things are
    drawn with replacement, each with its top and its bottom. Bottoms of 1 give a mean. No interval for one thing.

    The same seed draws the same things, so that two scorers' intervals over the same things are comparable.
    """
    tops_d, bottoms_d = np.asarray(tops, dtype=np.float64), np.asarray(bottoms, dtype=np.float64)  # (things,) each
    value = float(tops_d.sum() / bottoms_d.sum())
    count = len(tops_d)
    if count == 1:
        return value, None, None
    dice = generator(seed, "bootstrap")
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        drawn = dice.integers(0, count, count)
        ratios[index] = tops_d[drawn].sum() / bottoms_d[drawn].sum()
    return value, *ends(ratios)


def ends(drawn: NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
    """Of a statistic's resamples the percentile interval; none where they all agree: a share of 0 or 1, of which the bootstrap would
    wrongly say that it is certain."""
    if not len(drawn) or np.ptp(drawn) <= ROUNDING:
        return None, None
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
