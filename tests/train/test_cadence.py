"""How often to save, against the cost model from which the formula was derived."""

from __future__ import annotations

import math

import pytest

from openbook.train.cadence import interval_seconds, is_due, mean_time_between_failures


def wasted(interval: float, save: float, mean: float) -> float:
    """Seconds a second of training takes when failures are exponential with `mean` (Daly 2006, equation 20, without restarts)."""
    return mean * math.expm1((interval + save) / mean) / interval


@pytest.mark.parametrize("save", [0.01, 1.0, 60.0, 600.0, 1800.0])
@pytest.mark.parametrize("hours", [0.5, 3.0, 168.0])
def test_the_interval_wastes_no_more_than_the_best_one(save: float, hours: float) -> None:
    mean = hours * 3600
    best = min(wasted(math.sqrt(2 * save * mean) * 1.02**power, save, mean) for power in range(-120, 60))
    chosen = wasted(interval_seconds(save, hours), save, mean)
    assert chosen - 1 <= (best - 1) * 1.02


def test_a_small_cost_gives_youngs_rule_and_a_hopeless_one_the_time_between_failures() -> None:
    assert interval_seconds(0.001, 100.0) == pytest.approx(math.sqrt(2 * 0.001 * 360_000), rel=1e-3)
    assert interval_seconds(8000.0, 1.0) == 3600.0
    assert interval_seconds(40.0, 7 * 24.0) == pytest.approx(1.9 * 3600, rel=0.02)  # BLOOM's figures


def test_failures_seen_outweigh_what_was_believed() -> None:
    assert mean_time_between_failures(24.0, 0.0, 0) == 24.0
    assert mean_time_between_failures(24.0, 24.0, 0) == 48.0
    assert mean_time_between_failures(24.0, 100.0, 200) == pytest.approx(0.5, rel=0.25)


def test_due_is_a_matter_of_the_clock_that_is_given() -> None:
    assert not is_due(109.9, 100.0, 10.0)
    assert is_due(110.0, 100.0, 10.0)
