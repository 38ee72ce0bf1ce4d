"""Large pages for weights that every step reads from end to end.

With pages of 4 KiB, finding them costs as much as reading them, above all on a virtual machine. Linux gives pages of 2 MiB to whoever
asks (where /sys/kernel/mm/transparent_hugepage/enabled says madvise or always). Elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

HUGE, COLLAPSE = 14, 25
"""Linux's MADV_HUGEPAGE, and MADV_COLLAPSE, which moves what is there already (from Linux 6.1 on)."""
PAGE, LARGE = 2**12, 2**21


def lay_in_large_pages(tensors: Iterable[Tensor]) -> None:
    """Moves the tensors' memory on a CPU, with what lies between them, into large pages if the system has them to give. Values stay."""
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    for begin, end in _stretches([_bounds(tensor) for tensor in tensors if tensor.device.type == "cpu"]):
        for advice in (HUGE, COLLAPSE):
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)  # refused: everything stays as it is


def _bounds(tensor: Tensor) -> tuple[int, int]:
    if tensor.is_mkldnn:
        begin, size = torch.ops.mkldnn.data_ptr(tensor), torch.ops.mkldnn._nbytes(tensor)
    else:
        begin, size = tensor.data_ptr(), tensor.nbytes
    return begin // PAGE * PAGE, -(-(begin + size) // PAGE) * PAGE


def _stretches(bounds: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Joins those that lie so near that they share a large page."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(bounds):
        if joined and begin - joined[-1][1] < LARGE:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined
