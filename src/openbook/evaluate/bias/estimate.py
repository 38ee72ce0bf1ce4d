"""Figures of an audit with their intervals, by a bootstrap over clusters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from openbook.evaluate.interval import RESAMPLES, ends
from openbook.model.initialise import generator

Sums = NDArray[np.float64]
"""(…, columns): sums over the clusters that were drawn."""
Statistic = Callable[[Sums], Sums]
"""From (…, columns) to (…). Not a number where it is not defined."""
Found = dict[str, float | None]
"""value, and the ends of its 95 % interval: low, high. None where undefined; no interval for one cluster, or where all agree."""


def estimates(parts: Iterable[tuple[Hashable, Sequence[float]]], statistics: Mapping[str, Statistic], seed: int) -> dict[str, Found]:
    """Statistics of summed columns, with percentile intervals: whole clusters are drawn with replacement (Efron and Tibshirani 1993,
    sections 8.4 and 13.3; Field and Welsh 2007), since items that share a template do not vary independently.

    parts: (cluster, columns) of each item. The same seed draws the same clusters for every statistic.
    """
    by_cluster: dict[Hashable, Sums] = {}
    for cluster, columns in parts:
        by_cluster[cluster] = by_cluster.get(cluster, 0.0) + np.asarray(columns, dtype=np.float64)
    if not by_cluster:
        return {name: {"value": None, "low": None, "high": None} for name in statistics}
    sums = np.stack(list(by_cluster.values()))  # (clusters, columns)
    drawn = resampled(len(sums), seed) @ sums  # (resamples, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: found(statistic(sums.sum(0)), statistic(drawn) if len(sums) > 1 else None) for name, statistic in statistics.items()}


def resampled(count: int, seed: int) -> Sums:
    """(resamples, count): how often each of so many clusters is drawn."""
    return generator(seed, "bootstrap").multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)


def found(value: Sums, drawn: Sums | None) -> Found:
    """A value, with the interval that its resamples give where the statistic is defined."""
    known = drawn[np.isfinite(drawn)] if drawn is not None else np.empty(0)
    low, high = ends(known) if np.isfinite(value) else (None, None)
    return {"value": float(value) if np.isfinite(value) else None, "low": low, "high": high}


def share(top: int = 0, bottom: int = 1) -> Statistic:
    """The sum of one column over that of another."""
    return lambda sums: sums[..., top] / sums[..., bottom]


def difference(first: tuple[int, int], second: tuple[int, int]) -> Statistic:
    """Between two shares: the first less the second."""
    return lambda sums: share(*first)(sums) - share(*second)(sums)


def correlation(sums: Sums) -> Sums:
    """Pearson's r from the columns 1, x, y, x², y², xy."""
    n, x, y, xx, yy, xy = (sums[..., column] for column in range(6))
    return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))
