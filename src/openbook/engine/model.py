"""One step of a transformer over pieces of many sequences at once.

A piece's result does not depend on the pieces beside it: products are row by row (`openbook.engine.linear`), and attention is
computed for each piece by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.engine.kv import Row
from openbook.engine.linear import Packed, Pointwise, Precision, Product, activation_type, kept_type, product
from openbook.engine.pages import lay_in_large_pages
from openbook.model.attention import attend
from openbook.model.config import GATED
from openbook.model.parts import MLP, LayerNorm, Linear, RMSNorm, activated
from openbook.model.positions import tables
from openbook.model.transformer import Layer, Transformer

COPIED = 512
"""Positions up to which a layer's keys and values are copied before attention reads them: a copy streams from memory at twice the speed
of attention's own small products, which then find them in the cache. Beyond, they would not stay in it."""


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


@dataclass(frozen=True)
class _Place:
    """A piece among the tokens of a step. By layer: `written`, where its keys and values go, (tokens, 2 kv_heads, head_width), and `held`,
    those up to its end, (positions, 2, kv_heads, head_width); `near`: where the layer that is computed copies these, if it does."""

    piece: Piece
    first: int
    last: int
    written: tuple[Tensor, ...]
    held: tuple[Tensor, ...]
    near: tuple[Tensor, Tensor, Tensor] | None

    @property
    def parts(self) -> list[tuple[int, int]]:
        """What is computed as one, from and to, counted from the piece's first token."""
        count = self.last - self.first
        return [(0, count)] if self.piece.together else [(index, index + 1) for index in range(count)]

    def seen(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values up to the piece's end, (1, kv_heads, positions, head_width) each, until the next call for any piece."""
        if self.near is None:
            return _keys_and_values(self.held[layer])
        whole, keys, values = self.near
        whole.copy_(self.held[layer])
        return keys, values


@dataclass(frozen=True)
class _Step:
    """What the layers need to know of a step. sizes: tokens of each piece, and of the padding behind them."""

    places: list[_Place]
    sizes: list[int]
    rotary: tuple[Tensor, Tensor] | None
    adapters: list[tuple[Adapter, Tensor]]


class Runner:
    """Runs a model with packed weights. The packed copy is made once; later changes of the model's own weights are not seen."""

    def __init__(self, model: Transformer, precision: Precision = "fp32") -> None:
        self.config, self.precision, self.device = model.config, precision, model.embedding.weight.device
        self.dtype = activation_type(precision, self.device)
        self._model = model
        with torch.no_grad():
            self._layers = [_PackedLayer(cast(Layer, layer), index, self) for index, layer in enumerate(model.layers)]
            self._head = product(model.head.weight, model.head.bias, precision)
            self._final_norm = None if model.final_norm is None else _Norm(model.final_norm, self.dtype)
            self._embedding_projection = None if model.embedding_projection is None else joined([model.embedding_projection], "fp32")
            self._head_projection = None if model.head_projection is None else joined([model.head_projection], precision)
        every = [self._head, *(one for layer in self._layers for one in layer.products.values())]
        lay_in_large_pages([one.weight for one in every if isinstance(one, Packed | Pointwise)])  # the others are not held up by memory
        config = self.config
        self._tables = None
        if config.positions == "rotary":
            self._tables = _wide(*tables(config.rotary, config.head_width, config.context, self.dtype, self.device), config.rotary.pairs)
        self._least = max(self._head.least_rows, *(layer.least_rows for layer in self._layers), 2)
        on_cpu = self.device.type == "cpu"
        self._kept = kept_type(precision, self.device)
        shape = (config.context, 2, config.kv_heads, config.head_width)
        self._near = torch.empty(shape, dtype=self.dtype) if on_cpu else None

    def new_row(self, capacity: int) -> Row:
        return Row(self.config, capacity, self._kept, self.device)

    def _place(self, piece: Piece, first: int) -> _Place:
        start, stop = piece.start, piece.start + len(piece.ids)
        held = piece.row.whole.narrow(1, 0, stop)  # (layers, positions, 2, kv_heads, head_width)
        written = held.flatten(2, 3).narrow(1, start, stop - start).unbind()
        near = None
        if self._near is not None and (self._kept != self.dtype or stop <= COPIED):
            whole = self._near[:stop]
            near = whole, *_keys_and_values(whole)
        return _Place(piece, first, first + len(piece.ids), written, held.unbind(), near)

    def forward(self, pieces: Sequence[Piece]) -> Tensor:
        """The final hidden states of all new tokens, piece by piece: (tokens, width); keys and values go into the rows."""
        ids: list[int] = []
        positions: list[int] = []
        places: list[_Place] = []
        for piece in pieces:
            places.append(self._place(piece, len(ids)))
            ids.extend(piece.ids)
            positions.extend(range(piece.start, piece.start + len(piece.ids)))
        count, missing = len(ids), max(0, self._least - len(ids))
        x, at = self._embedded(torch.tensor(ids + ids[-1:] * missing), torch.tensor(positions + positions[-1:] * missing))
        rotary = None if self._tables is None else (self._tables[0][at, None], self._tables[1][at, None])
        step = _Step(places, [len(piece.ids) for piece in pieces] + [missing] * bool(missing), rotary, self._by_adapter(places))
        for layer in self._layers:
            x = layer(x, step)
        return (x if self._final_norm is None else self._final_norm(x))[:count]

    def _embedded(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, width), and the positions, on the device."""
        model, ids, positions = self._model, ids.to(self.device), positions.to(self.device)
        x = model.embedding(ids)
        if self._embedding_projection is not None:
            x = self._embedding_projection(x)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self.config.positions == "learned":
            x = x + model.position(positions + self.config.position_offset)
        return x.to(self.dtype), positions

    def _by_adapter(self, places: Sequence[_Place]) -> list[tuple[Adapter, Tensor]]:
        tokens: dict[int, tuple[Adapter, list[int]]] = {}
        for place in places:
            if (adapter := place.piece.adapter) is not None:
                tokens.setdefault(id(adapter), (adapter, []))[1].extend(range(place.first, place.last))
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
        self._index, self._config, self._mlp_module = index, runner.config, layer.mlp
        self._window, self._is_plain = attention.window, attention.window is None and attention.softcap is None
        self._place, self._scale = layer.place, layer.scale
        self._first = _Norm(layer.attention_norm, runner.dtype)
        self._second = None if layer.mlp_norm is None else _Norm(layer.mlp_norm, runner.dtype)
        norms = attention.query_norm, attention.key_norm
        self._head_norms = [_Norm(norm, runner.dtype) for norm in norms if norm is not None]
        self.products = {
            "qkv": joined([attention.query, attention.key, attention.value], precision),
            "output": joined([attention.output], precision),
        }
        if isinstance(layer.mlp, MLP):
            gate = [] if layer.mlp.gate is None else [layer.mlp.gate]
            self.products["up"] = joined([*gate, layer.mlp.up], precision)
            self.products["down"] = joined([layer.mlp.down], precision)
        self.least_rows = max(one.least_rows for one in self.products.values())

    def __call__(self, x: Tensor, step: _Step) -> Tensor:
        """(tokens, width) -> the same."""
        first, second, scale = self._first, self._second or self._first, self._scale
        if self._place == "post":
            x = first(x + _scaled(self._attend(x, step), scale))
            return second(x + _scaled(self._mlp(x, step), scale))
        if self._place == "pre":
            x = x + _scaled(self._attend(first(x), step), scale)
            return x + _scaled(self._mlp(second(x), step), scale)
        normal = first(x)
        beside = self._mlp(normal if self._second is None else second(x), step)
        return x + _scaled(self._attend(normal, step) + beside, scale)

    def _product(self, name: str, x: Tensor, step: _Step) -> Tensor:
        output = self.products[name](x)
        for adapter, at in step.adapters:
            for delta in adapter.deltas.get((self._index, name), ()):
                change = delta.up(delta.down(_padded(x[at], delta.down.least_rows)))
                output[:, delta.start : delta.stop].index_add_(0, at, change[: len(at)])
        return output

    def _attend(self, x: Tensor, step: _Step) -> Tensor:
        config = self._config
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_width
        qkv = self._product("qkv", x, step).view(len(x), heads + 2 * kv_heads, width)
        turned = qkv.narrow(1, 0, heads + kv_heads)
        for norm, part in zip(self._head_norms, turned.split([heads, kv_heads], 1), strict=False):
            part.copy_(norm(part))
        if step.rotary is not None:
            _turn(turned, *step.rotary, config.rotary.pairs == "neighbours")
        query, new = qkv.split([heads, 2 * kv_heads], 1)  # (tokens, heads, head_width) each
        torch._foreach_copy_([place.written[self._index] for place in step.places], new.split(step.sizes)[: len(step.places)])
        queries = query.transpose(0, 1).unsqueeze(0).split(step.sizes, 2)
        mixed = [read for place, part in zip(step.places, queries, strict=False) for read in self._read(place, part)]
        if len(queries) > len(step.places):
            mixed.append(x.new_zeros(step.sizes[-1], heads * width))
        return self._product("output", torch.cat(mixed), step)

    def _read(self, place: _Place, query: Tensor) -> list[Tensor]:
        """(1, heads, tokens, head_width) -> (tokens, heads * head_width), in parts."""
        config, (keys, values) = self._config, place.seen(self._index)
        grouped = config.heads != config.kv_heads
        if query.shape[2] == 1 and self._is_plain and not place.piece.together:  # by far the most frequent: what `attend` would do
            return [F.scaled_dot_product_attention(query, keys, values, scale=config.score_scale, enable_gqa=grouped).reshape(1, -1)]
        mixed = []
        for first, last in place.parts:
            stop = place.piece.start + last
            part, seen = query[:, :, first:last], (keys[:, :, :stop], values[:, :, :stop])
            read = attend(part, *seen, self._window, config.score_scale, config.score_softcap)
            mixed.append(read[0].transpose(0, 1).reshape(last - first, -1))
        return mixed

    def _mlp(self, x: Tensor, step: _Step) -> Tensor:
        mlp = self._mlp_module
        if isinstance(mlp, MLP):
            up, gate = self._product("up", x, step), None
            if mlp.activation in GATED:
                gate, up = up.chunk(2, 1)
            between = activated(mlp.activation, up, gate) if mlp.activation != "swiglu" or gate is None else F.silu(gate).mul_(up)
            return self._product("down", between, step)
        output = torch.zeros_like(x)
        for place in step.places:  # each by itself, because products over experts group the rows of all
            for first, last in place.parts:
                part = slice(place.first + first, place.first + last)
                output[part] = mlp(x[None, part])[0]
        return output


class _Norm:
    """A norm of the model, without what its gradient needs.

    In fp32 an RMS norm is x / hypot(|x|, sqrt(width * eps)) times sqrt(width) * weight: half the operations of torch's own on a CPU.
    """

    def __init__(self, norm: RMSNorm | LayerNorm, dtype: torch.dtype) -> None:
        self._weight, self._eps = norm.weight.detach().to(dtype), norm.eps
        self._bias = norm.bias.detach().to(dtype) if isinstance(norm, LayerNorm) else None
        root = len(self._weight) ** 0.5
        self._least, self._factor = torch.tensor(root * self._eps**0.5), self._weight * root

    def __call__(self, x: Tensor) -> Tensor:
        if self._bias is not None:
            return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)
        if x.dtype != torch.float32:
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        return torch.div(x, torch.linalg.vector_norm(x, 2, -1, keepdim=True).hypot_(self._least)).mul_(self._factor)


def _keys_and_values(both: Tensor) -> tuple[Tensor, Tensor]:
    """(positions, 2, kv_heads, head_width) -> (1, kv_heads, positions, head_width) each."""
    keys, values = both.permute(1, 2, 0, 3).unsqueeze(1).unbind()
    return keys, values


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
