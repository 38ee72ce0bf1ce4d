"""A fingerprint of parameters and optimizer state that does not depend on who holds which part of them.

Of each tensor: the sum over its elements of (the element's bits as an integer) × (2 × the element's index + 1), modulo 2^64. Integer
sums are associative, so any cut of a tensor into flat slices gives the same sum. Multipliers are odd and rise, so one flipped bit, any
two flipped bits and any swap of two different elements change the sum of a tensor of up to 2^31 elements. It guards against faults,
not against forgery: that is what the hashes of files are for.

The sums are taken by float64 matrix products that are exact, not rounded: 1,024 words below 2^31 in size, times odd numbers below
2^11, add up to less than 2^52. That is several times faster on a CPU than integer arithmetic, and it exists on every device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.functional import pad

from openbook.files import sha256_json
from openbook.train.workers import exchange

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
"""The integers that an element of so many bytes is read as; an element of eight bytes is two words."""

WIDTH = 1024
"""Words in one exact product."""

ROWS = 256
"""Products taken at once: what bounds the memory (2 MiB), and fits a core's cache."""


def element_sum(values: Tensor, start: int = 0) -> Tensor:
    """The sum over a flat slice of a tensor whose first element has index `start` in the whole: an int64 scalar on its device."""
    flat = values.detach().flatten()
    words = flat.view(WORDS[flat.element_size()])
    start *= words.numel() // max(1, flat.numel())
    odd = torch.arange(1, 2 * WIDTH, 2, dtype=torch.float64, device=flat.device)
    factors = torch.stack([torch.ones_like(odd), odd])  # (2, WIDTH)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for offset in range(0, words.numel(), ROWS * WIDTH):
        piece = words[offset : offset + ROWS * WIDTH].double()
        missing = -piece.numel() % WIDTH
        rows = (pad(piece, (0, missing)) if missing else piece).view(-1, WIDTH)  # pad copies even where nothing is missing
        plain, weighted = (factors @ rows.T).long()  # (rows) each
        places = torch.arange(start + offset, start + offset + rows.numel(), WIDTH, device=flat.device)
        total += (weighted + 2 * places * plain).sum()
    return total


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """The fingerprint of tensors, waiting for their device once. Where they are cut over workers, all of these must call it."""
    totals = [0] * len(tensors)
    if tensors:
        sums = torch.stack([element_sum(*_part(tensor)) for tensor in tensors.values()])
        mesh = next((tensor.device_mesh for tensor in tensors.values() if isinstance(tensor, DTensor)), None)
        if mesh:
            if mesh.get_local_rank():  # what is not cut counts once
                sums[[not isinstance(tensor, DTensor) for tensor in tensors.values()]] = 0
            with exchange():
                dist.all_reduce(sums, group=mesh.get_group())
        totals = sums.tolist()
    facts = [
        [name, list(tensor.shape), str(tensor.dtype), total % 2**64] for (name, tensor), total in zip(tensors.items(), totals, strict=True)
    ]
    return sha256_json(sorted(facts))


def _part(tensor: Tensor) -> tuple[Tensor, int]:
    """The elements held here, and the index in the whole of the first one."""
    if not isinstance(tensor, DTensor):
        return tensor, 0
    _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tensor.to_local(), offsets[0] * math.prod(tensor.shape[1:])
