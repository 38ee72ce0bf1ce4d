"""The transformer, described by data.

Pre-norm RMSNorm, rotary positions, RMS-normalised queries and keys, grouped-query attention, SwiGLU and an untied head:
the "modern" shape, chosen because it is at the same time the stock `Qwen3ForCausalLM`, so that a trained model is served by
transformers, vLLM and llama.cpp with no code of ours.

The module knows nothing of meshes, run directories or servers. Weights stay in fp32; a linear layer casts its weight to the
type of its input, so the type of the embedded tokens decides the precision of the whole pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.model.loss import head_loss


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer; every number that its shape depends on."""

    vocab_size: int
    context: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tied_head: bool = False

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for each token (the head, but not the embedding lookup)."""
        attention = self.width * self.head_width * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp_width) + self.vocab_size * self.width

    def flops_per_token(self, context: int | None = None) -> float:
        """Floating-point operations to train on one token: forward and backward, causal attention counted once.

        6 per matmul parameter, plus 6 * layers * context * heads * head_width for scores and mixing over the half of the square
        that causality leaves (Kaplan et al. 2020, section 2.1, halved).
        """
        span = context or self.context
        return 6.0 * self.matmul_parameters + 6.0 * self.layers * span * self.heads * self.head_width


class Linear(nn.Module):
    """A matrix product without bias; the weight, (out, in), is cast to the type of the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) on halves. x: (batch, heads, time, head_width); cos, sin: (time, head_width/2)."""
    first, second = x.chunk(2, dim=-1)  # (batch, heads, time, head_width/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal grouped-query attention with RMS-normalised queries and keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.query = Linear(config.width, self.heads * self.head_width)
        self.key = Linear(config.width, self.kv_heads * self.head_width)
        self.value = Linear(config.width, self.kv_heads * self.head_width)
        self.output = Linear(self.heads * self.head_width, config.width)
        self.query_norm = RMSNorm(self.head_width, config.norm_eps)
        self.key_norm = RMSNorm(self.head_width, config.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None) -> Tensor:
        batch, time, _ = x.shape
        query = self.query_norm(self.query(x).view(batch, time, self.heads, self.head_width))
        key = self.key_norm(self.key(x).view(batch, time, self.kv_heads, self.head_width))
        value = self.value(x).view(batch, time, self.kv_heads, self.head_width)
        query = rotate(query.transpose(1, 2), cos, sin)  # (batch, heads, time, head_width)
        key = rotate(key.transpose(1, 2), cos, sin)  # (batch, kv_heads, time, head_width)
        value = value.transpose(1, 2)
        if cache is None and x.device.type == "cpu":  # torch's attention on a CPU takes five times as long backward in bf16 as in fp32
            query, key, value = query.float(), key.float(), value.float()
        grouped = self.heads != self.kv_heads
        if cache is None or cache.length == 0:
            if cache is not None:
                cache.append(key, value)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
        else:
            start = cache.length
            key, value = cache.append(key, value)  # (batch, kv_heads, start + time, head_width)
            mask = causal_mask(start, time, x.device) if time > 1 else None
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)
        return self.output(mixed.transpose(1, 2).reshape(batch, time, -1).to(x.dtype))


def causal_mask(start: int, time: int, device: torch.device) -> Tensor:
    """(time, start + time): new token i, at position start + i, sees every position up to its own."""
    positions = torch.arange(start + time, device=device)
    return positions[None, :] <= positions[start:, None]


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.mlp_width)
        self.up = Linear(config.width, config.mlp_width)
        self.down = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """One pre-norm residual layer: attention, then MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: LayerCache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, cache)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """Token ids to hidden states; `logits` turns hidden states into scores over the vocabulary.

    Parameters are uninitialised until `initialise` or a loader fills them.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.embedding = nn.Embedding(config.vocab_size, config.width, _weight=torch.empty(config.vocab_size, config.width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.final_norm = RMSNorm(config.width, config.norm_eps)
        self.head = Linear(config.width, config.vocab_size)
        if config.tied_head:
            self.head.weight = cast(nn.Parameter, self.embedding.weight)
        self._rotary: tuple[Tensor, Tensor] | None = None

    def rotary(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin for positions start … stop - 1: (stop - start, head_width/2) each, in the compute type."""
        if self._rotary is None or self._rotary[0].device != device or self._rotary[0].dtype != self.compute_dtype:
            half = torch.arange(0, self.config.head_width, 2, dtype=torch.int64, device=device).float()
            frequency = 1.0 / (self.config.rope_theta ** (half / self.config.head_width))  # (head_width/2,)
            angle = torch.outer(torch.arange(self.config.context, device=device).float(), frequency)
            self._rotary = (angle.cos().to(self.compute_dtype), angle.sin().to(self.compute_dtype))
        cos, sin = self._rotary
        return cos[start:stop], sin[start:stop]

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states after the final norm. tokens: (batch, time) -> (batch, time, width).

        With a cache, tokens are the continuation of what it holds. Raises ValueError beyond the context.
        """
        start = cache.length if cache is not None else 0
        stop = start + tokens.shape[1]
        if stop > self.config.context:
            raise ValueError(f"{stop} tokens do not fit the context of {self.config.context}")
        cos, sin = self.rotary(start, stop, tokens.device)
        x = self.embedding(tokens).to(self.compute_dtype)  # (batch, time, width)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, cache.layers[index] if cache is not None else None)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, width) -> (…, vocabulary), in fp32."""
        return self.head(hidden).float()

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats. tokens, targets: (batch, time)."""
        return head_loss(self(tokens).flatten(0, 1), self.head.weight, targets.flatten())


class LayerCache:
    """Keys and values of one layer for the positions seen so far, in space that is reserved once."""

    def __init__(self, batch: int, config: TransformerConfig, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (batch, config.kv_heads, capacity, config.head_width)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds (batch, kv_heads, time, head_width) and returns all positions so far."""
        stop = self.length + key.shape[2]
        self.keys[:, :, self.length : stop] = key
        self.values[:, :, self.length : stop] = value
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]


class Cache:
    """The key-value cache of a whole model."""

    def __init__(self, model: Transformer, capacity: int, batch: int = 1) -> None:
        device = model.embedding.weight.device
        self.layers = [LayerCache(batch, model.config, capacity, model.compute_dtype, device) for _ in range(model.config.layers)]

    @property
    def length(self) -> int:
        return self.layers[0].length
