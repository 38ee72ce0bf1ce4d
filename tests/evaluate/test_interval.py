"""Intervals over documents."""

from __future__ import annotations

import numpy as np
import pytest

from openbook.evaluate.interval import bits_per_byte


def sample(count: int, seed: int) -> tuple[list[float], list[int]]:
    """Documents of very different sizes, whose bits per byte differ too."""
    dice = np.random.default_rng(seed)
    sizes = dice.lognormal(7, 1, count).astype(int) + 1
    return list(sizes * dice.uniform(1, 4, count)), sizes.tolist()


def test_value_is_total_bits_over_total_bytes() -> None:
    assert bits_per_byte([10.0, 50.0], [5, 10], seed=1).bpb == 4.0


def test_ends_are_those_of_the_ratio_estimator() -> None:
    """The peer: the classical standard error of a ratio of totals (Cochran 1977, section 6.4)."""
    bits, sizes = sample(400, seed=3)
    found = bits_per_byte(bits, sizes, seed=1)
    assert found.low is not None and found.high is not None
    residuals = np.array(bits) - found.bpb * np.array(sizes)
    error = np.sqrt((residuals**2).sum()) / sum(sizes)
    assert (found.low - found.bpb) / error == pytest.approx(-1.96, abs=0.25)
    assert (found.high - found.bpb) / error == pytest.approx(1.96, abs=0.25)


def test_same_seed_same_interval_other_seed_another() -> None:
    bits, sizes = sample(30, seed=4)
    assert bits_per_byte(bits, sizes, seed=1) == bits_per_byte(bits, sizes, seed=1)
    assert bits_per_byte(bits, sizes, seed=1) != bits_per_byte(bits, sizes, seed=2)


def test_one_document_has_no_interval() -> None:
    found = bits_per_byte([30.0], [10], seed=1)
    assert (found.bpb, found.low, found.high) == (3.0, None, None)
