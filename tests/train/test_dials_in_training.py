"""Every dial of the optimizer and the batch, through training, a checkpoint and on: the bits of a training that was not cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openbook.recipe import load_recipe
from openbook.run import Run
from openbook.tokens import Rows
from openbook.train.checkpoint import State, load, save
from openbook.train.fingerprint import fingerprint
from openbook.train.step import Trainer

GROWING = ["train.steps=8", "train.microbatches=4", "train.ramp={start = 1, over = 0.3}", "train.schedule.kind=cosine"]


@pytest.mark.parametrize("state", ["bf16", "int8"])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_checkpoint_holds_all_that_the_dials_need(tokenized: Run, tmp_path: Path, kind: str, state: str) -> None:
    dials = [*GROWING, f"train.optimizer.kind={kind}", f"train.optimizer.state={state}"]
    recipe, _ = load_recipe(tokenized.recipe_folder / "tiny.toml", dials)
    rows = Rows(Rows.open(tokenized).shards, recipe)
    uncut, first, second = (Trainer(recipe, torch.device("cpu")) for _ in range(3))
    losses = [uncut.step(step, rows).loss for step in range(8)]
    for step in range(4):
        first.step(step, rows)
    load(save(tmp_path, State("", 4, 0, 0.0), first.tensors(), 2), second.tensors())
    for step in range(4, 8):
        assert second.step(step, rows).loss == losses[step]
    assert fingerprint(second.tensors()) == fingerprint(uncut.tensors())
    assert losses[-1] < losses[0]
