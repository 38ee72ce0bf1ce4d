"""Rotary positions: angles for every published scaling, and the rotation itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from openbook.model.config import Rotary, RotaryScaling


def rotated_width(rotary: Rotary, head_width: int) -> int:
    """How many elements of a head are rotated. Raises ValueError if they are not pairs."""
    width = round(rotary.share * head_width)
    if width < 2 or width % 2 or width > head_width:
        raise ValueError(f"a share of {rotary.share} of a head's width of {head_width} should be an even number of elements, at least 2")
    return width


def frequencies(rotary: Rotary, head_width: int, device: torch.device | None = None) -> Tensor:
    """Radians a position for each pair of elements: (rotated_width / 2,)."""
    width = rotated_width(rotary, head_width)
    half = torch.arange(0, width, 2, dtype=torch.int64, device=device).float()
    plain = 1.0 / (rotary.theta ** (half / width))
    scaling = rotary.scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    return _llama3(plain, scaling) if scaling.kind == "llama3" else _yarn(plain, scaling, rotary.theta, width)


def _llama3(plain: Tensor, scaling: RotaryScaling) -> Tensor:
    """Between the two wavelengths the divisor goes over from 1 to `factor`, linearly in rotations within the original context."""
    rotations = scaling.original_context * plain / (2 * math.pi)
    kept = ((rotations - scaling.slow) / (scaling.fast - scaling.slow)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(plain: Tensor, scaling: RotaryScaling, theta: float, width: int) -> Tensor:
    """Peng et al. 2023, section 3.2: "by parts", with the two places rounded outwards, as their code and everyone's does."""

    def place(rotations: float) -> float:
        return width * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(place(scaling.fast)), 0), min(math.ceil(place(scaling.slow)), width - 1)
    scaled = ((torch.arange(len(plain), device=plain.device) - low) / max(high - low, 0.001)).clamp(0, 1)
    return scaled * plain / scaling.factor + (1 - scaled) * plain


def tables(rotary: Rotary, head_width: int, context: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of every position: (context, rotated_width / 2) each, times YaRN's attention factor."""
    angle = torch.outer(torch.arange(context, device=device).float(), frequencies(rotary, head_width, device))
    scaling, factor = rotary.scaling, 1.0
    if scaling is not None and scaling.kind == "yarn":
        factor = 0.1 * math.log(max(scaling.factor, 1.0)) + 1 if scaling.attention is None else scaling.attention
    return (angle.cos() * factor).to(dtype), (angle.sin() * factor).to(dtype)


class _Rotate(torch.autograd.Function):
    """x: (batch, time, heads, head_width) -> (batch, heads, time, head_width); the gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.neighbours = neighbours
        return _rotated(x.transpose(1, 2), cos, sin, -1.0, neighbours)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(outputs[0].transpose(1, 2), cos[:, None], sin[:, None], 1.0, ctx.neighbours), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float, neighbours: bool) -> Tensor:
    """A new contiguous tensor, whatever the strides of x; elements beyond the rotated width stay."""
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    width = 2 * cos.shape[-1]
    output[..., width:] = x[..., width:]
    x, turned = x[..., :width], output[..., :width]
    if neighbours:
        (first, second), (left, right) = x.unflatten(-1, (-1, 2)).unbind(-1), turned.unflatten(-1, (-1, 2)).unbind(-1)
        wide = cos.repeat_interleave(2, -1)
    else:
        (first, second), (left, right) = x.chunk(2, -1), turned.chunk(2, -1)
        wide = torch.cat((cos, cos), -1)
    torch.mul(x, wide, out=turned)
    left.addcmul_(second, sin, value=sign)
    right.addcmul_(first, sin, value=-sign)
    return output


def rotate(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool = False) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of each head's first elements, in pairs of halves or of neighbours.

    x: (batch, time, heads, head_width); cos, sin: (time, rotated_width / 2). Returns (batch, heads, time, head_width).
    """
    rotated: Tensor = _Rotate.apply(x, cos, sin, neighbours)  # type: ignore[no-untyped-call]
    return rotated
