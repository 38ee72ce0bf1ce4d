"""The transformer as its papers' formulas say, with nothing done for speed: what the real one is compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.model.attention import plainly
from openbook.model.config import TransformerConfig, Window

ACTIVATIONS = {
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "geglu": lambda gate, up: F.gelu(gate, approximate="tanh") * up,
    "gelu": F.gelu,
    "gelu-tanh": lambda up: F.gelu(up, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda up: F.relu(up) ** 2,
}


def shown(window: Window | None, time: int) -> Tensor:
    """(time, time): pair by pair."""

    def pair(query: int, key: int) -> bool:
        if key > query or window is None:
            return key <= query
        near = query - key < window.width
        return near or (window.stride is not None and (query - key) % window.stride == 0)

    return torch.tensor([[pair(query, key) for key in range(time)] for query in range(time)])


def turned(config: TransformerConfig, x: Tensor) -> Tensor:
    """Rotary positions as products of complex numbers. x: (batch, heads, time, head_width)."""
    rotary, width = config.rotary, round(config.rotary.share * config.head_width)
    frequency = torch.tensor([rotary.theta ** (-2 * pair / width) for pair in range(width // 2)])
    angle = torch.outer(torch.arange(x.shape[2]).float(), frequency)
    part, rest = x[..., :width], x[..., width:]
    pairs = part.unflatten(-1, (-1, 2)) if rotary.pairs == "neighbours" else part.unflatten(-1, (2, -1)).transpose(-1, -2)
    product = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angle), angle))
    joined = product if rotary.pairs == "neighbours" else product.transpose(-1, -2)
    return torch.cat((joined.flatten(-2), rest), -1)


def logits(config: TransformerConfig, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """(batch, time, vocabulary), of a model without experts. weights: by the parameters' names."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        weight = weights[f"{name}.weight"]
        if config.norm == "rms" or name.endswith(("query_norm", "key_norm")):
            return F.rms_norm(x, x.shape[-1:], weight, config.norm_eps)
        return F.layer_norm(x, x.shape[-1:], weight, weights[f"{name}.bias"], config.norm_eps)

    def attention(layer: int, x: Tensor) -> Tensor:
        name = f"layers.{layer}.attention"
        query, key, value = (linear(f"{name}.{part}", x).unflatten(-1, (-1, config.head_width)) for part in ("query", "key", "value"))
        if config.query_key_norm:
            query, key = norm(f"{name}.query_norm", query), norm(f"{name}.key_norm", key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if config.positions == "rotary":
            query, key = turned(config, query), turned(config, key)
        scale = 1 / math.sqrt(config.head_width) if config.score_scale is None else config.score_scale
        mixed = plainly(query, key, value, shown(config.window(layer), x.shape[1]), scale, config.score_softcap)
        return linear(f"{name}.output", mixed.transpose(1, 2).flatten(2)) * config.residual_scale

    def mlp(layer: int, x: Tensor) -> Tensor:
        name = f"layers.{layer}.mlp"
        inner = [linear(f"{name}.{part}", x) for part in ("gate", "up") if f"{name}.{part}.weight" in weights]
        return linear(f"{name}.down", ACTIVATIONS[config.activation](*inner)) * config.residual_scale

    x = weights["embedding.weight"][tokens] * config.embedding_scale
    if config.embedding_width:
        x = linear("embedding_projection", x)
    if config.positions == "learned":
        x = x + weights["position.weight"][config.position_offset :][: tokens.shape[1]]
    for layer in range(config.layers):
        names = [f"layers.{layer}.{part}_norm" for part in ("attention", "mlp")]
        if config.norm_place == "post":
            x = norm(names[0], x + attention(layer, x))
            x = norm(names[1], x + mlp(layer, x))
        elif config.norm_place == "pre":
            x = x + attention(layer, norm(names[0], x))
            x = x + mlp(layer, norm(names[1], x))
        else:
            second = names[0] if config.norm_place == "parallel-shared" else names[1]
            x = x + attention(layer, norm(names[0], x)) + mlp(layer, norm(second, x))
    if config.norm_place != "post":
        x = norm("final_norm", x)
    if config.embedding_width:
        x = linear("head_projection", x)
    found = F.linear(x, weights["embedding.weight" if config.tied_head else "head.weight"], weights.get("head.bias"))
    return found if config.logit_softcap is None else config.logit_softcap * torch.tanh(found / config.logit_softcap)
