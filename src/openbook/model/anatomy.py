"""What a model's weights are like: counted by part, in memory, and matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from openbook.model.config import TransformerConfig
from openbook.model.count import (
    BYTES,
    active_parameters,
    cache_bytes_per_token,
    flops_per_token,
    parameters,
    total_parameters,
    weight_bytes,
)
from openbook.model.transformer import Transformer
from openbook.progress import track

ROUNDS, CLOSE = 200, 1e-5


def anatomy(model: Transformer) -> dict[str, Any]:
    """Everything below, JSON-ready."""
    config = model.config
    total, flops = total_parameters(config), flops_per_token(config)
    return {
        "parameters": total,
        "active": active_parameters(config),
        "parts": {
            name: {"total": part.total, "active": part.active, "share": part.total / total} for name, part in parameters(config).items()
        },
        "flops_per_token": {"training": flops, "forward": flops / 3},
        "memory": memory(config),
        "matrices": list(matrices(model)),
    }


def matrices(model: Transformer) -> Iterator[dict[str, Any]]:
    """Of every matrix its name and what `matrix` says of it."""
    named = [(name, weight.detach()) for name, weight in model.named_parameters() if weight.dim() > 1]
    with track("matrices", len(named)) as bar:
        for done, (name, weight) in enumerate(named, 1):
            yield {"name": name, **matrix(weight)}
            bar.update(done)


def memory(config: TransformerConfig) -> dict[str, dict[str, float]]:
    """Bytes of weights and of one sequence's key-value cache, by precision and context. Weights of less than 16 bits keep a cache in bf16;
    layers with a window are counted as if they kept everything."""
    contexts = sorted({max(1, config.context // part) for part in (16, 4, 1)})
    rows = {}
    for precision, size in BYTES.items():
        each = cache_bytes_per_token(config, precision if size >= 2 else "bf16")
        rows[precision] = {f"{text:,}": weight_bytes(config, precision) + text * each for text in contexts}
    return rows


@torch.no_grad()
def matrix(weight: Tensor) -> dict[str, Any]:
    """A matrix, or a stack of them, (…, out, in), of which the largest figures count.

    spectral_norm: the largest factor by which it lengthens a vector. stable_rank: squared Frobenius norm over squared spectral norm
    (Rudelson and Vershynin 2007). outlier: the largest absolute weight over the deviation of all.
    """
    weight = weight.float()
    sigma = spectral_norm(weight)
    frobenius = weight.square().sum((-2, -1))
    deviation = float(weight.std())
    return {
        "shape": list(weight.shape),
        "spectral_norm": float(sigma.max()),
        "stable_rank": float((frobenius / sigma.square().clamp_min(1e-30)).max()),
        "outlier": float(weight.abs().max()) / deviation if deviation else 0.0,
    }


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value of (…, out, in), by power iteration from a fixed start: (…)."""
    start = torch.randn(weight.shape[-1], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    vector = start.to(weight.device).expand(*weight.shape[:-2], -1, -1)
    before = torch.zeros(weight.shape[:-2], device=weight.device)
    for _ in range(ROUNDS):
        vector = weight.mT @ (weight @ (vector / vector.norm(dim=-2, keepdim=True).clamp_min(1e-30)))
        sigma = vector.norm(dim=(-2, -1)).sqrt()
        if bool(((sigma - before).abs() <= CLOSE * sigma).all()):
            break
        before = sigma
    return sigma
