"""Linear layers, norms and MLPs. Their gradients do not depend on the number of threads.

The norms have gradients written by hand: autograd's own take three times the passes over memory, and torch's native layer norm sums
the gradients of its weight and bias in an order that depends on the number of threads. The sums over tokens here are plain sums over
the first axis, whose order does not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.model.config import GATED, Activation, TransformerConfig
from openbook.model.elementwise import evenly, pieces


class Linear(nn.Module):
    """A matrix product; the weight, (out, in), and the bias, (out,) if there is one, are cast to the type of the input."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = x.float().square().mean(-1, keepdim=True).add_(eps).rsqrt_().to(x.dtype)  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        product = (outputs[0] * x).mul_(scale)  # of the gradient with the normalised input
        weight_gradient = product.flatten(0, -2).sum(0)
        along = product.mul_(weight).sum(-1, keepdim=True).mul_(scale.square()).mul_(-1 / x.shape[-1])  # (…, 1)
        return (outputs[0] * weight).mul_(scale).addcmul_(x, along), weight_gradient, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        output, mean, scale = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return output

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        gradient = outputs[0].contiguous()
        alone = [True, False, False]  # the input's gradient is made row by row; the others by sums of known order
        x_gradient, _, _ = torch.ops.aten.native_layer_norm_backward(gradient, x, weight.shape, mean, scale, weight, bias, alone)
        product = (x - mean).mul_(scale).mul_(gradient).to(weight.dtype)
        return x_gradient, product.flatten(0, -2).sum(0), gradient.flatten(0, -2).sum(0), None


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = _RMSNorm.apply(x, self.weight.to(x.dtype), self.eps)  # type: ignore[no-untyped-call]
        return normal


class LayerNorm(nn.Module):
    """Normalisation to mean 0 and deviation 1 over the last axis (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = _LayerNorm.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)  # type: ignore[no-untyped-call]
        return normal


def norm(config: TransformerConfig) -> RMSNorm | LayerNorm:
    """A norm over the width."""
    return (RMSNorm if config.norm == "rms" else LayerNorm)(config.width, config.norm_eps)


class _Gated(torch.autograd.Function):
    """silu(gate) * up; nothing but the two is kept, and the backward pass makes two tensors, no more."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        through = (outputs[0] * up).contiguous()
        for gradient, part in pieces(through, gate.contiguous()):
            torch.ops.aten.silu_backward.grad_input(gradient, part, grad_input=gradient)
        return through, _silu(gate).mul_(outputs[0])


def _silu(x: Tensor) -> Tensor:
    return evenly(F.silu, x)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise."""
    output: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return output


class _TanhGELU(torch.autograd.Function):
    """x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), which is 0.5 x (1 + tanh u): on a CPU torch's tanh costs several sigmoids.
    The derivative is made in the same pass and is all that the backward pass needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        linear = 2 * math.sqrt(2 / math.pi)
        slope = x.square().mul_(0.044715 * linear).add_(linear)  # 2 u / x
        share = (slope * x).contiguous()
        for (part,) in pieces(share):
            part.sigmoid_()
        output = x * share
        if ctx.needs_input_grad[0]:
            slope.mul_(3).sub_(2 * linear).mul_(output)  # the derivative of 2 u, times the output
            ctx.save_for_backward(slope.addcmul_(slope, share, value=-1).add_(share))
        return output

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensors
        return outputs[0] * derivative


def gelu(x: Tensor) -> Tensor:
    """The Gaussian error linear unit as GPT-2 has it, with tanh (Hendrycks and Gimpel 2016)."""
    if x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    output: Tensor = _TanhGELU.apply(x)  # type: ignore[no-untyped-call]
    return output


def activated(kind: Activation, up: Tensor, gate: Tensor | None = None) -> Tensor:
    """What stands between an MLP's matrices; `gate` with the gated kinds only (Shazeer 2020). geglu's gate is GPT-2's approximation, as in
    T5 and Gemma; relu2 is the square of So et al. 2021."""
    if gate is not None:
        return gated(gate, up) if kind == "swiglu" else gelu(gate) * up
    if kind == "gelu-tanh":
        return gelu(up)
    if kind == "gelu":
        return evenly(F.gelu, up)
    return F.relu(up) if kind == "relu" else F.relu(up).square()


class MLP(nn.Module):
    """Two matrices with an activation between them, or three with a gate."""

    def __init__(self, config: TransformerConfig, width: int | None = None) -> None:
        """`width`: in place of the configuration's mlp_width."""
        super().__init__()
        self.activation, width = config.activation, width or config.mlp_width
        self.gate = Linear(config.width, width, config.mlp_bias) if config.activation in GATED else None
        self.up = Linear(config.width, width, config.mlp_bias)
        self.down = Linear(width, config.width, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = None if self.gate is None else self.gate(x)
        return self.down(activated(self.activation, self.up(x), gate))
