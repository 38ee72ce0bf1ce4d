"""What a transformer's shape depends on, as data.

Two styles. "modern": RMSNorm, rotary positions, RMS-normalised queries and keys, grouped-query attention, SwiGLU, no biases: the shape of
`Qwen3ForCausalLM`. "gpt": layer norm, learned positions, biases, GELU and a tied head: the shape of GPT-2 (Radford et al. 2019), and with
a band in every second layer that of GPT-3 (Brown et al. 2020, section 2.1). Both are stock architectures of other tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Style = Literal["modern", "gpt"]


@dataclass(frozen=True)
class TransformerConfig:
    """Every number that the shape depends on. `band`: positions that a token sees in every second layer, its own included."""

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
    style: Style = "modern"
    band: int | None = None

    def band_of(self, layer: int) -> int | None:
        """How many positions a layer (from 0) sees, its own included; None for all."""
        return self.band if layer % 2 else None

    @property
    def projection_bias(self) -> bool:
        """Whether query, key and value have biases: GPT-2's have; the stock architecture with bands, GPT-Neo, has none."""
        return self.style == "gpt" and self.band is None

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in a matrix product for each token (the head, but not the embedding lookup)."""
        attention = self.width * self.head_width * 2 * (self.heads + self.kv_heads)
        matrices = 3 if self.style == "modern" else 2
        return self.layers * (attention + matrices * self.width * self.mlp_width) + self.vocab_size * self.width

    def flops_per_token(self, context: int | None = None) -> float:
        """Floating-point operations to train on one token: forward and backward, causal attention counted once.

        6 per matmul parameter, plus 12 * heads * head_width for each position that the token sees in each layer, on average: half of the
        context in a dense layer (Kaplan et al. 2020, section 2.1, halved); a band's width, less its incomplete beginning, in a banded one.
        """
        span = context or self.context
        seen = 0.0
        for layer in range(self.layers):
            band = min(self.band_of(layer) or span, span)
            seen += band - band * band / (2 * span)
        return 6.0 * self.matmul_parameters + 12.0 * seen * self.heads * self.head_width
