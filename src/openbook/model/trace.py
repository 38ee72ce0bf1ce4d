"""What happens inside a model while it reads a text: a plain pass beside the fast one, which keeps everything.

Layers are computed by their own modules, one by one; attention's probabilities, which the fast pass never has, by their formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from openbook.model.attention import visible
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Layer, Transformer


@dataclass(frozen=True)
class Trace:
    """tokens: (time). attention: of each layer (heads, time, time), rows add up to 1. residual: before the first layer and after each,
    (time, width)."""

    tokens: Tensor
    attention: tuple[Tensor, ...]
    residual: tuple[Tensor, ...]


@torch.no_grad()
def trace(model: Transformer, tokens: Sequence[int]) -> Trace:
    """Reads tokens. Raises ValueError beyond the context."""
    identifiers = torch.tensor([list(tokens)], device=model.embedding.weight.device)
    x, rotary = model.embedded(identifiers, 0)
    attention, residual = [], [x[0]]
    for layer in cast(Iterable[Layer], model.layers):
        attention.append(_probabilities(layer, x, rotary))
        x, _ = layer(x, rotary, None)
        residual.append(x[0])
    return Trace(identifiers[0], tuple(attention), tuple(residual))


def _probabilities(layer: Layer, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """(heads, time, time): what each token takes from each one before it."""
    attention = layer.attention
    query, key, _ = attention.projected(x if layer.place == "post" else layer.attention_norm(x), rotary)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scale = attention.head_width**-0.5 if attention.scale is None else attention.scale
    scores = (query @ key.mT)[0].float() * scale  # (heads, time, time)
    if attention.softcap is not None:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    return scores.masked_fill(~visible(0, x.shape[1], attention.window, x.device), -math.inf).softmax(-1)


@torch.no_grad()
def lens(model: Transformer, seen: Trace, tokenizer: Tokenizer) -> dict[str, Any]:
    """What each layer makes of a text, JSON-ready.

    lens: the likeliest next token of every position if the layer were the last (nostalgebraist 2020, "logit lens"). outlier: the largest
    absolute activation over the deviation of all, and its channel (Dettmers et al. 2022). first: the share of attention that goes to the
    first token (Xiao et al. 2023, "attention sinks"). entropy: of a head's attention, in bits, on average over the positions.
    """
    rows = []
    for index, hidden in enumerate(seen.residual):
        normal = hidden if model.final_norm is None else model.final_norm(hidden)
        probability, best = model.logits(normal).softmax(-1).max(-1)  # (time) each
        guesses = [{"token": _spelt(tokenizer, int(token)), "probability": float(p)} for token, p in zip(best, probability, strict=True)]
        largest = hidden.float().abs().amax(0)  # (width)
        rows.append(
            {
                "layer": index,
                "outlier": float(largest.max() / hidden.float().std().clamp_min(1e-30)),
                "channel": int(largest.argmax()),
                "heads": _heads(seen.attention[index - 1]) if index else [],
                "lens": guesses,
            }
        )
    return {"tokens": [_spelt(tokenizer, int(token)) for token in seen.tokens], "layers": rows}


def _spelt(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; its number where a vocabulary is padded and nothing is there."""
    try:
        return tokenizer.decode([token])
    except KeyError:
        return f"<{token}>"


def _heads(attention: Tensor) -> list[dict[str, float]]:
    first = attention[:, :, 0].mean(1)
    entropy = -(attention * attention.clamp_min(1e-30).log2()).sum(-1).mean(1)
    return [{"first": float(share), "entropy": float(bits)} for share, bits in zip(first, entropy, strict=True)]
