"""The audit's statistics: every figure an estimate with a 95 % interval, or None where the data say nothing. No division by zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""
FAR = 40.0
"""Standard deviations from the mean beyond which a hypergeometric probability is nothing."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its interval; an end is None where there is none (no upper bound, or one document only)."""

    value: float | None
    low: float | None
    high: float | None

    def rounded(self, digits: int = 4) -> list[float | None]:
        """[value, low, high] to so many significant digits."""
        return [None if number is None else float(f"{number:.{digits}g}") for number in (self.value, self.low, self.high)]


def wilson(hits: int, total: int) -> Estimate | None:
    """A share, with its score interval (Wilson 1927); None of nothing."""
    if total == 0:
        return None
    share, spread = hits / total, Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    reach = Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return Estimate(share, max(0.0, middle - reach) if hits else 0.0, min(1.0, middle + reach) if hits < total else 1.0)


def difference(hits: int, total: int, others: int, of: int) -> Estimate | None:
    """hits / total - others / of, with the interval made of the two Wilson intervals (Newcombe 1998, method 10)."""
    one, two = wilson(hits, total), wilson(others, of)
    if one is None or two is None:
        return None
    p, l1, u1 = (float(end or 0.0) for end in (one.value, one.low, one.high))
    q, l2, u2 = (float(end or 0.0) for end in (two.value, two.low, two.high))
    return Estimate(p - q, p - q - math.hypot(p - l1, u2 - q), p - q + math.hypot(u1 - p, q - l2))


def ratio(hits: int, total: int, others: int, of: int) -> Estimate | None:
    """(hits / total) / (others / of), with the interval of its logarithm, half a case added on both sides (Walter 1975). Without a hit
    it begins at 0; without another one it has no end, and the ratio no value."""
    if total == 0 or of == 0 or hits + others == 0:
        return None
    middle = math.log((hits + 0.5) / (total + 0.5)) - math.log((others + 0.5) / (of + 0.5))
    spread = Z * math.sqrt(max(0.0, 1 / (hits + 0.5) - 1 / (total + 0.5) + 1 / (others + 0.5) - 1 / (of + 0.5)))
    value = (hits / total) / (others / of) if others else None
    low, high = math.exp(middle - spread) if hits else 0.0, math.exp(middle + spread) if others else None
    return Estimate(value, low if value is None else min(low, value), high if high is None or value is None else max(high, value))


def stratified(hits: F64, total: F64, others: F64, of: F64) -> Estimate | None:
    """The difference of two shares among documents of the same stratum: (strata,) each. Mantel and Haenszel's weights, Sato's variance
    (Sato 1989; Klingenberg 2014), which holds for few large strata and for many small ones. None where no stratum has both, or none
    a hit."""
    both = total + of
    use = (total > 0) & (of > 0)
    hits, total, others, of, both = hits[use], total[use], others[use], of[use], both[use]
    if not (hits + others).sum():
        return None
    weight = float((total * of / both).sum())
    value = float(((hits * of - others * total) / both).sum()) / weight
    p = float(((total**2 * others - of**2 * hits + total * of * (of - total) / 2) / both**2).sum())
    q = float(((hits * (of - others) + others * (total - hits)) / (2 * both)).sum())
    reach = Z * math.sqrt(max(0.0, value * p + q)) / weight
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach))


def fisher(hits: int, total: int, others: int, of: int) -> float:
    """The two-sided p-value of Fisher's exact test: the chance, margins given, of a table no more likely than this one."""
    drawn, population = hits + others, total + of
    mean = drawn * total / population
    spread = math.sqrt(mean * (of / population) * (population - drawn) / max(1, population - 1))
    low, high = max(0, drawn - of, math.floor(mean - FAR * spread)), min(drawn, total, math.ceil(mean + FAR * spread))
    if not low <= hits <= high:
        return 0.0
    each = np.arange(low, high)
    steps = np.log((total - each) * (drawn - each)) - np.log(
        (each + 1.0) * (of - drawn + each + 1.0)
    )  # from one number of hits to the next
    logs = np.concatenate((np.zeros(1), np.cumsum(steps)))
    chances = np.exp(logs - logs.max())
    here = chances[hits - low]
    return min(1.0, float(chances[chances <= here * (1 + 1e-7)].sum() / chances.sum()))


def false_discovery(p: Sequence[float]) -> list[float]:
    """For each p-value the share of false findings among all that are no larger (Benjamini and Hochberg 1995)."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
    least = np.minimum.accumulate(scaled[::-1])[::-1]
    found = np.empty(len(values))
    found[order] = np.minimum(1.0, least)
    return found.tolist()


def rate(documents: int, moments: Sequence[float] | F64) -> Estimate | None:
    """sum(x) / sum(y) over documents, with the interval of a ratio of two sums that vary together: documents are the sample, not words
    (Cochran 1977, chapter 6). `moments` are the sums of x, y, x², xy, y². None of nothing; without ends for one document."""
    x, y, xx, xy, yy = map(float, moments)
    if y == 0:
        return None
    value = x / y
    if documents < 2:
        return Estimate(value, None, None)
    residuals = max(0.0, xx - 2 * value * xy + value**2 * yy)
    reach = Z * math.sqrt(residuals * documents / (documents - 1)) / y
    return Estimate(value, value - reach, value + reach)


def log_odds(ours: F64, theirs: F64, prior: F64) -> tuple[F64, F64]:
    """How much rather a word is among ours than among theirs: (delta, standard error), (words,) each, in natural logarithms of odds.

    Counts of words (words,), and a prior in counts, all above 0 (Monroe, Colaresi and Quinn 2008): a word is taken to
    be as common in both as in the prior until counts say otherwise. delta / error is their z-score.
    """
    weight = float(prior.sum())

    def logit(counts: F64) -> F64:
        total = float(counts.sum()) + weight
        return np.log(counts + prior) - np.log(total - counts - prior)

    return logit(ours) - logit(theirs), np.sqrt(1 / (ours + prior) + 1 / (theirs + prior))
