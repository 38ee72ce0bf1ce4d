"""Elementwise functions on a CPU whose bits do not depend on the number of threads.

torch cuts a tensor into a piece for each thread. It computes a piece by vectors, and what is left at its end one by one, with an exp that
rounds otherwise: so an element's last bit depends on where the cuts lie. Here a tensor is cut first, so that every thread's piece ends
with a whole vector; what is left is too small for a second thread. Functions of sums, products and roots alone need none of this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GRAIN = 32_768
"""Elements below which torch adds no thread (at::internal::GRAIN_SIZE)."""
VECTORS = 128
"""A multiple of the elements that torch computes at once, for every type and instruction set."""


def even(count: int, threads: int) -> int:
    """The most elements, up to `count`, of which each thread gets whole vectors."""
    while True:
        working = max(1, min(threads, -(-count // GRAIN)))
        fewer = count if working == 1 else count // (VECTORS * working) * (VECTORS * working)
        if fewer == count:
            return count
        count = fewer


def _cut(tensor: Tensor) -> int:
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return tensor.numel()
    return even(tensor.numel(), torch.get_num_threads())


def pieces(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Contiguous tensors of one shape, cut at the same place: flat views, to compute one after the other and to write to."""
    cut = _cut(tensors[0])
    flat = [tensor.view(-1) for tensor in tensors]
    parts = (slice(cut), slice(cut, None)) if cut < flat[0].numel() else (slice(None),)
    return [tuple(tensor[part] for tensor in flat) for part in parts]


def evenly(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), of any shape; gradients go through."""
    cut = _cut(x)
    if cut == x.numel() and x.is_contiguous():
        return function(x)
    flat = x.reshape(-1)
    return torch.cat([function(flat[:cut]), function(flat[cut:])]).view(x.shape)
