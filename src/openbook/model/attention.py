"""Causal attention, of everything before or within a window, and its key-value cache."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.model.blockwise import blockwise
from openbook.model.config import TransformerConfig, Window
from openbook.model.parts import Linear, RMSNorm
from openbook.model.positions import rotate

BLOCKWISE_CONTEXT = 1024
"""Up to here training on a CPU keeps the probabilities, which saves a third of attention's time; beyond, their memory would dominate."""


def sees(window: Window | None, distance: Tensor) -> Tensor:
    """Whether a query sees the key so many positions before its own."""
    before = distance >= 0
    if window is None:
        return before
    near = distance < window.width
    return before & (near if window.stride is None else near | (distance % window.stride == 0))


def visible(start: int, time: int, window: Window | None, device: torch.device) -> Tensor:
    """(time, start + time): what new token i, at position start + i, sees."""
    keys = torch.arange(start + time, device=device)
    return sees(window, keys[start:, None] - keys)


def plainly(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float, softcap: float | None = None) -> Tensor:
    """Attention as its formula says, for any device: softmax of capped scores over what is seen, times the values.

    query: (batch, heads, time, head_width); key, value: (batch, kv_heads, keys, head_width); seen: (…, time, keys). It tests all else.
    """
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    scores = (query @ key.mT) * scale  # (batch, heads, time, keys)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~seen, -math.inf).softmax(-1) @ value


@functools.cache
def _flex() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(flex_attention), functools.lru_cache(64)(create_block_mask)


@functools.cache
def _mask(window: Window | None) -> Callable[..., Tensor]:
    """One function a window, so that the table of blocks made of it is made once."""
    return lambda batch, head, query, key: sees(window, query - key)


@functools.cache
def _cap(softcap: float) -> Callable[..., Tensor]:
    return lambda score, batch, head, query, key: softcap * torch.tanh(score / softcap)


def flexible(query: Tensor, key: Tensor, value: Tensor, window: Window | None, scale: float, softcap: float | None) -> Tensor:
    """The same on a GPU (Dong et al. 2024, "Flex Attention"): blocks that a window hides cost nothing."""
    attention, blocks = _flex()
    time = query.shape[2]
    shown = blocks(_mask(window), None, None, time, time, device=query.device)
    capped = None if softcap is None else _cap(softcap)
    grouped = query.shape[1] != key.shape[1]
    output: Tensor = attention(query, key, value, score_mod=capped, block_mask=shown, scale=scale, enable_gqa=grouped)
    return output


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: Window | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """Causal attention; a query sees what the window says, or all before it and itself.

    query: (batch, heads, time, head_width); key, value: (batch, kv_heads, past + time, head_width), of which the last `time` belong to
    the queries. `scale`: of the scores, None for 1 / sqrt(head_width). segments: (batch, time) numbers; a query sees keys of its own number
    only; not with a past. Returns the shape of query.
    """
    time, past = query.shape[2], key.shape[2] - query.shape[2]
    on_cpu = query.device.type == "cpu" and not torch.compiler.is_compiling()  # which makes plain products of its own
    if on_cpu and query.dtype != torch.float32 and not past:  # torch's is several times as slow backward in bf16
        return attend(query.float(), key.float(), value.float(), window, scale, softcap, segments).to(query.dtype)
    grouped = query.shape[1] != key.shape[1]
    factor = query.shape[3] ** -0.5 if scale is None else scale
    if window is not None and past + time <= window.width:
        window = None
    if window is not None and window.stride is None and past:
        key, value = (part[:, :, -(window.width + time - 1) :] for part in (key, value))
        past = key.shape[2] - time
        window = window if time > 1 else None
    special = window is not None or softcap is not None
    blocked = segments is None or window is None or window.stride is None  # a strided row of several documents is rare
    if on_cpu and query.dtype == torch.float32 and not past and (special or time <= BLOCKWISE_CONTEXT) and blocked:
        if grouped:
            key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        return blockwise(query, key, value, window, factor, softcap, time <= BLOCKWISE_CONTEXT, segments)
    if query.is_cuda and not past and special and segments is None:
        return flexible(query, key, value, window, factor, softcap)
    if not special and segments is None and (not past or time == 1):
        return F.scaled_dot_product_attention(query, key, value, is_causal=not past, scale=scale, enable_gqa=grouped)
    seen = visible(past, time, window, query.device)
    if segments is not None:
        seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])  # (batch, 1, time, time)
    if softcap is not None:
        return plainly(query, key, value, seen, factor, softcap)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=grouped)


class Attention(nn.Module):
    """Causal grouped-query attention; queries and keys may be RMS-normalised by head, then rotated."""

    def __init__(self, config: TransformerConfig, window: Window | None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.window = config.heads, config.kv_heads, config.head_width, window
        self.scale, self.softcap, self.neighbours = config.score_scale, config.score_softcap, config.rotary.pairs == "neighbours"
        self.query = Linear(config.width, self.heads * self.head_width, config.qkv_bias)
        self.key = Linear(config.width, self.kv_heads * self.head_width, config.qkv_bias)
        self.value = Linear(config.width, self.kv_heads * self.head_width, config.qkv_bias)
        self.output = Linear(self.heads * self.head_width, config.width, config.output_bias)
        self.query_norm = RMSNorm(self.head_width, config.norm_eps) if config.query_key_norm else None
        self.key_norm = RMSNorm(self.head_width, config.norm_eps) if config.query_key_norm else None

    def projected(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cached: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, (batch, heads, time, head_width), keys and values, (batch, kv_heads, time, head_width)."""
        batch, time, _ = x.shape
        query = self.query(x).view(batch, time, self.heads, self.head_width)
        key = self.key(x).view(batch, time, self.kv_heads, self.head_width)
        value = self.value(x).view(batch, time, self.kv_heads, self.head_width).transpose(1, 2)  # (batch, kv_heads, time, head_width)
        if x.device.type == "cpu" and not cached:  # norms, rotation and attention take half as long in fp32 there as in bf16
            query, key, value = query.float(), key.float(), value.float()
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotary is None:
            return query.transpose(1, 2), key.transpose(1, 2), value
        return rotate(query, *rotary, self.neighbours), rotate(key, *rotary, self.neighbours), value

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: LayerCache | None, segments: Tensor | None = None) -> Tensor:
        query, key, value = self.projected(x, rotary, cache is not None)
        if cache is not None:
            key, value = cache.append(key, value)  # (batch, kv_heads, past + time, head_width)
        mixed = attend(query, key, value, self.window, self.scale, self.softcap, segments)  # (batch, heads, time, head_width)
        return self.output(mixed.transpose(1, 2).flatten(2).to(x.dtype))


class LayerCache:
    """Keys and values of one layer for the positions seen so far, in space that is reserved once."""

    def __init__(self, batch: int, config: TransformerConfig, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (batch, config.kv_heads, capacity, config.head_width)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds (batch, kv_heads, time, head_width) and returns all positions so far."""
        stop = self.length + key.shape[2]
        self.keys[:, :, self.length : stop] = key
        self.values[:, :, self.length : stop] = value
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]
