"""The order of the data: a bijection in every epoch, exact shares in every block, no state anywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.errors import InputError
from openbook.tokens.order import Mixture, Order, UsedUp, block_size, largest_remainder, permute


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1))
def test_a_permutation_visits_everything_once(size: int, seed: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, seed)), np.arange(size))


def test_one_place_is_the_same_alone_and_among_all() -> None:
    everything = permute(np.arange(1000), 1000, 5)
    assert [int(permute(i, 1000, 5)[0]) for i in range(0, 1000, 97)] == everything[::97].tolist()


def test_a_huge_range_needs_no_memory() -> None:
    assert 0 <= int(permute(10**14, 10**15, 1)[0]) < 10**15


def test_permutations_look_random() -> None:
    """Neighbours land far apart and keys give unrelated orders: a linear shuffle would fail both."""
    size = 4096
    first, second = permute(np.arange(size), size, 1), permute(np.arange(size), size, 2)
    steps = np.diff(first)
    assert len(np.unique(steps % size)) > size * 0.55
    assert abs(np.corrcoef(first, np.arange(size))[0, 1]) < 0.06
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert (first == second).sum() < 10


@given(weights=st.lists(st.floats(0.001, 100), min_size=1, max_size=20), total=st.integers(0, 2000))
def test_largest_remainder_is_exact_and_fair(weights: list[float], total: int) -> None:
    counts = largest_remainder(weights, total)
    assert sum(counts) == total
    assert all(abs(count - weight / sum(weights) * total) <= 1.0 + 1e-6 for count, weight in zip(counts, weights, strict=True))


def mixture(rows: dict[str, int], weights: dict[str, float], caps: dict[str, float]) -> Order:
    return Order(Mixture(rows, weights, caps), seed=3)


def test_shares_are_exact_over_every_block() -> None:
    order = mixture({"a": 9000, "b": 5000, "c": 700}, {"a": 0.6, "b": 0.3, "c": 0.1}, dict.fromkeys("abc", 4.0))
    block = order.mixture.block
    assert block == 512
    for number in (0, 1, 5):
        names = Counter(order.locate(number * block + place)[0] for place in range(block))
        assert names == {"a": 307, "b": 154, "c": 51}


def test_an_epoch_visits_every_row_once_and_the_next_in_another_order() -> None:
    order = mixture({"a": 640}, {"a": 1.0}, {"a": 3.0})
    assert 640 % order.mixture.block == 0  # else the block at the boundary mixes the two epochs
    drawn = [order.locate(sample)[1] for sample in range(1280)]
    assert sorted(drawn[:640]) == sorted(drawn[640:]) == list(range(640))
    assert drawn[:640] != drawn[640:]


def test_a_component_at_its_cap_gives_its_place_to_the_others() -> None:
    order = mixture({"big": 20000, "small": 500}, {"big": 0.5, "small": 0.5}, {"big": 4.0, "small": 2.0})
    seen = Counter(order.locate(sample)[0] for sample in range(6000))
    assert seen["small"] <= 1000
    assert seen["small"] > 1000 - order.mixture.block
    later = Counter(order.locate(sample)[0] for sample in range(5000, 5512))
    assert later == {"big": 512}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.01, 10), min_size=5, max_size=5),
    cap=st.floats(0.3, 5),
)
def test_no_component_is_seen_more_often_than_its_cap(rows: list[int], weights: list[float], cap: float) -> None:
    names = [f"c{index}" for index in range(len(rows))]
    plan = Mixture(dict(zip(names, rows, strict=True)), dict(zip(names, weights, strict=False)), dict.fromkeys(names, cap))
    totals = np.zeros(len(plan.names), dtype=int)
    position = 0
    for span in plan.spans:
        assert span.first_block == position
        assert tuple(totals) == span.drawn
        totals += np.array(span.quotas) * span.blocks
        position += span.blocks
    assert all(total <= cap * count for total, count in zip(totals, plan.rows, strict=True))
    wasted = sum(int(cap * count) for count in plan.rows) - totals.sum()
    assert wasted < plan.block * len(rows)


def test_a_small_corpus_has_small_blocks() -> None:
    assert [block_size(samples) for samples in (0, 100, 300, 2000, 10**6)] == [16, 16, 16, 64, 512]


def test_asking_for_more_than_there_is_names_both_numbers() -> None:
    order = mixture({"a": 100}, {"a": 1.0}, {"a": 2.0})
    order.require(192)
    with pytest.raises(InputError, match="needs 5,000 rows, but the corpus holds 192"):
        order.require(5000)
    with pytest.raises(UsedUp):
        order.locate(5000)
