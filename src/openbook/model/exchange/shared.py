"""What several families' configurations have in common."""

from __future__ import annotations

from collections.abc import Sequence

from openbook.model.config import Activation, Window
from openbook.model.exchange.facts import Facts

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


def head_width(facts: Facts, width: int, heads: int) -> int:
    """Of a family whose heads share its width."""
    if width % heads:
        raise facts.wrong("architectures", f"has {heads} heads, which cannot share a width of {width}")
    return width // heads


def repeating(windows: Sequence[Window | None]) -> tuple[Window | None, ...]:
    """The shortest pattern that gives these windows when it is repeated."""
    for length in range(1, len(windows) + 1):
        if all(window == windows[index % length] for index, window in enumerate(windows)):
            return tuple(windows[:length])
    return (None,)
