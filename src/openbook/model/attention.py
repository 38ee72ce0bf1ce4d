"""Causal attention, dense or within a band, and its key-value cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.model.config import TransformerConfig
from openbook.model.parts import Linear, RMSNorm

ROWS, HEADS = 64, 16
"""Queries and heads whose scores are computed at once on a CPU: they stay in its cache."""
BLOCKWISE_CONTEXT = 1024
"""Up to here training on a CPU keeps the probabilities, which saves a third of attention's time; beyond, their memory would dominate."""


class _Rotate(torch.autograd.Function):
    """x: (batch, time, heads, head_width) -> (batch, heads, time, head_width); the gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x.transpose(1, 2), cos, sin, -1.0)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(outputs[0].transpose(1, 2), cos[:, None], sin[:, None], 1.0), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """A new contiguous tensor, whatever the strides of x."""
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (first, second), (left, right) = x.chunk(2, -1), output.chunk(2, -1)
    torch.mul(x, torch.cat((cos, cos), -1), out=output)
    left.addcmul_(second, sin, value=sign)
    right.addcmul_(first, sin, value=-sign)
    return output


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) on halves.

    x: (batch, time, heads, head_width); cos, sin: (time, head_width/2). Returns (batch, heads, time, head_width).
    """
    rotated: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return rotated


def visible(start: int, time: int, band: int | None, device: torch.device) -> Tensor:
    """(time, start + time): new token i, at position start + i, sees up to its own position, and no more than `band` positions."""
    keys = torch.arange(start + time, device=device)
    queries = keys[start:, None]
    seen = keys <= queries
    return seen if band is None else seen & (keys > queries - band)


def _blocks(time: int, band: int | None, like: Tensor) -> Iterator[tuple[int, int, int, int, Tensor]]:
    """For a block of queries first … last - 1: the keys that it sees begin at `begin`, and `mask` goes on the scores of the keys from
    `masked` on; those before are seen by the whole block."""
    for first in range(0, time, ROWS):
        last = min(first + ROWS, time)
        begin = max(0, first - band + 1) if band else 0
        masked = begin if last - begin > (band or last) else first
        seen = visible(first - masked, last - first, band, like.device)
        yield first, last, begin, masked, torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -math.inf)


