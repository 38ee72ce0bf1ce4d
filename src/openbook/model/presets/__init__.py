"""The published models as data: a table of shapes and, where they are published, of training values, each family with its sources.

A file holds a family: what its models share in `[shape]` and `[training]`, and a row a model in `[models]`. The keys of shapes are the
dials of a recipe's `[model]`, so a row is read by the same code as a recipe; a head_width that is not there is width / heads. Reading the
table loads nothing heavy.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from openbook.errors import InputError

__all__ = ["Preset", "preset", "presets"]

TRAINING = {
    "rate": "peak learning rate of AdamW",
    "batch_tokens": "tokens of a step",
    "tokens": "tokens of the whole training",
    "warmup_tokens": "tokens in which the rate rises",
    "fall_tokens": "tokens after which the rate has fallen to the floor; without it, at the end",
    "schedule": "how it falls",
    "floor": "what is left of the rate",
    "beta1": "of AdamW",
    "beta2": "of AdamW",
    "eps": "of AdamW",
    "clip": "norm to which gradients are scaled down",
    "weight_decay": "share of itself, times the rate, that a matrix loses in a step",
    "ramp_from": "tokens of the first step",
    "ramp_tokens": "tokens until the batch is whole",
}
"""The training values that a row may have. None of them is guessed: what is not published is not there, or is told of in `notes`."""
UNITS = {"M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Preset:
    """A published model."""

    name: str
    family: str
    paper: str
    source: str
    """Where the numbers are from."""
    printed: str
    """The number of parameters as its publisher prints it: "20,554,567,680", or "13B"."""
    within: float
    """How far, as a share, the shape's own number may be from the printed one: not at all where that is printed to the unit."""
    vocab_size: int
    shape: dict[str, Any]
    """Keys of a recipe's `[model]`."""
    training: dict[str, Any]
    """Of `TRAINING`; empty where nothing is published."""
    printed_active: str | None = None
    """Mixtures: the parameters that a token passes."""
    notes: tuple[str, ...] = ()

    @property
    def published(self) -> int:
        """The printed number of parameters."""
        return number(self.printed)


def number(printed: str) -> int:
    """What a printed number of parameters says."""
    plain = printed.replace(",", "")
    return round(float(plain[:-1]) * UNITS[plain[-1]]) if plain[-1] in UNITS else int(plain)


@cache
def presets() -> dict[str, Preset]:
    """All of them by name, families in the order of their files, the smallest first."""
    rows: list[Preset] = []
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            rows += sorted(_family(tomllib.loads(file.read_text(encoding="utf-8"))), key=lambda row: row.published)
    return {row.name: row for row in rows}


def preset(name: str) -> Preset:
    """The preset of a name. Raises InputError that names the nearest ones."""
    found = presets().get(name)
    if found is None:
        near = difflib.get_close_matches(name, presets(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`openbook models` lists them"
        raise InputError(f"{name}: no such preset; {hint}")
    return found


def _family(table: dict[str, Any]) -> list[Preset]:
    rows = []
    for name, row in table.pop("models").items():
        shape, training = dict(table.get("shape", {})), dict(table.get("training", {}))
        notes = (*table.get("notes", ()), *row.pop("notes", ()))
        told = {key: row.pop(key) for key in ("printed", "printed_active", "within", "vocab_size") if key in row}
        exact = 0.0 if told["printed"][-1].isdigit() else 0.02
        told = {"within": table.get("within", exact), "vocab_size": table["vocab_size"], **told}
        for key, value in row.items():
            (training if key in TRAINING else shape)[key] = value
        shape.setdefault("head_width", shape["width"] // shape["heads"])
        rows.append(Preset(name, table["title"], table["paper"], table["source"], shape=shape, training=training, notes=notes, **told))
    return rows
