"""Trainings that are long enough to be disturbed, and what the tests ask of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openbook.files import sha256_file
from openbook.logbook import read
from openbook.recipe import load_recipe
from openbook.run import Run, open_run

STEPS = 40
LONGER = [
    "corpus.components.prose.max_epochs=4000",
    "corpus.components.code.max_epochs=4000",
    f"train.steps={STEPS}",
    "train.microbatches=4",
    "train.checkpoint_every=8",
    f"train.validate_every={STEPS}",
]


def fresh(tokenized: Run, folder: Path, settings: Sequence[str] = ()) -> Run:
    """A run with tokens and no training."""
    shutil.copytree(tokenized.path, folder)
    source = tokenized.recipe_folder / "tiny.toml"
    return open_run(folder, load_recipe(source, [*LONGER, *settings])[0], source)


def weights_hash(run: Run) -> str:
    return sha256_file(run.path / "weights" / "model.safetensors")


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read(run.logbook_path) if event["event"] == kind]
