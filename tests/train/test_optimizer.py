"""Muon and AdamW: what their peers compute, the same bits for any rows, state in few bits that still moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from openbook.recipe import AdamWSection, MuonSection
from openbook.train.optimizer import Optimizer, Orthogonalise, orthogonalise, orthogonalise_all

MUON = MuonSection(embedding_rate=0.01)
SHAPES: dict[str, tuple[int, ...]] = {
    "embedding.weight": (37, 24),
    "layers.0.query.weight": (24, 24),
    "layers.0.norm.weight": (24,),
    "layers.1.up.weight": (40, 24),
    "layers.1.down.weight": (24, 40),
    "layers.2.experts.up": (3, 40, 24),
    "head.weight": (37, 24),
}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 16), (2, 16, 40)])
def test_muon_makes_singular_values_alike(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), 5))
    assert values.min() > 0.5
    assert values.max() < 1.35


@pytest.mark.parametrize(
    ("shape", "most"), [((5, 7), 2), ((40, 100), 2), ((64, 64), 8), ((128, 128), 8), ((320, 128), 8), ((128, 320), 8), ((256, 512), 8)]
)
def test_a_matrix_has_the_same_bits_alone_in_any_batch_and_on_any_threads(shape: tuple[int, int], most: int, threads: None) -> None:
    """Why matrices of one shape may share a batch. From 3 threads on, MKL splits some small sums whose sizes are no multiples of 64."""
    torch.manual_seed(2)
    matrices = {str(number): torch.randn(shape) for number in range(7)}
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_num_threads(1)
        expected = {name: orthogonalise_all({name: matrix}, 5, dtype)[name] for name, matrix in matrices.items()}
        for count in range(1, most + 1):
            torch.set_num_threads(count)
            for some in (list(matrices), ["6", "0", "3"], ["5", "1"], ["4"]):
                done = orthogonalise_all({name: matrices[name] for name in some}, 5, dtype)
                assert all(torch.equal(done[name], expected[name]) for name in some)


def test_adam_is_torch_adam() -> None:
    mine, theirs = drawn(3), drawn(3)["embedding.weight"].requires_grad_()
    optimizer = Optimizer(mine, SHAPES, MUON)
    peer = torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-10)
    for step in range(6):
        gradients = drawn(step)
        theirs.grad = gradients["embedding.weight"].clone()
        optimizer.step(gradients, step, 1.0)
        peer.step()
        assert torch.allclose(mine["embedding.weight"], theirs, atol=1e-6)


def test_adamw_is_torch_adamw_and_decays_matrices_only() -> None:
    mine = drawn(3)
    theirs = {name: tensor.requires_grad_() for name, tensor in drawn(3).items()}
    optimizer = Optimizer(mine, SHAPES, AdamWSection(kind="adamw", rate=0.01))
    groups = [
        {"params": [theirs[name] for name in SHAPES if (len(SHAPES[name]) > 1) == matrices], "weight_decay": decay}
        for matrices, decay in ((True, 0.1), (False, 0))
    ]
    peer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for step in range(6):
        gradients = drawn(step)
        for name, gradient in gradients.items():
            theirs[name].grad = gradient.clone()
        optimizer.step(gradients, step, 1.0)
        peer.step()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in SHAPES)


def test_muon_is_torch_muon_and_decays_its_matrices_only() -> None:
    mine = drawn(4)
    theirs = drawn(4)["layers.0.query.weight"].requires_grad_()
    still = mine["head.weight"].clone()
    optimizer = Optimizer(mine, SHAPES, MuonSection(weight_decay=0.5, head_rate=0.0))
    peer = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.5, momentum=0.95, nesterov=True, ns_steps=5)
    for step in range(5):
        gradients = drawn(step)
        theirs.grad = gradients["layers.0.query.weight"].clone()
        optimizer.step(gradients, step, 1.0)
        peer.step()
        assert torch.allclose(mine["layers.0.query.weight"], theirs, atol=2e-3)  # torch iterates in bf16
    assert torch.equal(mine["head.weight"], still)


def test_muon_takes_experts_as_so_many_matrices() -> None:
    name = "layers.2.experts.up"
    together, apart = {name: drawn(6)[name]}, {f"layers.{index}": matrix.clone() for index, matrix in enumerate(drawn(6)[name])}
    optimizers = [Optimizer(weights, {key: tuple(value.shape) for key, value in weights.items()}, MUON) for weights in (together, apart)]
    for step in range(3):
        gradient = drawn(step)[name]
        optimizers[0].step({name: gradient}, step, 1.0)
        optimizers[1].step({f"layers.{index}": matrix for index, matrix in enumerate(gradient)}, step, 1.0)
    assert torch.allclose(together[name], torch.stack(list(apart.values())), atol=1e-6)


@pytest.mark.parametrize("state", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_rows_have_the_bits_of_the_whole(kind: str, state: str) -> None:
    """Two processes that hold a part of the rows each, one of them nothing of some tensors, against one that holds all."""
    settings = MuonSection(state=state, weight_decay=0.1) if kind == "muon" else AdamWSection(kind="adamw", state=state)
    cuts = {name: (5 * index) % (shape[0] + 1) if index else 0 for index, (name, shape) in enumerate(SHAPES.items())}
    parts = [{name: slice(0, cut) for name, cut in cuts.items()}, {name: slice(cut, None) for name, cut in cuts.items()}]
    whole = drawn(5)
    halves = [{name: tensor[part[name]].clone() for name, tensor in drawn(5).items()} for part in parts]
    orthogonal: dict[str, Tensor] = {}

    def kept(change: Orthogonalise) -> Orthogonalise:
        return lambda updates: orthogonal.update(change(updates)) or orthogonal

    alone = Optimizer(whole, SHAPES, settings, kept)
    both = [
        Optimizer(half, SHAPES, settings, lambda _, part=part: lambda own: {name: orthogonal[name][part[name]] for name in own})
        for half, part in zip(halves, parts, strict=True)
    ]
    for step in range(4):
        gradients = drawn(100 + step, 1e-3)
        gradients["embedding.weight"][::3] = 0  # tokens that did not occur
        alone.step(gradients, step, 0.7)
        for optimizer, part in zip(both, parts, strict=True):
            optimizer.step({name: gradient[part[name]].clone() for name, gradient in gradients.items()}, step, 0.7)
    for name, tensor in whole.items():
        assert torch.equal(torch.cat([half[name] for half in halves]), tensor)
    for name, tensor in alone.state.items():
        assert torch.equal(torch.cat([optimizer.state[name] for optimizer in both]), tensor), name


@pytest.mark.parametrize(("state", "bytes_a_number"), [("fp32", 4), ("bf16", 2), ("int8", 1)])
def test_state_takes_the_bytes_it_says(state: str, bytes_a_number: int) -> None:
    shape = (100, 400)
    optimizer = Optimizer({"head.weight": torch.zeros(shape)}, {"head.weight": shape}, MuonSection(state=state))
    assert sum(tensor.nbytes for tensor in optimizer.state.values()) <= 2 * 100 * (400 * bytes_a_number + 4)


@pytest.mark.parametrize("state", ["bf16", "int8"])
def test_few_bits_do_not_let_the_second_moment_stand_still(state: str) -> None:
    """Gradients shrink to a hundredth, by 1 % a step: the moment of every column follows, on average over the rows."""
    settings = AdamWSection(kind="adamw", beta2=0.98, state=state)
    parameters = {"w": torch.zeros(256, 64)}
    optimizer, exact = (Optimizer(parameters, {"w": (256, 64)}, one) for one in (settings, settings.model_copy(update={"state": "fp32"})))
    generator = torch.Generator().manual_seed(0)
    columns = torch.logspace(-1, 0, 64)
    for step in range(460):
        gradient = torch.randn(256, 64, generator=generator) * columns * 0.99**step
        optimizer.step({"w": gradient}, step, 1.0)
        exact.step({"w": gradient}, step, 1.0)
    with optimizer.moments.open(["w.square"], [gradient]) as (found,):
        mean = found.mean(0)
    assert torch.allclose(mean, exact.state["w.square"].mean(0), rtol=0.1)


@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_state_kept_elsewhere_changes_no_bit(state: str) -> None:
    settings = MuonSection(state=state)
    here, there = drawn(5), drawn(5)
    both = [Optimizer(here, SHAPES, settings), Optimizer(there, SHAPES, settings, offload=True)]
    for step in range(3):
        for optimizer in both:
            optimizer.step(drawn(100 + step, 1e-3), step, 1.0)
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert all(torch.equal(both[0].state[name], both[1].state[name]) for name in both[0].state)
