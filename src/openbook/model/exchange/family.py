"""What a family of published models is to us: data, and two functions between its `config.json` and our configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import Facts


@dataclass(frozen=True)
class Family:
    """A stock architecture of transformers.

    `names` maps our modules to theirs: "layers.N." stands for any layer; their "E" for any expert of ours. `read` takes a `config.json`,
    `write` gives the keys that are this family's own; a family has a shape if reading what it writes gives that shape again. `refused`
    holds the keys that would change what is computed, with the value at which they do not. `buffers` matches tensors that files of the
    family carry and that are no weights. `transposed`: the layers' matrices are stored as (in, out). `interleaved`: query, key and value
    are one tensor in which each head has its three parts next to each other; otherwise, modules with one name of theirs are joined in
    order. `scaled_query`: scores are not divided, so the query is, when a model whose scores are is written.
    """

    architecture: str
    model_type: str
    prefix: str
    names: Mapping[str, str]
    read: Callable[[Facts], TransformerConfig]
    write: Callable[[TransformerConfig], dict[str, Any]]
    refused: Mapping[str, Any] = field(default_factory=dict)
    buffers: str = r"(?!)"
    transposed: bool = False
    interleaved: bool = False
    scaled_query: bool = False


def in_layers(theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    """Names of modules inside a layer, whose own name is "layers.N" with us."""
    return {f"layers.N.{ours}": f"{theirs}.{name}" for ours, name in names.items()}


@dataclass(frozen=True)
class Stored:
    """How a tensor of the file is made: parameters, or one expert's part of them, one under the other; or, with `heads`, head by head.
    `scale` multiplies what is written."""

    parts: Sequence[tuple[str, int | None]]
    transposed: bool = False
    heads: int = 0
    scale: float = 1.0

    def shape(self, parameters: Mapping[str, Tensor]) -> list[int]:
        """The shape that the tensor of the file must have."""
        views = self._views(parameters)
        shape = [sum(view.shape[0] for view in views), *views[0].shape[1:]]
        return shape[::-1] if self.transposed else shape

    def write(self, parameters: Mapping[str, Tensor]) -> Tensor:
        views = [view.detach().float().cpu() for view in self._views(parameters)]
        if self.heads:
            by_head = [view.view(self.heads, -1, *view.shape[1:]) for view in views]  # (heads, head_width, …)
            whole = torch.stack(by_head, 1).flatten(0, 2)  # (heads * 3 * head_width, …)
        else:
            whole = torch.cat(views) if len(views) > 1 else views[0]
        whole = whole.t() if self.transposed else whole
        return (whole if self.scale == 1 else whole * self.scale).contiguous()

    def read(self, tensor: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Fills our parameters with a tensor of the right shape, whatever its type."""
        views, whole = self._views(parameters), tensor.t() if self.transposed else tensor
        if self.heads:
            by_head = whole.view(self.heads, len(views), -1, *whole.shape[1:])  # (heads, 3, head_width, …)
            for index, view in enumerate(views):
                view.view(self.heads, -1, *view.shape[1:]).copy_(by_head[:, index])
            return
        for view, part in zip(views, whole.split([view.shape[0] for view in views]), strict=True):
            view.copy_(part)

    def _views(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        return [parameters[name] if expert is None else parameters[name][expert] for name, expert in self.parts]


def layout(family: Family, config: TransformerConfig, parameters: Mapping[str, Tensor]) -> dict[str, Stored]:
    """The file's tensors by name, for a model's parameters by name (values are not looked at, so they may be on the meta device)."""
    found: dict[str, list[tuple[str, int | None]]] = {}
    for name, parameter in parameters.items():
        for exported, expert in _places(family, name, parameter):
            found.setdefault(exported, []).append((name, expert))
    folded = 1.0
    if family.scaled_query and config.score_scale != 1:
        folded = config.head_width**-0.5 if config.score_scale is None else config.score_scale

    def stored(parts: list[tuple[str, int | None]]) -> Stored:
        first = parts[0][0]
        matrix = first.startswith("layers.") and parameters[first].dim() == 2
        scale = folded if ".attention.query." in first else 1.0
        return Stored(parts, family.transposed and matrix, config.heads if family.interleaved and len(parts) == 3 else 0, scale)

    return {exported: stored(parts) for exported, parts in found.items()}


def _places(family: Family, name: str, parameter: Tensor) -> Iterator[tuple[str, int | None]]:
    """The tensors of the file that a parameter is in, with the expert that is in each."""
    index = re.match(r"layers\.(\d+)\.", name)
    general = re.sub(r"^layers\.\d+\.", "layers.N.", name)
    module, _, kind = general.rpartition(".")
    whole = family.names.get(general)
    theirs = whole or f"{family.names[module]}.{kind}"
    if index:
        theirs = theirs.replace(".N.", f".{index[1]}.", 1)
    if whole and ".E." in whole:
        for expert in range(parameter.shape[0]):
            yield theirs.replace(".E.", f".{expert}.", 1), expert
    else:
        yield theirs, None
