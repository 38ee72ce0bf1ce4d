"""Initial weights: a function of the seed and the parameter's name, and of nothing else.

The generator is NumPy's counter-based Philox in float64, rounded at the end, so the same weights come out on any instruction set,
for any order of parameters and for any sharding of them.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from openbook.model.transformer import Transformer, TransformerConfig

Start = Literal["identity", "normal"]
"""How the weights of a model's matrices begin; see `deviation`."""
HEAD_STD = 0.001
"""A head that starts near zero starts at the loss of a uniform guess."""


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """An independent Philox stream for (seed, purpose …)."""
    digest = hashlib.sha256(":".join(map(str, (seed, *purpose))).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def deviation(config: TransformerConfig, name: str, shape: torch.Size, embedding_std: float, start: Start) -> float:
    """Standard deviation of a matrix's initial values; of experts' too, (experts, out, in), and of the projections of narrow embeddings.

    normal: `embedding_std` everywhere (0.02 is GPT-2's), over sqrt(2 layers) for the projections that write to the residual stream (Radford
    et al. 2019, section 2.3). identity: 0 for those, so that every layer starts as the identity, as in Zhang et al. 2019 "Fixup";
    `embedding_std` for tables, 1 / sqrt(in) for what is left.
    """
    writes = name.startswith("layers.") and (name.endswith(".attention.output.weight") or ".down" in name)
    if start == "normal":
        return embedding_std / math.sqrt(2 * config.layers) if writes else embedding_std
    if name.startswith(("embedding.", "position.")):
        return embedding_std
    if name.startswith("head."):
        return HEAD_STD
    return 0.0 if writes else 1.0 / math.sqrt(shape[-1])


def initial_values(config: TransformerConfig, name: str, shape: torch.Size, seed: int, embedding_std: float, start: Start) -> torch.Tensor:
    """A parameter's initial values: zeros for biases, ones for norms' weights, normal values for matrices (see `deviation`)."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    values = generator(seed, "initial", name).standard_normal(tuple(shape)) * deviation(config, name, shape, embedding_std, start)
    return torch.from_numpy(values.astype(np.float32))


@torch.no_grad()
def initialise(model: Transformer, seed: int, embedding_std: float = 1.0, start: Start = "identity") -> None:
    """Fills the parameters in place, or a worker's rows of them where the model is cut over several; what balances experts starts at 0."""
    for bias in model.buffers():
        bias.zero_()
    for name, parameter in model.named_parameters():
        values = initial_values(model.config, name, parameter.shape, seed, embedding_std, start)
        if isinstance(parameter, DTensor):
            own, (first, *_) = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
            parameter.to_local().copy_(values[first : first + own[0]])
        else:
            parameter.copy_(values)
