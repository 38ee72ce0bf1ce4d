"""What a transformer's shape depends on, as data.

One transformer holds every published GPT: what differs between the families is a value here, never a class. A style is a named set of
these values (`openbook.model.styles`); a checkpoint's `config.json` is another way to write them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Norm = Literal["rms", "layer"]
NormPlace = Literal["pre", "post", "parallel", "parallel-shared"]
"""pre: before attention and MLP. post: after each has been added (OPT-350M; no final norm). parallel: attention and MLP both read the
layer's input, each through its own norm (GPT-NeoX). parallel-shared: through one (GPT-J)."""
Positions = Literal["rotary", "learned", "none"]
Activation = Literal["swiglu", "geglu", "gelu", "gelu-tanh", "relu", "relu2"]
"""swiglu and geglu have three matrices, the others two. gelu is exact, gelu-tanh GPT-2's approximation."""
GATED = ("swiglu", "geglu")
EXPERTS_ALIGNMENT = 8
"""Widths of a mixture are multiples of this: grouped products want rows of a multiple of 16 bytes, which are 8 numbers in bf16."""


@dataclass(frozen=True)
class RotaryScaling:
    """How angles change for contexts beyond those of the first training.

    linear: all angles over `factor`. llama3: long wavelengths over `factor`, short ones as they are, between them by turns (Llama 3.1).
    yarn: the same by number of rotations between `slow` and `fast`, and queries and keys times `attention` each (Peng et al. 2023).
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_context: int
    slow: float = 1.0
    """llama3: low_freq_factor. yarn: beta_slow."""
    fast: float = 4.0
    """llama3: high_freq_factor. yarn: beta_fast."""
    attention: float | None = None
    """yarn: attention_factor; None for 0.1 ln(factor) + 1."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021). `share` of each head's width is rotated (GPT-NeoX: 0.25, GPT-J: rotary_dim / head_width)."""

    theta: float = 10_000.0
    share: float = 1.0
    pairs: Literal["halves", "neighbours"] = "halves"
    """Which elements turn together: i and i + n/2, or 2i and 2i + 1 (GPT-J)."""
    scaling: RotaryScaling | None = None


@dataclass(frozen=True)
class Window:
    """Which positions a layer sees: its own and those less than `width` before it; with a `stride`, also every position a multiple of the
    stride before its own (the strided pattern of Child et al. 2019, which GPT-3's sparse layers follow)."""

    width: int
    stride: int | None = None


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP, in every `every`-th layer, the last of each group (Switch: 2), beginning after `first`
    layers; `mlp_width` is the width of one expert here and of the plain MLP in the other layers."""

    count: int
    top_k: int
    mlp_width: int
    every: int = 1
    first: int = 0
    capacity: float | None = None
    """Switch: an expert takes at most capacity * tokens * top_k / count of a microbatch's rows, later tokens pass by; None drops none."""
    shared: int = 0
    """Width of an MLP that every token takes as well; 0 for none."""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    normalised: bool = True
    """Whether the weights of a token's top_k experts add up to 1 (Switch's top-1 weight does not)."""
    balance_loss: float = 0.0
    """Weight of the load-balancing loss (Fedus et al. 2021, eq. 4)."""
    z_loss: float = 0.0
    """Weight of the router's z-loss (Zoph et al. 2022, eq. 5)."""
    balance_rate: float = 0.0
    """Step of the bias that moves choices towards idle experts, with no loss (Wang et al. 2024); 0 for no such bias."""


@dataclass(frozen=True)
class TransformerConfig:
    """Every value that the shape depends on."""

    vocab_size: int
    context: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    norm: Norm = "rms"
    norm_place: NormPlace = "pre"
    norm_eps: float = 1e-6
    positions: Positions = "rotary"
    rotary: Rotary = Rotary()
    """Read with positions = "rotary" only."""
    position_offset: int = 0
    """Rows of the table of learned positions before that of the first one (OPT: 2)."""
    windows: tuple[Window | None, ...] = (None,)
    """Of the layers in turn, from the first; None sees everything before."""
    qkv_bias: bool = False
    output_bias: bool = False
    query_key_norm: bool = False
    score_scale: float | None = None
    """What scores are multiplied by; None for 1 / sqrt(head_width). GPT-Neo: 1."""
    score_softcap: float | None = None
    """Scores become softcap * tanh(scores / softcap)."""
    activation: Activation = "swiglu"
    mlp_bias: bool = False
    experts: Experts | None = None
    tied_head: bool = False
    head_bias: bool = False
    embedding_width: int | None = None
    """Narrower embeddings, with a matrix into the residual stream and one out of it (OPT-350M)."""
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    """What attention and MLP give is multiplied by this before it is added."""
    logit_softcap: float | None = None

    def window(self, layer: int) -> Window | None:
        """What a layer (from 0) sees."""
        return self.windows[layer % len(self.windows)]

    def experts_of(self, layer: int) -> Experts | None:
        """The mixture of a layer (from 0), or None for a plain MLP."""
        found = self.experts
        if found is None or layer < found.first or (layer - found.first) % found.every != found.every - 1:
            return None
        return found
