"""Our side: a recipe, trained by `openbook train`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openbook.logbook import read
from openbook.model.exchange import load_weights
from openbook.model.tokenizer import load_tokenizer
from train.common import ROOT, character_loss, openbook, split


@dataclass(frozen=True)
class Trained:
    """`cpu`: the whole `openbook train` process; `steps_only`: its optimizer steps, by the clock of one thread."""

    cpu: float
    wall: float
    steps_only: float
    steps: int
    tokens: int
    parameters: int
    validation_loss: float

    def row(self) -> dict[str, Any]:
        return {key: round(value, 4) for key, value in vars(self).items()}


def prepared(recipe: str, folder: Path, *overrides: str) -> Path:
    """A run directory with its tokens."""
    settings = [part for item in overrides for part in ("--set", item)]
    openbook("run", str(ROOT / "recipes" / recipe), "--out", str(folder), "--until", "tokenize", *settings)
    return folder


def trained(run: Path, text: Path) -> Trained:
    """Trains a prepared run of characters, and scores its weights on the whole validation text."""
    cost = openbook("train", str(run))
    summary = json.loads((run / "manifest.json").read_bytes())["stages"]["train"]["summary"]
    last = [event for event in read(run / "logbook.jsonl") if event["event"] == "step"][-1]
    facts = {name: summary[name] for name in ("steps", "tokens", "parameters")}
    return Trained(cost.cpu, cost.wall, last["seconds"], **facts, validation_loss=full_validation_loss(run, text))


def full_validation_loss(run: Path, text: Path) -> float:
    model, tokenizer = load_weights(run / "weights"), load_tokenizer(run / "tokenizer" / "tokenizer.json")
    ids = np.asarray(tokenizer.encode(split(text)[1]), dtype=np.int64)

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        return model.logits(model(tokens))

    return character_loss(logits, ids, model.config.context)
