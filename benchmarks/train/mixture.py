"""Sixteen components in bits per byte: two recipes of the same size in the same data order, each for the same CPU time."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openbook.recipe import load_recipe
from openbook.train.step import Trainer
from train.common import ROOT, data_file, openbook

RECIPES = {"faithful": "corpus-faithful.toml", "modern": "corpus-modern.toml"}
WARM, TIMED = 2, 4
"""Steps before the clock, and under it, when a recipe's number of steps is chosen."""


def compared(folder: Path, minutes: float) -> dict[str, Any]:
    """Trains every recipe of RECIPES that there is, each with as many steps as its CPU time holds, on one corpus."""
    corpus = data_file("corpus")
    rows: dict[str, Any] = {}
    tokenized: Path | None = None
    for name, recipe in RECIPES.items():
        path = ROOT / "recipes" / recipe
        if not path.exists():
            rows[name] = {"absent": f"{path.relative_to(ROOT)} is not there"}
            continue
        places = [f"corpus.components.{component}.path={corpus / f'{component}.jsonl.zst'}" for component in _components(path)]
        steps = max(10, int(minutes * 60 / _seconds_a_step(path)))
        settings = [part for item in [*places, f"train.steps={steps}", "train.threads=1"] for part in ("--set", item)]
        run = folder / name
        if tokenized:  # the same corpus and tokens: those stages find nothing to do
            shutil.copytree(tokenized, run)
        openbook("run", str(path), "--out", str(run), "--until", "tokenize", *settings)
        if not tokenized:
            tokenized = folder / "tokenized"
            shutil.copytree(run, tokenized)
        rows[name] = _row(run)
    return {"minutes": minutes, "recipes": rows}


def _components(path: Path) -> list[str]:
    return list(load_recipe(path)[0].corpus.components)


def _seconds_a_step(path: Path) -> float:
    """CPU-seconds of a step on random tokens: what a step costs does not depend on what it reads."""
    recipe, _ = load_recipe(path)
    trainer = Trainer(recipe, torch.device("cpu"))
    shape = (recipe.train.microbatch_rows, recipe.model.context + 1)
    rows = np.random.default_rng(0).integers(0, recipe.tokenizer.vocab_size, shape)
    torch.set_num_threads(1)
    for step in range(WARM + TIMED):
        if step == WARM:
            begin = time.process_time()
        trainer.step(step, lambda *place: rows)
    return (time.process_time() - begin) / TIMED


def _row(run: Path) -> dict[str, Any]:
    cost = openbook("train", str(run))
    openbook("evaluate", str(run))
    stages = json.loads((run / "manifest.json").read_bytes())["stages"]
    summary, scores = stages["train"]["summary"], stages["evaluate"]["summary"]
    return {
        "cpu": round(cost.cpu, 1),
        **{key: summary[key] for key in ("parameters", "steps", "tokens")},
        "bits_per_byte": scores["all"]["model"],
        "xz": scores["all"]["xz"],
        "components": {name: score["model"] for name, score in scores["components"].items()},
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    found = [f"{'':20}{'CPU-s':>8}{'steps':>8}{'tokens':>12}{'parameters':>12}{'bits per byte':>15}{'xz -9e':>9}"]
    for name, row in result["recipes"].items():
        if "absent" in row:
            found.append(f"{name}: {row['absent']}")
            continue
        found.append(
            f"{name:20}{row['cpu']:8.1f}{row['steps']:8}{row['tokens']:12,}{row['parameters']:12,}{row['bits_per_byte']:15.4f}{row['xz']:9.3f}"
        )
    whole = [row["components"] for row in result["recipes"].values() if "components" in row]
    if len(whole) == len(RECIPES):
        found += [f"  {name:20}" + "".join(f"{part[name]:9.3f}" for part in whole) for name in whole[0]]
    return found
