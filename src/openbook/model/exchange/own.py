"""The form of weights whose shape no stock architecture has: our names, and every dial of the shape in `config.json`.

Such a model trains, is evaluated, generates and is served here like any other; only `openbook export` has nothing to give to other tools.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from openbook.errors import InputError
from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import LAYERS, Facts
from openbook.model.exchange.family import Family, in_layers

_OUTSIDE = ("embedding", "position", "embedding_projection", "head_projection", "final_norm", "head")
_INSIDE = (
    "attention_norm",
    *(f"attention.{part}" for part in ("query", "key", "value", "output", "query_norm", "key_norm")),
    "mlp_norm",
    *(f"mlp.{part}" for part in ("gate", "up", "down", "router", "experts.gate", "experts.up", "experts.down")),
    *(f"mlp.shared.{part}" for part in ("gate", "up", "down")),
)
KEY = "transformer"
SIZES = ("vocab_size", "context", "width", "heads", "kv_heads", "head_width", "mlp_width")


def read(facts: Facts) -> TransformerConfig:
    table = facts.table(KEY)
    if table is None:
        raise facts.wrong(KEY, "should be the table of the shape")
    for size in SIZES:
        table.whole(size)
    table.whole("layers", most=LAYERS)
    try:
        return TypeAdapter(TransformerConfig).validate_python(dict(table.content))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{facts.path}: {KEY}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def write(config: TransformerConfig) -> dict[str, Any]:
    return {KEY: asdict(config)}


OWN = Family(
    architecture="OpenbookTransformer",
    model_type="openbook",
    prefix="layers.",
    names={name: name for name in _OUTSIDE} | in_layers("layers.N", {name: name for name in _INSIDE}),
    read=read,
    write=write,
)
