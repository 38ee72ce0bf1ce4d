"""How often to save: as rarely as the machine's failures allow. Pure functions; the clock is the caller's."""

from __future__ import annotations

import math


def interval_seconds(save_seconds: float, hours_between_failures: float) -> float:
    """Seconds of training between two saves that waste the least time altogether: saving, and computing again what a failure took.

    `save_seconds` is how long a save holds up the training. Daly 2006, "A higher order estimate of the optimum checkpoint interval for
    restart dumps", equation 37; for small costs this is Young's square root of 2 x cost x time between failures (1974).
    """
    mean = hours_between_failures * 3600.0
    if save_seconds >= 2.0 * mean:
        return mean
    ratio = save_seconds / (2.0 * mean)
    return math.sqrt(2.0 * save_seconds * mean) * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - save_seconds


def mean_time_between_failures(prior_hours: float, observed_hours: float, failures: int) -> float:
    """Hours between failures, from a belief that is worth one failure in `prior_hours` and from what was seen.

    The inverse of the failure rate's posterior mean: a Gamma prior of shape 1 on the rate of a Poisson process.
    """
    return (prior_hours + observed_hours) / (1 + failures)


def is_due(now: float, saved: float, interval: float) -> bool:
    """Whether to save. `now` and `saved`, the end of the last save or the beginning of the training: seconds of a monotonic clock."""
    return now - saved >= interval
