"""Causal attention on a CPU, a block of queries at a time: scores stay in its cache, and nothing is computed that a window hides.

A stride makes two bands of one attention: the near positions, and, once queries and keys are grouped by their remainder, those at
distance 1, 2, … in the group. Each band gives its mixture and the logarithm of the sum of its exponentials, and the two are merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.model.config import Window
from openbook.model.elementwise import evenly, pieces

ROWS, HEADS = 64, 16
"""Queries and heads whose scores are computed at once: they stay in the processor's cache."""
HIDDEN = -1e30
"""Added to the score of what is not seen. Finite, so that a query that sees nothing of a band gives numbers, which then weigh nothing."""


@dataclass(frozen=True)
class Band:
    """Query i sees key j if near <= i - j < far. `kept`: keep the probabilities for the backward pass instead of computing them again."""

    near: int
    far: int | None
    scale: float
    softcap: float | None
    kept: bool


@dataclass(frozen=True)
class Block:
    """Queries first … last - 1, keys begin … end - 1; `mask` goes on the scores of the keys from `masked` on, all see the others."""

    first: int
    last: int
    begin: int
    end: int
    masked: int
    mask: Tensor


def _blocks(time: int, band: Band, like: Tensor) -> Iterator[Block]:
    for first in range(0, time, ROWS):
        last = min(first + ROWS, time)
        begin, end = max(0, first - band.far + 1) if band.far else 0, last - band.near
        if end <= begin:
            continue
        masked = begin if end - begin > (band.far or end) - band.near else max(begin, first - band.near)
        distance = torch.arange(first, last, device=like.device)[:, None] - torch.arange(masked, end, device=like.device)
        hidden = distance < band.near
        if band.far:
            hidden |= distance >= band.far
        yield Block(
            first, last, begin, end, masked, torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, HIDDEN)
        )


def _slices(heads: int) -> list[slice]:
    return [slice(start, start + HEADS) for start in range(0, heads, HEADS)]


def _scores(query: Tensor, key: Tensor, heads: slice, block: Block, band: Band, segments: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(heads, rows, keys), masked; and, with a softcap, the derivative of capping."""
    nothing, keys = query.new_empty(()), key[heads, block.begin : block.end].mT
    scores = torch.baddbmm(nothing, query[heads, block.first : block.last], keys, beta=0, alpha=band.scale)
    slope = None
    if band.softcap is not None:
        bounded = scores.div_(band.softcap)
        for (part,) in pieces(bounded):
            part.tanh_()
        slope = 1 - bounded.square()
        scores = bounded.mul_(band.softcap)
    scores[:, :, block.masked - block.begin :] += block.mask
    if segments is not None:
        own, others = segments[heads, block.first : block.last, None], segments[heads, None, block.begin : block.end]
        scores.masked_fill_(own != others, HIDDEN)
    return scores, slope


class _Blockwise(torch.autograd.Function):
    """query, key, value: (batch * heads, time, head_width), contiguous; segments: (batch * heads, time) or None. Gives the mixture, and
    the logarithm of the sum of the exponentials of the scores: (batch * heads, time)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, band: Band, segments: Tensor | None) -> tuple[Tensor, Tensor]:
        output, kept = torch.zeros_like(query) if band.near else torch.empty_like(query), []
        sums = query.new_full(query.shape[:2], HIDDEN)
        for block in _blocks(query.shape[1], band, query):
            for heads in _slices(query.shape[0]):
                scores, _ = _scores(query, key, heads, block, band, segments)
                probabilities = torch.softmax(scores, -1)
                torch.bmm(probabilities, value[heads, block.begin : block.end], out=output[heads, block.first : block.last])
                if band.near or band.far:  # the likeliest has the probability exp(largest score) / sum
                    sums[heads, block.first : block.last] = scores.amax(-1) - probabilities.amax(-1).log()
                if band.kept:
                    kept.append(probabilities)
        ctx.band, ctx.segments = band, segments
        ctx.save_for_backward(query, key, value, output, *kept)
        return output, sums

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, *kept = ctx.saved_tensors
        band, gradient = ctx.band, outputs[0].contiguous()
        nothing = query.new_empty(())
        by_query = torch.zeros_like(query) if band.near else torch.empty_like(query)
        by_key, by_value = torch.zeros_like(key), torch.zeros_like(value)
        mean = -(gradient * output).sum(-1, keepdim=True)  # (batch * heads, time, 1)
        if band.near or band.far:
            mean += outputs[1].unsqueeze(-1)
        remaining = iter(kept)
        for block in _blocks(query.shape[1], band, query):
            rows, keys = slice(block.first, block.last), slice(block.begin, block.end)
            for heads in _slices(query.shape[0]):
                if band.kept:
                    probabilities, slope = next(remaining), None
                else:
                    scores, slope = _scores(query, key, heads, block, band, ctx.segments)
                    probabilities = torch.softmax(scores, -1)
                part = gradient[heads, rows]
                by_value[heads, keys] += torch.bmm(probabilities.mT, part)
                scores = torch.baddbmm(mean[heads, rows], part, value[heads, keys].mT).mul_(probabilities)
                if slope is not None:
                    scores.mul_(slope)
                torch.baddbmm(nothing, scores, key[heads, keys], beta=0, alpha=band.scale, out=by_query[heads, rows])
                by_key[heads, keys].add_(torch.bmm(scores.mT, query[heads, rows]), alpha=band.scale)
        return by_query, by_key, by_value, None, None


def blockwise(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: Window | None,
    scale: float,
    softcap: float | None,
    kept: bool,
    segments: Tensor | None = None,
) -> Tensor:
    """Causal attention. query, key, value: (batch, heads, time, head_width), in fp32 on a CPU. Returns the same shape.

    segments: (batch, time), not with a stride; a query sees keys of its own number only.
    `kept` trades memory for time: probabilities are kept for the backward pass, of what the window shows, unless there is a softcap.
    """
    near = Band(0, window.width if window else None, scale, softcap, kept and softcap is None)
    shape, parts = query.shape, [part.contiguous().flatten(0, 1) for part in (query, key, value)]
    mixed: Tensor
    by_head = None if segments is None else segments.repeat_interleave(shape[1], dim=0)  # (batch * heads, time)
    mixed, sums = _Blockwise.apply(*parts, near, by_head)  # type: ignore[no-untyped-call]
    if window is None or window.stride is None or shape[2] <= window.width:
        return mixed.view(shape)
    stride = window.stride
    far = Band(-(-window.width // stride), None, scale, softcap, near.kept)
    others, far_sums = _Blockwise.apply(*(_grouped(part, stride) for part in parts), far, None)  # type: ignore[no-untyped-call]
    others, far_sums = _ungrouped(others, stride, shape[2]), _ungrouped(far_sums.unsqueeze(-1), stride, shape[2])
    share = evenly(torch.sigmoid, far_sums - sums.unsqueeze(-1))  # of all exponentials, those of the far positions
    return torch.lerp(mixed, others, share.expand_as(mixed)).view(shape)


def _grouped(x: Tensor, stride: int) -> Tensor:
    """(heads, time, width) -> (heads * stride, ceil(time / stride), width): positions of one remainder together, filled up at the end,
    where no earlier query sees the filling."""
    filled = F.pad(x, (0, 0, 0, -x.shape[1] % stride))
    return filled.unflatten(1, (-1, stride)).transpose(1, 2).flatten(0, 1).contiguous()


def _ungrouped(x: Tensor, stride: int, time: int) -> Tensor:
    """The inverse of `_grouped`."""
    return x.unflatten(0, (-1, stride)).transpose(1, 2).flatten(1, 2)[:, :time]
