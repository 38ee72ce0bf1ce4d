"""Matrix products for inference: one call, and what stands behind it for each precision and device.

Every backend on a CPU gives a row the same bits whatever rows are beside it, so that an answer does not depend on what else is being
served: integers add up exactly, and the kernels for floating point take the sums of a row in one order from a few rows on (`least_rows`;
tests hold them to it on the machine at hand, with one thread and with two). Measured facts are in docs/performance.md.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.errors import InputError

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

LANES = 8
"""Rows that torch's own product is given at once on a CPU."""
CHUNK = 32
"""Rows of a product by convolution, at most."""
TYPICAL_ROWS = 64
"""What weights are packed for. From 8 on the packing is the same."""


class Product(Protocol):
    """A linear layer: (rows, inputs) -> (rows, outputs), the bias added."""

    least_rows: int
    """From so many rows on, a row's result does not depend on their number."""

    def __call__(self, x: Tensor) -> Tensor: ...


class Plain:
    """torch's own product, in the type of the activations: for GPUs, and CPUs without AVX-512.

    On a CPU eight rows at a time are the columns of the right-hand side, so that each is a lane of the same vectors. As rows of the
    left-hand side they would go to kernels and threads that depend on their number.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._weight, self._bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.least_rows = 8 if weight.is_cuda else 1

    def __call__(self, x: Tensor) -> Tensor:
        if self._weight.is_cuda:
            return F.linear(x, self._weight, self._bias)
        lanes = F.pad(x, (0, 0, 0, -len(x) % LANES)).split(LANES)
        product = torch.cat([(self._weight @ part.t()).t() for part in lanes])[: len(x)]
        return product if self._bias is None else product + self._bias


class Packed:
    """fp32 or bf16 on a CPU, with the weight laid out beforehand as oneDNN's kernels read it, which halves the time of a few rows.

    Fewer than four rows are slower than four: the kernels for them read memory less well, and one row takes its sums in another order."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), TYPICAL_ROWS)
        self._bias = None if bias is None else bias.to(dtype)
        self.least_rows = 4

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self._bias, "none", [], "")
        return product


class Pointwise:
    """fp32 on a CPU as a 1×1 convolution, each row a pixel: oneDNN's kernel for it reads weights a quarter faster for eight rows than that
    for products, and treats every pixel alike whatever their number. Rows go in pieces of CHUNK: for more, other layouts are expected."""

    least_rows = 1

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self._bias, self._outputs = _as_convolution(weight.float(), CHUNK), bias, len(weight)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) <= CHUNK:
            return self._convolved(x)
        return torch.cat([self._convolved(part) for part in x.split(CHUNK)])

    def _convolved(self, x: Tensor) -> Tensor:
        pixels = x.contiguous().view(1, 1, *x.shape).permute(0, 3, 1, 2)  # (1, inputs, 1, rows), the inputs of a pixel beside each other
        none, one = [0, 0], [1, 1]
        made = torch.ops.mkldnn._convolution_pointwise(pixels, self.weight, self._bias, none, one, one, 1, "none", [], "")
        return made.permute(0, 2, 3, 1).view(len(x), self._outputs)


def _as_convolution(weight: Tensor, rows: int) -> Tensor:
    """Laid out as oneDNN wants it for so many rows."""
    shape = [1, weight.shape[1], 1, rows]
    laid: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight[:, :, None, None], [0, 0], [1, 1], [1, 1], 1, shape)
    return laid


@functools.cache
def one_layout(outputs: int, inputs: int) -> bool:
    """Whether oneDNN wants the weights of a convolution in one layout for up to CHUNK rows: another would be made in every call."""
    weight = torch.arange(outputs * inputs, dtype=torch.float32).view(outputs, inputs)
    laid = [_as_convolution(weight, rows) for rows in (1, CHUNK)]
    data, size = torch.ops.mkldnn.data_ptr, torch.ops.mkldnn._nbytes
    return len({ctypes.string_at(data(one), size(one)) for one in laid}) == 1


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(outputs, inputs) as int8 and the scale of each output, (outputs,): symmetric, the largest entry of a row becomes 127."""
    scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny).float() / 127
    return (weight / scale[:, None]).round_().to(torch.int8), scale


class Int8:
    """int8 weights with a scale for each output, and activations quantised row by row to u8 around 128: VNNI multiplies u8 by int8.

    By FBGEMM, which quantises what it reads and scales what it writes; it is told one scale for all rows, as they are brought to ±127
    beforehand. oneDNN's product has the same sums, and takes a third longer for few rows.
    """

    least_rows = 1

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        numbers, scale = quantised(weight)
        with warnings.catch_warnings():  # quantised tensors are to go from a later torch
            warnings.simplefilter("ignore", UserWarning)
            zeros = torch.zeros(len(weight), dtype=torch.int64)
            tensor = torch._make_per_channel_quantized_tensor(numbers, scale.double() / 127, zeros, 0)
        self._weight = torch.ops.quantized.linear_prepack(tensor, None)
        self._bias, self._most = bias, torch.tensor(127.0)

    def __call__(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(1, keepdim=True).clamp_min_(1e-30)  # (rows, 1)
        brought = x * torch.div(self._most, largest)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(brought, 1.0, 128, self._weight)
        return product.mul_(largest) if self._bias is None else torch.addcmul(self._bias, product, largest)


class Int8Product:
    """The same numbers through torch's plain integer product: for GPUs, and CPUs without VNNI."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        numbers, self._scale = quantised(weight)
        self._weight = numbers.contiguous().t()  # (inputs, outputs)
        self._bias = bias
        self.least_rows = 32 if weight.is_cuda else 1  # cuBLAS refuses fewer than 17

    def __call__(self, x: Tensor) -> Tensor:
        scale = x.float().abs().amax(1, keepdim=True).clamp_min_(1e-30).mul_(1 / 127)
        numbers = (x / scale).round_().to(torch.int8)
        product = torch._int_mm(numbers, self._weight).float() * scale * self._scale
        return (product if self._bias is None else product + self._bias).to(x.dtype)


def activation_type(precision: Precision, device: torch.device) -> torch.dtype:
    """What activations are computed in: fp32 on a CPU but for bf16, which is for those that have it in hardware."""
    return torch.bfloat16 if precision == "bf16" or (precision == "int8" and device.type != "cpu") else torch.float32


def kept_type(precision: Precision, device: torch.device) -> torch.dtype:
    """What keys and values are kept in: that of the activations, but f16 with int8 on a CPU."""
    return torch.float16 if precision == "int8" and device.type == "cpu" else activation_type(precision, device)


def product(weight: Tensor, bias: Tensor | None, precision: Precision) -> Product:
    """The fastest backend of a precision for the weight's device. weight: (outputs, inputs); bias: (outputs,)."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    on_cpu = weight.device.type == "cpu"
    if precision == "int8":
        has_vnni = on_cpu and torch.cpu._is_vnni_supported() and torch.backends.quantized.engine in ("x86", "fbgemm")
        return Int8(weight, bias) if has_vnni else Int8Product(weight, bias)
    dtype = activation_type(precision, weight.device)
    if on_cpu and torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported():
        is_fp32 = dtype == torch.float32 and one_layout(min(len(weight), 2048), weight.shape[1])
        return Pointwise(weight, bias) if is_fp32 else Packed(weight, bias, dtype)
    return Plain(weight, bias, dtype)


def require_precision(name: str) -> Precision:
    """Raises InputError for a name that is none."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise InputError(f"precision {name!r}: should be one of {', '.join(PRECISIONS)}")
