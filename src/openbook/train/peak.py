"""What the machine can do at the most: the denominator of every utilisation that is printed."""

from __future__ import annotations

import time

import torch

from openbook.train.workers import Workers


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """The best rate seen over square matrix products repeated for about `seconds`, in floating-point operations a second."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best, stop = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < stop:
        begin = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
        del product
    return best


def combined_peak(workers: Workers, device: torch.device, dtype: torch.dtype) -> float:
    """What all workers can do together, measured while all of them measure: floating-point operations a second."""
    workers.gather(0)  # none begins while another is still loading
    return sum(number for (number,) in workers.gather(matmul_flops_per_second(device, dtype)))
