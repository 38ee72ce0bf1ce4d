"""The transformer, described by data: residual layers as its configuration says, which holds every published GPT.

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
from openbook.model.experts import ExpertMLP
from openbook.model.loss import head_loss
from openbook.model.parts import MLP, Linear, norm
from openbook.model.positions import tables

__all__ = ["Activations", "Cache", "Transformer", "TransformerConfig"]

Activations = Literal["keep", "selective", "full"]
"""What the forward pass keeps for the backward pass inside a layer: everything, what matrix products gave, or nothing."""

_aten = torch.ops.aten
PRODUCTS = [
    _aten.mm.default,
    _aten.addmm.default,
    torch.ops.openbook.grouped.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""What `selective` keeps: the outputs that cost most to compute again. Blockwise attention is computed again."""


def _mlp(config: TransformerConfig, index: int) -> nn.Module:
    experts = config.experts_of(index)
    return MLP(config) if experts is None else ExpertMLP(config, experts)


class Layer(nn.Module):
    """One residual layer: attention, and an MLP or a mixture of experts, after it or beside it.

    Gives its output, and the mixture's auxiliary loss if it has one: beside each other, so that a wrapper of layers sees both.
    """

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        self.place, self.scale = config.norm_place, config.residual_scale
        self.attention_norm = norm(config)
        self.attention = Attention(config, config.window(index))
        self.mlp_norm = None if config.norm_place == "parallel-shared" else norm(config)
        self.mlp = _mlp(config, index)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: LayerCache | None,
        activations: Activations = "keep",
        segments: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        if activations == "keep" or not torch.is_grad_enabled():
            return self._body(x, rotary, cache, segments)
        contexts = partial(create_selective_checkpoint_contexts, PRODUCTS) if activations == "selective" else noop_context_fn
        output: tuple[Tensor, Tensor | None] = checkpoint(
            self._body, x, rotary, cache, segments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )
        return output

    def _body(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: LayerCache | None, segments: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        mlp_norm = self.mlp_norm or self.attention_norm
        if self.place == "post":
            x = self.attention_norm(x + self._scaled(self.attention(x, rotary, cache, segments)))
            x = mlp_norm(x + self._scaled(self.mlp(x)))
        elif self.place == "pre":
            x = x + self._scaled(self.attention(self.attention_norm(x), rotary, cache, segments))
            x = x + self._scaled(self.mlp(mlp_norm(x)))
        else:
            normal = self.attention_norm(x)
            beside = self.mlp(normal if self.mlp_norm is None else self.mlp_norm(x))
            x = x + self._scaled(self.attention(normal, rotary, cache, segments) + beside)
        return x, getattr(self.mlp, "auxiliary", None) if torch.is_grad_enabled() else None

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale == 1.0 else x * self.scale


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
        narrow = config.embedding_width
        self.embedding = _table(config.vocab_size, narrow or config.width)
        if config.positions == "learned":
            self.position = _table(config.context + config.position_offset, config.width)
        self.embedding_projection = Linear(narrow, config.width) if narrow else None
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.final_norm = None if config.norm_place == "post" else norm(config)
        self.head_projection = Linear(config.width, narrow) if narrow else None
        self.head = Linear(narrow or config.width, config.vocab_size, config.head_bias)
        if config.tied_head:
            self.head.weight = cast(nn.Parameter, self.embedding.weight)
        self._rotary: tuple[Tensor, Tensor] | None = None

    def rotary(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin for positions start … stop - 1: (stop - start, rotated_width / 2) each, in the compute type."""
        if self._rotary is None or self._rotary[0].device != device or self._rotary[0].dtype != self.compute_dtype:
            config = self.config
            self._rotary = tables(config.rotary, config.head_width, config.context, self.compute_dtype, device)
        cos, sin = self._rotary
        return cos[start:stop], sin[start:stop]

    def embedded(self, tokens: Tensor, start: int = 0, segments: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """What the first layer reads, (batch, time, width), and every layer's rotation, for tokens from position `start` on.

        Raises ValueError beyond the context.
        """
        stop = start + tokens.shape[1]
        if stop > self.config.context:
            raise ValueError(f"{stop} tokens do not fit the context of {self.config.context}")
        x = self.embedding(tokens)  # (batch, time, embedding_width or width)
        if self.embedding_projection is not None:
            x = self.embedding_projection(x)  # (batch, time, width)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self.config.positions == "learned":
            place = torch.arange(start, stop, device=tokens.device) if segments is None else positions(segments)
            x = x + self.position(place + self.config.position_offset)
        rotary = self.rotary(start, stop, tokens.device) if self.config.positions == "rotary" else None
        return x.to(self.compute_dtype), rotary

    def forward(self, tokens: Tensor, cache: Cache | None = None, targets: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm; or, with targets, the mean cross-entropy in nats and the layers' auxiliary losses.

        tokens, targets: (batch, time) -> (batch, time, width), or a scalar. With a cache, tokens are the continuation of what it holds.
        segments: (batch, time), for rows of several documents: the number of each token's document, which is all that it sees, and in
        which its position is counted; not with a cache. Raises ValueError beyond the context.
        """
        x, rotary = self.embedded(tokens, cache.length if cache is not None else 0, segments)
        auxiliaries: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x, auxiliary = layer(x, rotary, cache.layers[index] if cache is not None else None, self.activations, segments)
            if auxiliary is not None:
                auxiliaries.append(auxiliary)
        hidden = x if self.final_norm is None else self.final_norm(x)
        return hidden if targets is None else sum(auxiliaries, self._cross_entropy(hidden, targets))

    def _projected(self, hidden: Tensor) -> Tensor:
        return hidden if self.head_projection is None else self.head_projection(hidden)

    def _cross_entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        rows = self._projected(hidden).flatten(0, 1)
        return head_loss(rows, self.head.weight, targets.flatten(), self.head.bias, self.config.logit_softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, width) -> (…, vocabulary), in fp32."""
        logits = self.head(self._projected(hidden)).float()
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def loss(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """What training makes small: mean cross-entropy in nats, and auxiliary losses. tokens, targets, segments: (batch, time)."""
        loss: Tensor = self(tokens, targets=targets, segments=segments)
        return loss


def positions(segments: Tensor) -> Tensor:
    """(batch, time): each token's place in its segment. Rotary attention needs none: it goes by differences of positions alone."""
    place = torch.arange(segments.shape[1], device=segments.device)
    begins = torch.cat((torch.ones_like(segments[:, :1], dtype=torch.bool), segments.diff() != 0), 1)
    return place - torch.where(begins, place, 0).cummax(1).values


def _table(rows: int, width: int) -> nn.Embedding:
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Cache:
    """The key-value cache of a whole model."""

    def __init__(self, model: Transformer, capacity: int, batch: int = 1) -> None:
        device = model.embedding.weight.device
        self.layers = [LayerCache(batch, model.config, capacity, model.compute_dtype, device) for _ in range(model.config.layers)]

    @property
    def length(self) -> int:
        return self.layers[0].length
