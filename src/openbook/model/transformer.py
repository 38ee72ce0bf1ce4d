"""The transformer, described by data: pre-norm residual layers of the style that its configuration names.

The modern style is at the same time the stock `Qwen3ForCausalLM` and the gpt style `GPT2LMHeadModel` (with bands `GPTNeoForCausalLM`),
so that a trained model is served by transformers, vLLM and llama.cpp with no code of ours.

The module knows nothing of meshes, run directories or servers. Weights stay in fp32; a linear layer casts its weight to the
type of its input, so the type of the embedded tokens decides the precision of the whole pass.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from openbook.model.attention import Attention, LayerCache
from openbook.model.config import TransformerConfig
from openbook.model.loss import head_loss
from openbook.model.parts import MLP, Linear, SwiGLU, norm

__all__ = ["Activations", "Cache", "Transformer", "TransformerConfig"]

Activations = Literal["keep", "selective", "full"]
"""What the forward pass keeps for the backward pass inside a layer: everything, what matrix products gave, or nothing."""

_aten = torch.ops.aten
PRODUCTS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""What `selective` keeps: the outputs that cost most to compute again. Blockwise attention is computed again."""


class Layer(nn.Module):
    """One pre-norm residual layer: attention, then MLP."""

    def __init__(self, config: TransformerConfig, band: int | None) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config, band)
        self.mlp_norm = norm(config)
        self.mlp = SwiGLU(config) if config.style == "modern" else MLP(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: LayerCache | None,
        activations: Activations = "keep",
        segments: Tensor | None = None,
    ) -> Tensor:
        if activations == "keep" or not torch.is_grad_enabled():
            return self._body(x, rotary, cache, segments)
        contexts = partial(create_selective_checkpoint_contexts, PRODUCTS) if activations == "selective" else noop_context_fn
        output: Tensor = checkpoint(
            self._body, x, rotary, cache, segments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )
        return output

    def _body(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: LayerCache | None, segments: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, cache, segments)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """Token ids to hidden states or to a loss; `logits` turns hidden states into scores over the vocabulary.

    Parameters are uninitialised until `initialise` or a loader fills them. `compute_dtype` is the type of activations, `activations` says
    which of them training keeps; neither is part of the weights.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.activations: Activations = "keep"
        self.embedding = nn.Embedding(config.vocab_size, config.width, _weight=torch.empty(config.vocab_size, config.width))
        if config.style == "gpt":
            self.position = nn.Embedding(config.context, config.width, _weight=torch.empty(config.context, config.width))
        self.layers = nn.ModuleList(Layer(config, config.band_of(index)) for index in range(config.layers))
        self.final_norm = norm(config)
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

    def forward(self, tokens: Tensor, cache: Cache | None = None, targets: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm; or, with targets, the mean cross-entropy in nats.

        tokens, targets: (batch, time) -> (batch, time, width), or a scalar. With a cache, tokens are the continuation of what it holds.
        segments: (batch, time), for rows of several documents: the number of each token's document, which is all that it sees, and in
        which its position is counted; not with a cache. Raises ValueError beyond the context.
        """
        start = cache.length if cache is not None else 0
        stop = start + tokens.shape[1]
        if stop > self.config.context:
            raise ValueError(f"{stop} tokens do not fit the context of {self.config.context}")
        x = self.embedding(tokens)  # (batch, time, width)
        rotary = None
        if self.config.style == "gpt":
            x = x + self.position(torch.arange(start, stop, device=tokens.device) if segments is None else positions(segments))
        else:
            rotary = self.rotary(start, stop, tokens.device)
        x = x.to(self.compute_dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary, cache.layers[index] if cache is not None else None, self.activations, segments)
        hidden: Tensor = self.final_norm(x)
        return hidden if targets is None else head_loss(hidden.flatten(0, 1), self.head.weight, targets.flatten())

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, width) -> (…, vocabulary), in fp32."""
        return self.head(hidden).float()

    def loss(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats. tokens, targets, segments: (batch, time)."""
        loss: Tensor = self(tokens, targets=targets, segments=segments)
        return loss


def positions(segments: Tensor) -> Tensor:
    """(batch, time): each token's place in its segment. Rotary attention needs none: it goes by differences of positions alone."""
    place = torch.arange(segments.shape[1], device=segments.device)
    begins = torch.cat((torch.ones_like(segments[:, :1], dtype=torch.bool), segments.diff() != 0), 1)
    return place - torch.where(begins, place, 0).cummax(1).values


class Cache:
    """The key-value cache of a whole model."""

    def __init__(self, model: Transformer, capacity: int, batch: int = 1) -> None:
        device = model.embedding.weight.device
        self.layers = [LayerCache(batch, model.config, capacity, model.compute_dtype, device) for _ in range(model.config.layers)]

    @property
    def length(self) -> int:
        return self.layers[0].length
