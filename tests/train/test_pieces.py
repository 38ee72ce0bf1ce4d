"""The parts of a step: sums that do not depend on who made them, an exact norm, Muon, Adam, the schedule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.recipe import ScheduleSection
from openbook.train.optimizer import Optimizer, OptimizerSettings, orthogonalise
from openbook.train.peak import matmul_flops_per_second
from openbook.train.schedule import rate
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


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 16), (2, 16, 40)])
def test_muon_makes_singular_values_alike(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), 5))
    assert values.min() > 0.5
    assert values.max() < 1.35


def test_matrices_do_not_depend_on_their_batch_mates() -> None:
    torch.manual_seed(2)
    matrices = torch.randn(4, 24, 16)
    together = orthogonalise(matrices, 5)
    for index in range(4):
        assert torch.allclose(together[index], orthogonalise(matrices[index : index + 1], 5)[0], atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 16), (128, 128), (128, 360), (33, 57)])
def test_in_bf16_neither_batch_mates_nor_threads_change_a_bit(shape: tuple[int, int]) -> None:
    torch.manual_seed(2)
    matrices = torch.randn(6, *shape)
    together = orthogonalise(matrices, 5, torch.bfloat16)
    exact = orthogonalise(matrices, 5)
    assert (together - exact).norm() < 0.05 * exact.norm()
    torch.set_num_threads(2)
    try:
        for part in (1, 2, 4):
            assert torch.equal(together[:part], orthogonalise(matrices[:part], 5, torch.bfloat16))
    finally:
        torch.set_num_threads(1)


SETTINGS = OptimizerSettings(0.02, 0.01, 0.003, 0.005, 0.95, 0.8, 0.95, 0.0, 5)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
        self.head = torch.nn.Linear(4, 5, bias=False)


def test_adam_is_torch_adam() -> None:
    torch.manual_seed(3)
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    mine = Optimizer(ours, SETTINGS)
    peer = torch.optim.Adam([theirs.embedding.weight], lr=0.01, betas=(0.8, 0.95), eps=1e-10)
    for step in range(6):
        gradients = {name: torch.randn_like(parameter) for name, parameter in ours.named_parameters()}
        theirs.embedding.weight.grad = gradients["embedding.weight"].clone()
        mine.step(gradients, step, 1.0)
        peer.step()
        assert torch.allclose(ours.embedding.weight, theirs.embedding.weight, atol=1e-6)


def test_muon_is_torch_muon() -> None:
    torch.manual_seed(4)
    ours = Small()
    weight = torch.nn.Parameter(ours.layers[0].weight.detach().clone())
    mine = Optimizer(ours, SETTINGS)
    peer = torch.optim.Muon([weight], lr=0.02, weight_decay=0.0, momentum=0.95, nesterov=True, ns_steps=5)
    for step in range(5):
        gradients = {name: torch.randn_like(parameter) for name, parameter in ours.named_parameters()}
        weight.grad = gradients["layers.0.weight"].clone()
        mine.step(gradients, step, 1.0)
        peer.step()
        assert torch.allclose(ours.layers[0].weight, weight, atol=2e-3)  # torch iterates in bf16


@given(steps=st.integers(1, 3000), warmup=st.floats(0, 0.4), cooldown=st.floats(0, 0.6), floor=st.floats(0, 1))
def test_the_schedule_rises_stays_and_falls(steps: int, warmup: float, cooldown: float, floor: float) -> None:
    section = ScheduleSection(warmup=warmup, cooldown=cooldown, floor=floor)
    rates = [rate(step, steps, section) for step in range(steps)]
    assert all(0 < value <= 1 for value in rates) or floor == 0
    peak = rates.index(max(rates))
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))


def test_the_schedule_in_figures() -> None:
    section = ScheduleSection(warmup=0.1, cooldown=0.5, floor=0.2)
    assert [round(rate(step, 100, section), 3) for step in (0, 8, 9, 49, 50, 51, 75, 99)] == [0.1, 0.9, 1.0, 1.0, 1.0, 0.984, 0.6, 0.216]


def test_the_peak_is_a_rate_a_processor_can_have() -> None:
    assert 1e8 < matmul_flops_per_second(torch.device("cpu"), torch.float32, 0.01) < 1e14
