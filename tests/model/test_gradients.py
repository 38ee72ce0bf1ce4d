"""What is written by hand for speed, against plain autograd formulas: values, gradients, and bits for any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.model import attention as attention_module
from openbook.model.attention import attend, visible
from openbook.model.config import Window
from openbook.model.initialise import initialise
from openbook.model.parts import LayerNorm, RMSNorm, gated, gelu
from openbook.model.positions import rotate
from openbook.model.transformer import Activations, Transformer, TransformerConfig

BIASES: dict[str, Any] = {"qkv_bias": True, "output_bias": True, "mlp_bias": True}
GPT_STYLE: dict[str, Any] = {
    "norm": "layer",
    "norm_eps": 1e-5,
    "positions": "learned",
    "activation": "gelu-tanh",
    "tied_head": True,
    **BIASES,
}
MODERN = TransformerConfig(700, 200, 3, 96, 6, 3, 16, 160, query_key_norm=True)
GPT = TransformerConfig(700, 200, 3, 96, 6, 6, 16, 384, **GPT_STYLE)
BANDED = TransformerConfig(700, 200, 4, 96, 6, 6, 16, 384, windows=(None, Window(50)), **GPT_STYLE)
STYLES = {"modern": MODERN, "gpt": GPT, "banded": BANDED}


def same(ours: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: Sequence[Tensor], tolerance: float = 2e-5) -> None:
    """Both give the same value and, for a random gradient, the same gradients of all inputs."""
    inputs = [tensor.requires_grad_() for tensor in inputs]
    found, expected = ours(*inputs), plain(*inputs)
    assert torch.allclose(found, expected, atol=tolerance), (found - expected).abs().max()
    gradient = torch.randn_like(expected)
    pairs = zip(torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True)
    for mine, other in pairs:
        assert torch.allclose(mine, other, atol=tolerance * max(1.0, other.abs().max().item())), (mine - other).abs().max()


@pytest.mark.parametrize("shape", [(5, 7, 32), (3, 9, 4, 16)])
def test_norms(shape: tuple[int, ...]) -> None:
    width = shape[-1]
    norm, layer_norm = RMSNorm(width, 1e-5), LayerNorm(width, 1e-5)

    def with_values(module: torch.nn.Module) -> Callable[..., Tensor]:
        names = [name for name, _ in module.named_parameters()]
        return lambda x, *values: torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

    x, weight, bias = torch.randn(shape) * 3 + 1, torch.randn(width), torch.randn(width)
    same(with_values(norm), lambda x, weight: F.rms_norm(x, (width,), weight, 1e-5), [x, weight])
    same(with_values(layer_norm), lambda x, weight, bias: F.layer_norm(x, (width,), weight, bias, 1e-5), [x, weight, bias])


def test_rotation() -> None:
    angle = torch.rand(9, 8) * 6
    cos, sin = angle.cos(), angle.sin()

    def plain(x: Tensor) -> Tensor:
        first, second = x.transpose(1, 2).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    same(lambda x: rotate(x, cos, sin), plain, [torch.randn(2, 9, 3, 16)])


def test_gelu() -> None:
    same(gelu, lambda x: F.gelu(x, approximate="tanh"), [torch.cat((torch.randn(50, 20) * 3, torch.full((1, 20), -60.0)))])


def test_gate() -> None:
    same(gated, lambda gate, up: F.silu(gate) * up, [torch.randn(50, 20) * 5, torch.randn(50, 20)])


@pytest.mark.parametrize("band", [None, 1, 5, 64, 70, 150, 500])
@pytest.mark.parametrize("time", [3, 64, 65, 200])
def test_attention(time: int, band: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = torch.tensor([[0 <= i - j < (band or time) for j in range(time)] for i in range(time)])
    shapes = [(3, 4, time, 16), (3, 2, time, 16), (3, 2, time, 16)]
    window = Window(band) if band else None

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (part.repeat_interleave(2, dim=1) for part in (key, value))
        scores = (query @ key.mT / 4).masked_fill(~seen, -torch.inf)
        return scores.softmax(-1) @ value

    assert torch.equal(visible(0, time, window, torch.device("cpu")), seen)
    same(lambda *parts: attend(*parts, window), plain, [torch.randn(shape) for shape in shapes])
    monkeypatch.setattr(attention_module, "BLOCKWISE_CONTEXT", 0)
    same(lambda *parts: attend(*parts, window), plain, [torch.randn(shape) for shape in shapes])


def gradients(config: TransformerConfig, activations: Activations = "keep", threads: int = 1) -> dict[str, Tensor]:
    model = Transformer(config)
    initialise(model, 1, 0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.sin(torch.arange(parameter.numel()).view(parameter.shape)), alpha=0.05)  # nothing stays 0 or 1
    model.activations = activations
    tokens = torch.arange(9 * 201).mul(7919).remainder(config.vocab_size).view(9, 201)
    with threaded(threads):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None} | {"loss": loss.detach()}


@contextmanager
def threaded(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("style", STYLES)
def test_no_bit_depends_on_the_number_of_threads(style: str) -> None:
    alone = gradients(STYLES[style])
    for threads in (2, 3):
        for name, gradient in gradients(STYLES[style], threads=threads).items():
            assert torch.equal(gradient, alone[name]), (threads, name)


@pytest.mark.parametrize("activations", ["selective", "full"])
@pytest.mark.parametrize("style", STYLES)
def test_no_bit_depends_on_which_activations_are_kept(style: str, activations: Activations) -> None:
    kept = gradients(STYLES[style])
    for name, gradient in gradients(STYLES[style], activations).items():
        assert torch.equal(gradient, kept[name]), name


@pytest.mark.parametrize("style", STYLES)
def test_fewer_activations_are_kept(style: str) -> None:
    def kept(activations: Activations) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = Transformer(STYLES[style])
        initialise(model, 1)
        model.activations = activations
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.zeros(2, 200, dtype=torch.long))
        return sum(sizes.values())

    assert kept("full") < 0.5 * kept("keep")
