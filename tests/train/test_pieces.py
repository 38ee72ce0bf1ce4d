"""The parts of a step: sums that do not depend on who made them, an exact norm, a measured peak."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.train.peak import matmul_flops_per_second
from openbook.train.tree import Place, TreeSum, exact_norm


def recursive(leaves: list[torch.Tensor]) -> torch.Tensor:
    """The tree's specification."""
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    return recursive(leaves[:half]) + recursive(leaves[half:])


@pytest.mark.parametrize("count", [1, 2, 4, 8, 32])
def test_the_counter_is_the_binary_tree_to_the_bit(count: int) -> None:
    torch.manual_seed(count)
    leaves = [torch.randn(50) * 10.0 ** torch.randint(-6, 6, (1,)).item() for _ in range(count)]
    expected = recursive(leaves)
    tree = TreeSum()
    for index, leaf in enumerate(leaves):
        tree.add(Place(0, index), {"x": leaf.clone()})
    assert torch.equal(tree.total()["x"], expected)


def test_the_tree_is_not_the_plain_sum() -> None:
    """If it were, the order would not matter and neither would this module."""
    torch.manual_seed(0)
    leaves = [torch.randn(1000) for _ in range(8)]
    assert not torch.equal(recursive(leaves), sum(leaves[1:], leaves[0]))


def test_a_number_of_leaves_that_is_no_power_of_two_is_refused() -> None:
    tree = TreeSum()
    for index in range(3):
        tree.add(Place(0, index), {"x": torch.ones(1)})
    with pytest.raises(ValueError, match="power of two"):
        tree.total()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-30, 30), cut=st.integers(1, 19))
def test_the_norm_is_right_and_the_same_for_any_sharding(seed: int, exponent: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(20, 7, generator=generator) * 2.0**exponent
    vector = torch.randn(9, generator=generator) * 2.0**exponent
    whole = exact_norm([matrix, vector])
    assert whole == pytest.approx(math.sqrt(float((matrix.double() ** 2).sum() + (vector.double() ** 2).sum())), rel=1e-6)
    assert exact_norm([matrix[cut:], vector, matrix[:cut]]) == whole


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(bad: float) -> None:
    assert not math.isfinite(exact_norm([torch.ones(3, 3), torch.tensor([1.0, bad])]))
    assert exact_norm([torch.zeros(4)]) == 0.0


def test_the_peak_is_a_rate_a_processor_can_have() -> None:
    assert 1e8 < matmul_flops_per_second(torch.device("cpu"), torch.float32, 0.01) < 1e14
