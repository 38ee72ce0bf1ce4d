"""What several families' configurations have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openbook.errors import InputError
from openbook.model.config import Activation, TransformerConfig, Window
from openbook.model.exchange.facts import LAYERS, Facts

PLAIN: dict[str, Activation] = {
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
}
"""transformers' names of activations, and ours, for an MLP of two matrices."""

GATED: dict[str, Activation] = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
"""The same for an MLP of three."""


def written_activation(activation: Activation) -> str:
    """transformers' name."""
    return next(theirs for theirs, ours in (*PLAIN.items(), *GATED.items()) if ours == activation)


@dataclass(frozen=True)
class Sizes:
    """A family's keys of the sizes of a model with layer norms, whose heads share its width."""

    context: str
    layers: str
    width: str
    heads: str
    mlp_width: str | None = None
    """None if it is always four times the width, as it is where the key is absent."""
    vocab_size: str = "vocab_size"

    def read(self, facts: Facts, **own: Any) -> TransformerConfig:
        """`own` is what one family has besides."""
        width, heads = facts.whole(self.width), facts.whole(self.heads)
        common: dict[str, Any] = {
            "vocab_size": facts.whole(self.vocab_size),
            "context": facts.whole(self.context),
            "layers": facts.whole(self.layers, most=LAYERS),
            "width": width,
            "heads": heads,
            "kv_heads": heads,
            "head_width": head_width(facts, width, heads),
            "mlp_width": facts.whole(self.mlp_width, 4 * width) if self.mlp_width else 4 * width,
            "norm": "layer",
            "norm_eps": 1e-5,
            "mlp_bias": True,
        }
        return TransformerConfig(**common | own)

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        sizes = {
            self.context: config.context,
            self.layers: config.layers,
            self.width: config.width,
            self.heads: config.heads,
        }
        return sizes | ({self.mlp_width: config.mlp_width} if self.mlp_width else {})


def head_width(facts: Facts, width: int, heads: int) -> int:
    """Of a family whose heads share its width."""
    if width % heads:
        raise InputError(f"{facts.path}: {heads} heads cannot share a width of {width} evenly")
    return width // heads


def repeating(windows: Sequence[Window | None]) -> tuple[Window | None, ...]:
    """The shortest pattern that gives these windows when it is repeated."""
    for length in range(1, len(windows) + 1):
        if all(window == windows[index % length] for index, window in enumerate(windows)):
            return tuple(windows[:length])
    return (None,)
