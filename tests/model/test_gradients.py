"""What is written by hand for speed, against plain autograd formulas: values, gradients, and bits for any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.model import attention as attention_module
from openbook.model.attention import attend, flexible, plainly, visible
from openbook.model.config import Window
from openbook.model.initialise import initialise
from openbook.model.loss import head_loss
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
STRIDED = replace(BANDED, windows=(Window(30, 16), Window(70, 3)), score_softcap=3.0, logit_softcap=9.0, head_bias=True)
NEOX = replace(GPT, positions="rotary", norm_place="parallel", activation="gelu", kv_heads=2)
STYLES = {"neox": NEOX, "modern": MODERN, "gpt": GPT, "banded": BANDED, "strided": STRIDED}


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

    def neighbours(x: Tensor) -> Tensor:
        """Of the first 16 of 20 elements."""
        x = x.transpose(1, 2)
        turned = torch.view_as_complex(x[..., :16].unflatten(-1, (-1, 2)).contiguous()) * torch.complex(cos, sin)
        return torch.cat((torch.view_as_real(turned).flatten(-2), x[..., 16:]), -1)

    same(lambda x: rotate(x, cos, sin), plain, [torch.randn(2, 9, 3, 16)])
    same(lambda x: rotate(x, cos, sin, neighbours=True), neighbours, [torch.randn(2, 9, 3, 20)])


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


@pytest.mark.parametrize("stride", [None, 1, 7, 64, 130])
@pytest.mark.parametrize(("width", "softcap"), [(1, None), (7, 2.0), (70, None), (130, 2.0)])
def test_strides_and_caps(width: int, softcap: float | None, stride: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    window, time = Window(width, stride), 197
    shapes = [(2, 4, time, 8), (2, 2, time, 8), (2, 2, time, 8)]
    seen = visible(0, time, window, torch.device("cpu"))

    def plain(*parts: Tensor) -> Tensor:
        return plainly(*parts, seen, 0.7, softcap)

    same(lambda *parts: attend(*parts, window, 0.7, softcap), plain, [torch.randn(shape) for shape in shapes], 1e-4)
    monkeypatch.setattr(attention_module, "BLOCKWISE_CONTEXT", 0)  # probabilities are computed again
    same(lambda *parts: attend(*parts, window, 0.7, softcap), plain, [torch.randn(shape) for shape in shapes], 1e-4)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [Window(50), Window(20, 7)])
def test_what_a_gpu_is_told_is_the_same_attention(window: Window, softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flex attention as it is, not compiled for a GPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    monkeypatch.setattr(attention_module, "_flex", lambda: (flex_attention, create_block_mask))
    query, key, value = (torch.randn(2, heads, 200, 16) for heads in (4, 2, 2))
    expected = plainly(query, key, value, visible(0, 200, window, torch.device("cpu")), 0.3, softcap)
    assert torch.allclose(flexible(query, key, value, window, 0.3, softcap), expected, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_the_head_loss_with_a_bias_and_a_cap(softcap: float | None) -> None:
    targets = torch.randint(0, 50, (300,))

    def plain(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        logits = F.linear(hidden, weight, bias)
        return F.cross_entropy(logits if softcap is None else softcap * torch.tanh(logits / softcap), targets)

    inputs = [torch.randn(300, 16), torch.randn(50, 16), torch.randn(50)]
    same(lambda hidden, weight, bias: head_loss(hidden, weight, targets, bias, softcap), plain, inputs)


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
    for threads in (2, 5):  # five cut most sizes unevenly
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
