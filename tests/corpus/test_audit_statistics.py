"""The audit's statistics against plain loops, published examples, and simulated data whose truth is known."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from openbook.corpus.audit.statistics import Z, difference, false_discovery, fisher, log_odds, rate, ratio, stratified, wilson


def test_shares_and_differences_have_the_published_intervals() -> None:
    share = wilson(81, 263)  # Newcombe 1998a, table I: 0.2553 to 0.3662
    assert share and (round(share.low or 0, 4), round(share.high or 0, 4)) == (0.2553, 0.3662)
    both = difference(56, 70, 48, 80)  # Newcombe 1998b, table II, method 10: 0.0524 to 0.3339
    assert both and (round(both.low or 0, 4), round(both.high or 0, 4)) == (0.0524, 0.3339)


def test_nothing_divides_by_zero() -> None:
    assert wilson(0, 0) is None and difference(0, 0, 1, 2) is None and ratio(0, 5, 0, 5) is None and rate(0, [0.0] * 5) is None
    assert stratified(*(np.array(values, float) for values in ([0], [0], [3], [9]))) is None
    none = ratio(0, 5, 3, 5)
    assert none and none.value == 0 and none.low == 0 and none.high
    endless = ratio(3, 5, 0, 5)
    assert endless and endless.value is None and endless.high is None and endless.low
    one = rate(1, [3.0, 100.0, 9.0, 300.0, 10_000.0])
    assert one and one.value == 0.03 and one.low is None
    assert fisher(0, 3, 0, 4) == fisher(3, 3, 4, 4) == 1.0 and false_discovery([]) == []


@pytest.mark.parametrize("table", [(3, 10, 9, 12), (0, 5, 4, 30), (7, 7, 1, 20), (40, 100, 10, 90)])
def test_fisher_is_the_sum_over_all_tables(table: tuple[int, int, int, int]) -> None:
    hits, total, others, of = table

    def chance(first: int) -> Fraction:
        return Fraction(math.comb(total, first) * math.comb(of, hits + others - first), math.comb(total + of, hits + others))

    every = [chance(first) for first in range(max(0, hits + others - of), min(total, hits + others) + 1)]
    assert fisher(*table) == pytest.approx(float(sum(value for value in every if value <= chance(hits))), rel=1e-9)
    assert fisher(9_000_000, 20_000_000, 1_000_000, 30_000_000) == 0.0  # margins too large for a sum over all tables


def test_false_discovery_is_the_definition() -> None:
    p = [0.01, 0.8, 0.03, 0.02, 0.5]
    loop = [min(min(1.0, other * len(p) / sum(value <= other for value in p)) for other in p if other >= own) for own in p]
    assert false_discovery(p) == pytest.approx(loop)


def test_log_odds_are_those_of_a_plain_loop() -> None:
    ours, theirs, prior = ([5.0, 0.0, 20.0], [2.0, 9.0, 30.0], [1.5, 2.5, 6.0])
    delta, error = log_odds(*(np.array(values) for values in (ours, theirs, prior)))
    for word in range(3):

        def odds(counts: list[float], word: int = word) -> float:
            there = counts[word] + prior[word]
            return math.log(there / (sum(counts) + sum(prior) - there))

        assert delta[word] == pytest.approx(odds(ours) - odds(theirs))
        assert error[word] == pytest.approx(math.sqrt(1 / (ours[word] + prior[word]) + 1 / (theirs[word] + prior[word])))


def covered(hold: list[bool]) -> float:
    return sum(hold) / len(hold)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    source = np.random.default_rng(1)
    simple, times, within, words = [], [], [], []
    sizes = np.array([40.0, 200.0, 15.0, 90.0])
    base = np.array([0.1, 0.3, 0.5, 0.2])
    for _ in range(1_500):
        hits, others = int(source.binomial(60, 0.2)), int(source.binomial(900, 0.08))
        found, divided = difference(hits, 60, others, 900), ratio(hits, 60, others, 900)
        assert found and divided
        simple.append(float(found.low or 0) <= 0.12 <= float(found.high or 0))
        times.append(float(divided.low or 0) <= 2.5 <= float(divided.high or math.inf))
        named, rest = source.binomial(sizes.astype(int), base + 0.1), source.binomial(3 * sizes.astype(int), base)
        adjusted = stratified(named.astype(float), sizes, rest.astype(float), 3 * sizes)
        assert adjusted
        within.append(float(adjusted.low or 0) <= 0.1 <= float(adjusted.high or 0))
        length = source.integers(50, 500, 80).astype(float)
        count = source.poisson(length * source.gamma(2.0, 0.01, 80)).astype(float)  # documents differ more than words would
        mean = rate(80, [count.sum(), length.sum(), (count**2).sum(), (count * length).sum(), (length**2).sum()])
        assert mean
        words.append(float(mean.low or 0) <= 0.02 <= float(mean.high or 0))
    for hold in (simple, times, within):
        assert 0.93 < covered(hold) < 0.98
    assert 0.90 < covered(words) < 0.98  # skewed counts: the normal interval is a little short
    assert pytest.approx(1.959964) == Z


def test_comparing_like_with_like_undoes_a_filter_that_goes_by_size() -> None:
    """Long documents name more, and a filter removes short ones: alike within a stratum, unlike over all."""
    named, named_gone = np.array([100.0, 900.0]), np.array([50.0, 90.0])
    rest, rest_gone = np.array([900.0, 100.0]), np.array([450.0, 10.0])
    crude = difference(int(named_gone.sum()), 1000, int(rest_gone.sum()), 1000)
    adjusted = stratified(named_gone, named, rest_gone, rest)
    assert crude and crude.high is not None and crude.high < -0.25
    assert adjusted and adjusted.value == pytest.approx(0.0) and adjusted.low is not None and adjusted.low < 0
