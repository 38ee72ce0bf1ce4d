"""A mixture of experts against a plain loop, against stock blocks, and against itself on other threads and in other company."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.errors import InputError
from openbook.model.config import Experts, TransformerConfig
from openbook.model.experts import ExpertMLP, balance

TOP2 = Experts(count=4, top_k=2, mlp_width=24)
SWITCH = Experts(count=4, top_k=1, mlp_width=24, capacity=1.0, normalised=False)


def config(activation: Any = "swiglu", width: int = 16) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=64, context=32, layers=1, width=width, heads=2, kv_heads=2, head_width=8, mlp_width=32, activation=activation
    )


def made(experts: Experts, activation: Any = "swiglu", width: int = 16, seed: int = 0) -> ExpertMLP:
    block = ExpertMLP(config(activation, width), experts)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)
    return block


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_expert(block: ExpertMLP, number: int, x: Tensor) -> Tensor:
    weights = block.experts
    up = x @ weights.up[number].T
    inner = {
        "swiglu": lambda: F.silu(x @ weights.gate[number].T) * up,
        "geglu": lambda: F.gelu(x @ weights.gate[number].T, approximate="tanh") * up,
        "gelu": lambda: F.gelu(up),
        "gelu-tanh": lambda: F.gelu(up, approximate="tanh"),
        "relu": lambda: F.relu(up),
        "relu2": lambda: F.relu(up) ** 2,
    }[block.activation]()
    return inner @ weights.down[number].T


def plain(block: ExpertMLP, x: Tensor) -> tuple[Tensor, int]:
    """The mixture as its definition says, token by token and expert by expert; and how many choices found their expert full."""
    settings, rows, dropped = block.settings, [], 0
    flat = x.flatten(0, 1)
    room = [max(1, int((settings.capacity or 1e9) * len(flat) * settings.top_k / settings.count))] * settings.count
    for token in flat:
        logits = block.router.weight @ token
        scores = logits.softmax(0) if settings.scores == "softmax" else logits.sigmoid()
        wanted = scores if block.router.bias is None else scores + block.router.bias
        chosen = sorted(range(settings.count), key=lambda number: -wanted[number].item())[: settings.top_k]
        total = sum(scores[number] for number in chosen) if settings.normalised else 1.0
        row = torch.zeros_like(token)
        for number in chosen:
            dropped += not room[number]
            if room[number]:
                room[number] -= 1
                row = row + one_expert(block, number, token) * scores[number] / total
        if block.shared is not None:
            row = row + block.shared(token)
        rows.append(row)
    return torch.stack(rows).view_as(x), dropped


def gradients(block: ExpertMLP, output: Tensor, x: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*block.named_parameters(), strict=True)
    weight = tokens(*output.shape, seed=5)
    found = torch.autograd.grad((output * weight).sum(), (x, *parameters), retain_graph=True)
    return dict(zip(("x", *names), found, strict=True))


@pytest.mark.parametrize(
    ("experts", "activation"),
    [
        (TOP2, "swiglu"),
        (replace(TOP2, shared=8, scores="sigmoid", balance_rate=0.1), "swiglu"),
        (replace(TOP2, scores="sigmoid", normalised=False, top_k=3, capacity=0.7), "geglu"),
        (SWITCH, "relu"),
        (replace(SWITCH, capacity=0.3), "relu2"),
        (replace(SWITCH, capacity=1.25), "gelu"),
        (replace(SWITCH, capacity=None), "gelu-tanh"),
    ],
)
def test_routes_equal_a_plain_loop(experts: Experts, activation: str) -> None:
    block = made(experts, activation)
    if block.router.bias is not None:
        block.router.bias += torch.tensor([0.5, -0.5, 0.2, 0.0])
    x = tokens(2, 9, 16).requires_grad_()
    output = block(x)
    wanted, dropped = plain(block, x)
    assert torch.allclose(output, wanted, atol=1e-5)
    assert block.counts is not None
    assert block.counts[0].sum() == 18 * experts.top_k and (block.counts[0] - block.counts[1]).sum() == dropped
    assert bool(dropped) == (experts.capacity is not None)
    for name, gradient in gradients(block, wanted, x).items():
        assert torch.allclose(gradients(block, output, x)[name], gradient, atol=1e-4), name


def test_later_tokens_pass_by_a_full_expert() -> None:
    block = made(replace(SWITCH, capacity=0.5), "relu")
    x = tokens(2, 16, 16)
    output = block(x).flatten(0, 1)
    room = Counter(dict.fromkeys(range(4), 4))
    for token, row in zip(x.flatten(0, 1), output, strict=True):
        number = int((block.router.weight @ token).argmax())
        room[number] -= 1
        assert bool(row.any()) == (room[number] >= 0)
    with torch.no_grad():
        assert block(x).flatten(0, 1).any(1).all()  # without training nothing is dropped


def test_every_expert_chosen_is_the_dense_mixture() -> None:
    block = made(replace(TOP2, top_k=4))
    x = tokens(3, 5, 16)
    shares = (x @ block.router.weight.T).softmax(-1)
    dense = torch.stack([one_expert(block, number, x) * shares[..., number, None] for number in range(4)]).sum(0)
    assert torch.allclose(block(x), dense, atol=1e-5)


def stock(kind: str) -> tuple[Any, Experts]:
    """A random block of transformers, and the mixture that it is."""
    common: dict[str, Any] = {"hidden_size": 32, "num_experts_per_tok": 2}
    if kind == "mixtral":
        from transformers.models.mixtral.modeling_mixtral import MixtralConfig, MixtralSparseMoeBlock

        return MixtralSparseMoeBlock(MixtralConfig(**common, intermediate_size=48, num_local_experts=8)), Experts(8, 2, 48)
    if kind == "qwen3":
        from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeConfig, Qwen3MoeSparseMoeBlock

        block = Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(**common, moe_intermediate_size=48, num_experts=8, norm_topk_prob=True))
        return block, Experts(8, 2, 48)
    if kind == "olmoe":
        from transformers.models.olmoe.modeling_olmoe import OlmoeConfig, OlmoeSparseMoeBlock

        return OlmoeSparseMoeBlock(OlmoeConfig(**common, intermediate_size=48, num_experts=8)), Experts(8, 2, 48, normalised=False)
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Config, DeepseekV3MoE

    groups: dict[str, Any] = {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": True}
    block = DeepseekV3MoE(DeepseekV3Config(**common, **groups, moe_intermediate_size=48, n_routed_experts=8, n_shared_experts=2))
    return block, Experts(8, 2, 48, scores="sigmoid", shared=96, balance_rate=0.001)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3", "olmoe", "deepseek"])
def test_parity_with_the_stock_block(kind: str) -> None:
    pytest.importorskip("transformers")
    block, experts = stock(kind)
    source = torch.Generator().manual_seed(3)
    mine = ExpertMLP(config(width=32), experts)
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            tensor.copy_(torch.randn(tensor.shape, generator=source) * 0.2)
        gate, up = block.experts.gate_up_proj.chunk(2, 1)
        mine.router.weight.copy_(block.gate.weight)
        for name, weight in (("gate", gate), ("up", up), ("down", block.experts.down_proj)):
            getattr(mine.experts, name).copy_(weight)
        if mine.shared is not None and mine.router.bias is not None:
            mine.router.bias.copy_(block.gate.e_score_correction_bias)
            for name in ("gate", "up", "down"):
                getattr(mine.shared, name).weight.copy_(getattr(block.shared_experts, f"{name}_proj").weight)
        x = tokens(3, 40, 32)
        assert (mine(x) - block(x)).abs().max() <= 1e-5


@pytest.mark.parametrize(("activation", "threads"), [("relu2", 3), ("swiglu", 2)])
def test_gradients_do_not_depend_on_the_number_of_threads(activation: str, threads: int) -> None:
    def on(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        experts = Experts(32, 2, 64, capacity=1.0, scores="sigmoid", balance_loss=0.01, z_loss=0.001)
        block = made(experts, activation, width=64)
        x = tokens(4, 128, 64).requires_grad_()
        output = block(x)
        assert block.auxiliary is not None
        loss = (output * tokens(4, 128, 64, seed=4)).sum(-1).sum(1).sum() + block.auxiliary
        return [block.auxiliary.detach(), output.detach(), *torch.autograd.grad(loss, (x, *block.parameters()))]

    before = torch.get_num_threads()
    try:
        alone, several = on(1), on(threads)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(alone, several, strict=True))


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    block, x = made(replace(TOP2, shared=8)), tokens(4, 8, 16)
    whole = block(x)
    for row in range(4):
        assert torch.allclose(block(x[row : row + 1]), whole[row : row + 1], atol=1e-6)
    assert torch.allclose(block(x[2:3, 5:6]), whole[2:3, 5:6], atol=1e-6)


def test_auxiliary_losses_are_those_of_the_papers() -> None:
    x = tokens(2, 9, 16)
    block = made(replace(SWITCH, balance_loss=1.0))
    block(x)
    logits = x.flatten(0, 1) @ block.router.weight.T
    likely = logits.softmax(1)
    share = torch.bincount(likely.argmax(1), minlength=4) / 18  # of tokens, before any is dropped
    assert block.auxiliary is not None and torch.isclose(block.auxiliary, 4 * (share * likely.mean(0)).sum())
    block = made(replace(TOP2, z_loss=1.0))
    block(x)
    assert block.auxiliary is not None and torch.isclose(block.auxiliary, torch.logsumexp(logits, 1).square().mean())
    block = made(replace(TOP2, balance_loss=1.0))
    torch.nn.init.zeros_(block.router.weight)
    block(x)
    assert block.auxiliary is not None and torch.isclose(block.auxiliary, torch.tensor(1.0))  # the least there is, for any top_k
    assert made(TOP2).auxiliary is None


def test_the_bias_goes_to_idle_experts() -> None:
    bias = balance(torch.tensor([[9, 3, 6, 6], [0, 0, 0, 4]]), torch.zeros(2, 4), 0.1)
    assert torch.allclose(bias, torch.tensor([[-0.1, 0.1, 0.0, 0.0], [0.1, 0.1, 0.1, -0.1]]))


@pytest.mark.parametrize(
    ("change", "experts", "message"),
    [
        ({"width": 20}, TOP2, "width = 20.* a multiple of 8"),
        ({}, replace(TOP2, mlp_width=20), "mlp_width = 20.* a multiple of 8"),
        ({"mlp_bias": True}, TOP2, "experts have no biases"),
    ],
)
def test_a_shape_that_experts_cannot_have_is_refused(change: dict[str, Any], experts: Experts, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExpertMLP(replace(config(), **change), experts)
