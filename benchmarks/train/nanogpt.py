"""nanoGPT's side: its own train.py, in a checkout that the user has (github.com/karpathy/nanoGPT), which is copied and never changed."""

from __future__ import annotations

import importlib.util
import pickle
import re
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.common import Absent, character_loss, measured, split

COMMON = ["--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--dropout=0.0", "--out_dir=out"]
SMALL = ["--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128"]
"""The README's configuration for a CPU, with its 2,000 iterations."""


@dataclass(frozen=True)
class Trained:
    """`cpu`: the whole process of train.py; `steps_only`: its iterations without its evaluations, by their printed median.

    `curve`: (iteration, its own estimate of the validation loss). `validation_loss`: of its last checkpoint, on the whole text.
    """

    cpu: float
    wall: float
    steps_only: float
    steps: int
    tokens: int
    parameters: int
    validation_loss: float
    curve: list[tuple[int, float]]

    def row(self) -> dict[str, Any]:
        return {key: value if isinstance(value, list) else round(value, 4) for key, value in vars(self).items()}


def checked(path: Path | None) -> Path:
    """The checkout, if it is one. Raises Absent."""
    if path is None:
        raise Absent("nanoGPT: give a checkout of github.com/karpathy/nanoGPT with --nanogpt PATH")
    if not (path / "train.py").is_file() or not (path / "config" / "train_shakespeare_char.py").is_file():
        raise Absent(f"nanoGPT: {path} has no train.py and config/train_shakespeare_char.py")
    return path


def trained(checkout: Path, folder: Path, text: Path, iterations: int, flags: list[str] = SMALL) -> Trained:
    """Trains by the README's command in a copy of the checkout, on the data that its prepare.py would make of the text."""
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".git", "data", "assets", "*.ipynb"))
    characters = _prepare(folder / "data" / "shakespeare_char", text)
    length = [f"--max_iters={iterations}", f"--lr_decay_iters={iterations}"]
    cost = measured([sys.executable, "train.py", "config/train_shakespeare_char.py", *COMMON, *flags, *length], folder)
    per_step = int(re.findall(r"tokens per iteration will be: ([\d,]+)", cost.output)[0].replace(",", ""))
    milliseconds = [float(found) for found in re.findall(r"^iter \d+: loss \S+, time ([\d.]+)ms", cost.output, re.M)]
    curve = [(int(step), float(loss)) for step, loss in re.findall(r"^step (\d+): train loss \S+, val loss ([\d.]+)", cost.output, re.M)]
    model = _load(folder)
    ids = np.asarray([characters[character] for character in split(text)[1]], dtype=np.int64)

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = model(tokens, tokens)[0]  # without targets it scores the last place only
        return scores

    return Trained(
        cpu=cost.cpu,
        wall=cost.wall,
        steps_only=statistics.median(milliseconds) / 1000 * iterations,
        steps=iterations,
        tokens=iterations * per_step,
        parameters=model.get_num_params(non_embedding=False),
        validation_loss=character_loss(logits, ids, model.config.block_size),
        curve=curve,
    )


def _prepare(folder: Path, text: Path) -> dict[str, int]:
    """The files of nanoGPT's data/shakespeare_char/prepare.py, which downloads its text; returns the ids of the characters."""
    folder.mkdir(parents=True)
    parts = split(text)
    ids = {character: index for index, character in enumerate(sorted(set("".join(parts))))}
    for name, part in zip(("train", "val"), parts, strict=True):
        np.asarray([ids[character] for character in part], dtype=np.uint16).tofile(folder / f"{name}.bin")
    meta = {"vocab_size": len(ids), "stoi": ids, "itos": {index: character for character, index in ids.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return ids


def _load(folder: Path) -> Any:
    """The model of the newest checkpoint: train.py keeps the one that its estimate of the validation loss likes best."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checkpoint = torch.load(folder / "out" / "ckpt.pt", map_location="cpu", weights_only=True)
    model = module.GPT(module.GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    return model.eval()