class _Blockwise(torch.autograd.Function):
    """query, key, value: (batch * heads, time, head_width), contiguous; segments: (batch * heads, time) or None."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, band: int | None, segments: Tensor | None) -> Tensor:
        output, kept = torch.empty_like(query), []
        scale, nothing = query.shape[2] ** -0.5, query.new_empty(())
        for first, last, begin, masked, mask in _blocks(query.shape[1], band, query):
            for heads in _slices(query.shape[0]):
                keys = key[heads, begin:last].mT
                scores = torch.baddbmm(nothing, query[heads, first:last], keys, beta=0, alpha=scale)  # (heads, rows, keys)
                scores[:, :, masked - begin :] += mask
                if segments is not None:
                    scores.masked_fill_(segments[heads, first:last, None] != segments[heads, None, begin:last], -math.inf)
                probabilities = torch.softmax(scores, -1)
                torch.bmm(probabilities, value[heads, begin:last], out=output[heads, first:last])
                kept.append(probabilities)
        ctx.band = band
        ctx.save_for_backward(query, key, value, output, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, *kept = ctx.saved_tensors
        gradient = outputs[0].contiguous()
        scale, nothing = query.shape[2] ** -0.5, query.new_empty(())
        by_query, by_key, by_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        mean = -(gradient * output).sum(-1, keepdim=True)  # (batch * heads, time, 1)
        remaining = iter(kept)
        for first, last, begin, _, _ in _blocks(query.shape[1], ctx.band, query):
            for heads in _slices(query.shape[0]):
                probabilities, part = next(remaining), gradient[heads, first:last]
                by_value[heads, begin:last] += torch.bmm(probabilities.mT, part)
                scores = torch.baddbmm(mean[heads, first:last], part, value[heads, begin:last].mT).mul_(probabilities)
                torch.baddbmm(nothing, scores, key[heads, begin:last], beta=0, alpha=scale, out=by_query[heads, first:last])
                by_key[heads, begin:last].add_(torch.bmm(scores.mT, query[heads, first:last]), alpha=scale)
        return by_query, by_key, by_value, None, None


def _slices(heads: int) -> list[slice]:
    return [slice(start, start + HEADS) for start in range(0, heads, HEADS)]


def attend(query: Tensor, key: Tensor, value: Tensor, band: int | None = None, segments: Tensor | None = None) -> Tensor:
    """Causal attention; a query sees `band` positions, its own included, or all before it.

    query: (batch, heads, time, head_width); key, value: (batch, kv_heads, past + time, head_width), of which the last `time` belong to
    the queries. segments: (batch, time) numbers; a query sees keys of its own number only; not with a past. Returns the shape of query.
    """
    time, past = query.shape[2], key.shape[2] - query.shape[2]
    if query.device.type == "cpu" and query.dtype != torch.float32 and not past:  # torch's is several times as slow backward in bf16
        return attend(query.float(), key.float(), value.float(), band, segments).to(query.dtype)
    grouped = query.shape[1] != key.shape[1]
    if query.device.type == "cpu" and query.dtype == torch.float32 and not past and time <= BLOCKWISE_CONTEXT:
        if grouped:
            key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        by_head = None if segments is None else segments.repeat_interleave(query.shape[1], dim=0)  # (batch * heads, time)
        flat = (part.contiguous().flatten(0, 1) for part in (query, key, value))
        mixed: Tensor = _Blockwise.apply(*flat, band, by_head)  # type: ignore[no-untyped-call]
        return mixed.view(query.shape)
    whole = band is None or past + time <= band
    if whole and segments is None and (not past or time == 1):
        return F.scaled_dot_product_attention(query, key, value, is_causal=not past, enable_gqa=grouped)
    mask = visible(past, time, band, query.device)
    if segments is not None:
        mask = mask & (segments[:, None, :, None] == segments[:, None, None, :])  # (batch, 1, time, time)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)


class Attention(nn.Module):
    """Causal grouped-query attention. In the modern style queries and keys are RMS-normalised, then rotated."""

    def __init__(self, config: TransformerConfig, band: int | None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.band = config.heads, config.kv_heads, config.head_width, band
        self.query = Linear(config.width, self.heads * self.head_width, config.projection_bias)
        self.key = Linear(config.width, self.kv_heads * self.head_width, config.projection_bias)
        self.value = Linear(config.width, self.kv_heads * self.head_width, config.projection_bias)
        self.output = Linear(self.heads * self.head_width, config.width, bias=config.style == "gpt")
        if config.style == "modern":
            self.query_norm = RMSNorm(self.head_width, config.norm_eps)
            self.key_norm = RMSNorm(self.head_width, config.norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: LayerCache | None, segments: Tensor | None = None) -> Tensor:
        batch, time, _ = x.shape
        query = self.query(x).view(batch, time, self.heads, self.head_width)
        key = self.key(x).view(batch, time, self.kv_heads, self.head_width)
        value = self.value(x).view(batch, time, self.kv_heads, self.head_width).transpose(1, 2)  # (batch, kv_heads, time, head_width)
        if x.device.type == "cpu" and cache is None:  # norms, rotation and attention take half as long in fp32 there as in bf16
            query, key, value = query.float(), key.float(), value.float()
        if rotary is None:
            query, key = query.transpose(1, 2), key.transpose(1, 2)
        else:
            query, key = rotate(self.query_norm(query), *rotary), rotate(self.key_norm(key), *rotary)
        if cache is not None:
            key, value = cache.append(key, value)  # (batch, kv_heads, past + time, head_width)
        mixed = attend(query, key, value, self.band, segments)  # (batch, heads, time, head_width)
        return self.output(mixed.transpose(1, 2).reshape(batch, time, -1).to(x.dtype))


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
