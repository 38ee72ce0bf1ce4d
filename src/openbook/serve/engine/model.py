"""One step of a transformer over pieces of many sequences at once.

A piece's result does not depend on the pieces beside it: products are row by row (`openbook.serve.engine.linear`), and attention is
computed for each piece by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.model.attention import attend
from openbook.model.parts import MLP, LayerNorm, Linear, RMSNorm, activated
from openbook.model.positions import tables
from openbook.model.transformer import Layer, Transformer
from openbook.serve.engine.kv import Row
from openbook.serve.engine.linear import Precision, Product, activation_type, product


class Delta(NamedTuple):
    """What an adapter adds to outputs `start` … `stop` - 1 of a product: up(down(x)), the scale within `up`."""

    start: int
    stop: int
    down: Product
    up: Product


@dataclass(frozen=True)
class Adapter:
    """A low-rank change of a model (Hu et al. 2021): deltas by layer and product. key: a hash of its content."""

    key: str
    deltas: dict[tuple[int, str], list[Delta]]


@dataclass(frozen=True)
class Piece:
    """New tokens of a sequence, at positions `start` and on, in a row that holds all before.

    `together`: read as one block of queries. Otherwise each token is attended to by itself, with the bits that it has when it comes alone.
    """

    row: Row
    start: int
    ids: Sequence[int]
    together: bool
    adapter: Adapter | None = None


@dataclass
class _Step:
    """What the layers need to know of a step: pieces with their place among the tokens, and the tokens of each adapter."""

    pieces: list[tuple[Piece, int, int]]
    rotary: tuple[Tensor, Tensor] | None
    adapters: list[tuple[Adapter, Tensor]] = field(default_factory=list)


class Runner:
    """Runs a model with packed weights. The packed copy is made once; later changes of the model's own weights are not seen."""

    def __init__(self, model: Transformer, precision: Precision = "fp32") -> None:
        self.config, self.precision, self.device = model.config, precision, model.embedding.weight.device
        self.dtype = activation_type(precision, self.device)
        self._model = model
        with torch.no_grad():
            self._layers = [_PackedLayer(cast(Layer, layer), index, self) for index, layer in enumerate(model.layers)]
            self._head = product(model.head.weight, model.head.bias, precision)
            self._head_projection = None if model.head_projection is None else joined([model.head_projection], precision)
        config = self.config
        self._tables = None
        if config.positions == "rotary":
            self._tables = _wide(*tables(config.rotary, config.head_width, config.context, self.dtype, self.device), config.rotary.pairs)
        self._least = max(self._head.least_rows, *(layer.least_rows for layer in self._layers), 2)

    def new_row(self, capacity: int) -> Row:
        return Row(self.config, capacity, self.dtype, self.device)

    def forward(self, pieces: Sequence[Piece]) -> Tensor:
        """The final hidden states of all new tokens, piece by piece: (tokens, width); keys and values go into the rows."""
        ids: list[int] = []
        positions: list[int] = []
        places: list[tuple[Piece, int, int]] = []
        for piece in pieces:
            places.append((piece, len(ids), len(ids) + len(piece.ids)))
            ids.extend(piece.ids)
            positions.extend(range(piece.start, piece.start + len(piece.ids)))
        count, missing = len(ids), max(0, self._least - len(ids))
        x, at = self._embedded(torch.tensor(ids + ids[-1:] * missing), torch.tensor(positions + positions[-1:] * missing))
        rotary = None if self._tables is None else (self._tables[0][at, None], self._tables[1][at, None])
        step = _Step(places, rotary, self._by_adapter(places))
        for layer in self._layers:
            x = layer(x, step)
        norm = self._model.final_norm
        return (x if norm is None else _normal(norm, x))[:count]

    def _embedded(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, width), and the positions, on the device."""
        model, ids, positions = self._model, ids.to(self.device), positions.to(self.device)
        x = model.embedding(ids)
        if model.embedding_projection is not None:
            x = F.linear(x, model.embedding_projection.weight)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self.config.positions == "learned":
            x = x + model.position(positions + self.config.position_offset)
        return x.to(self.dtype), positions

    def _by_adapter(self, places: Sequence[tuple[Piece, int, int]]) -> list[tuple[Adapter, Tensor]]:
        tokens: dict[int, tuple[Adapter, list[int]]] = {}
        for piece, start, stop in places:
            if piece.adapter is not None:
                tokens.setdefault(id(piece.adapter), (piece.adapter, []))[1].extend(range(start, stop))
        return [(adapter, torch.tensor(at, device=self.device)) for adapter, at in tokens.values()]

    def logits(self, hidden: Tensor) -> Tensor:
        """(tokens, width) -> (tokens, vocabulary), fp32 on the CPU."""
        count, hidden = len(hidden), _padded(hidden, self._least)
        hidden = hidden if self._head_projection is None else self._head_projection(hidden)
        logits = self._head(hidden)[:count].float().cpu()
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


def joined(linears: Sequence[Linear], precision: Precision) -> Product:
    """Several layers of one input as one product, their outputs beside each other."""
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    weights: list[Tensor] = [linear.weight for linear in linears]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    return product(weight, torch.cat(biases) if biases else None, precision)


class _PackedLayer:
    def __init__(self, layer: Layer, index: int, runner: Runner) -> None:
        attention, precision = layer.attention, runner.precision
        self._layer, self._attention, self._index, self._config = layer, attention, index, runner.config
        self._products = {
            "qkv": joined([attention.query, attention.key, attention.value], precision),
            "output": joined([attention.output], precision),
        }
        if isinstance(layer.mlp, MLP):
            gate = [] if layer.mlp.gate is None else [layer.mlp.gate]
            self._products["up"] = joined([*gate, layer.mlp.up], precision)
            self._products["down"] = joined([layer.mlp.down], precision)
        self.least_rows = max(one.least_rows for one in self._products.values())

    def __call__(self, x: Tensor, step: _Step) -> Tensor:
        """(tokens, width) -> the same."""
        layer = self._layer
        scale, first, second = layer.scale, layer.attention_norm, layer.mlp_norm or layer.attention_norm
        if layer.place == "post":
            x = _normal(first, x + _scaled(self._attend(x, step), scale))
            return _normal(second, x + _scaled(self._mlp(x, step), scale))
        if layer.place == "pre":
            x = x + _scaled(self._attend(_normal(first, x), step), scale)
            return x + _scaled(self._mlp(_normal(second, x), step), scale)
        normal = _normal(first, x)
        beside = self._mlp(normal if layer.mlp_norm is None else _normal(second, x), step)
        return x + _scaled(self._attend(normal, step) + beside, scale)

    def _product(self, name: str, x: Tensor, step: _Step) -> Tensor:
        output = self._products[name](x)
        for adapter, at in step.adapters:
            for delta in adapter.deltas.get((self._index, name), ()):
                change = delta.up(delta.down(_padded(x[at], delta.down.least_rows)))
                output[:, delta.start : delta.stop].index_add_(0, at, change[: len(at)])
        return output

    def _attend(self, x: Tensor, step: _Step) -> Tensor:
        config, attention = self._config, self._attention
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_width
        qkv = self._product("qkv", x, step).view(len(x), heads + 2 * kv_heads, width)
        turned = qkv[:, : heads + kv_heads]
        if attention.query_norm is not None and attention.key_norm is not None:
            normal = torch.cat((_normal(attention.query_norm, turned[:, :heads]), _normal(attention.key_norm, turned[:, heads:])), 1)
            turned.copy_(normal)
        if step.rotary is not None:
            _turn(turned, *step.rotary, attention.neighbours)
        by_head = qkv.transpose(0, 1)  # (heads + 2 kv_heads, tokens, head_width)
        query, new = by_head[None, :heads], by_head[heads:]
        mixed = []
        for piece, start, stop in step.pieces:
            piece.row.layers[self._index].narrow(1, piece.start, stop - start).copy_(new.narrow(1, start, stop - start))
            mixed += self._read(piece, query.narrow(2, start, stop - start))
        if missing := len(x) - step.pieces[-1][2]:
            mixed.append(x.new_zeros(missing, heads * width))
        return self._product("output", torch.cat(mixed), step)

    def _read(self, piece: Piece, query: Tensor) -> list[Tensor]:
        """(1, heads, tokens, head_width) -> (tokens, heads * head_width), in parts."""
        keys, values, attention = piece.row.keys[self._index], piece.row.values[self._index], self._attention
        count = query.shape[2]
        parts = [(0, count)] if piece.together else [(index, index + 1) for index in range(count)]
        mixed = []
        for first, last in parts:
            part = query if last - first == count else query.narrow(2, first, 1)
            stop = piece.start + last
            read = attend(part, keys.narrow(2, 0, stop), values.narrow(2, 0, stop), attention.window, attention.scale, attention.softcap)
            mixed.append(read[0].transpose(0, 1).reshape(last - first, -1))
        return mixed

    def _mlp(self, x: Tensor, step: _Step) -> Tensor:
        mlp = self._layer.mlp
        if isinstance(mlp, MLP):
            up, gate = self._product("up", x, step), None
            if mlp.gate is not None:
                gate, up = up.chunk(2, 1)
            between = activated(mlp.activation, up, gate) if mlp.activation != "swiglu" or gate is None else F.silu(gate).mul_(up)
            return self._product("down", between, step)
        output = torch.zeros_like(x)
        for piece, start, stop in step.pieces:  # each by itself, because products over experts group the rows of all
            parts = [(start, stop)] if piece.together else [(index, index + 1) for index in range(start, stop)]
            for first, last in parts:
                output[first:last] = mlp(x[None, first:last])[0]
        return output


def _normal(norm: RMSNorm | LayerNorm, x: Tensor) -> Tensor:
    """The model's norm without what its gradient needs."""
    shape = norm.weight.shape
    if isinstance(norm, RMSNorm):
        return F.rms_norm(x, shape, norm.weight.to(x.dtype), norm.eps)
    return F.layer_norm(x, shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> None:
    """Rotates the first elements of each head in place: `openbook.model.positions.rotate` with (tokens, 1, rotated_width) tables, of which
    sin has its sign. x: (tokens, heads, head_width)."""
    x = x[..., : cos.shape[-1]]
    other = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if neighbours else torch.cat(x.chunk(2, -1)[::-1], -1)
    torch.addcmul(x * cos, other, sin, out=x)


def _wide(cos: Tensor, sin: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    """(context, rotated_width / 2) -> (context, rotated_width), with the sign that an element's partner is taken with."""
    if pairs == "neighbours":
        return cos.repeat_interleave(2, 1), torch.stack((-sin, sin), 2).flatten(1)
    return torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1)


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1.0 else x * scale


def _padded(x: Tensor, least: int) -> Tensor:
    """At least so many rows; those that are added repeat the last."""
    return x if len(x) >= least else torch.cat((x, x[-1:].expand(least - len(x), -1)))
