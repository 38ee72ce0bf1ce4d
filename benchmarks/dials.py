"""Whether the learning rates that a size and a budget give are good ones: the same runs at half and at twice the rates, three seeds each.

    python benchmarks/dials.py TEXT...      # text files, of a few megabytes together; about 3 CPU-minutes on one thread

Bytes are the tokens. Prints the loss on the last tenth of the text, in bits a byte, as mean and spread over the seeds.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import torch

from openbook.dials import turn
from openbook.recipe import Recipe, resolve
from openbook.train.step import Trainer

DOCUMENT = """
name = "dials"
corpus = {{ components = {{ text = {{ source = "files", path = ".", weight = 1.0 }} }} }}
tokenizer = {{ vocab_size = 258 }}
model = {{ size = "{size}", context = 128 }}
train = {{ tokens = "{tokens}", device = "cpu", optimizer = {{ {optimizer} }} }}
"""
RATES = ("matrix_rate", "embedding_rate", "head_rate", "norm_rate")


def recipe_for(size: str, tokens: str, factor: float, seed: int, optimizer: str) -> tuple[Recipe, list[str]]:
    document = tomllib.loads(DOCUMENT.format(size=size, tokens=tokens, optimizer=optimizer))
    told = turn(document)
    for rate in RATES:
        document["train"]["optimizer"][rate] *= factor
    return resolve(Recipe.model_validate(document | {"seed": seed}))[0], told


def score(recipe: Recipe, text: np.ndarray) -> float:
    """Trains on the first nine tenths; bits a byte on 256 windows of the rest."""
    context, end = recipe.model.context, len(text) * 9 // 10
    trainer = Trainer(recipe, torch.device("cpu"))

    def rows(step: int, microbatch: int) -> np.ndarray:
        starts = np.random.default_rng((recipe.seed, step, microbatch)).integers(end - context - 1, size=recipe.train.microbatch_rows)
        return np.stack([text[start : start + context + 1] for start in starts]).astype(np.int64)

    for step in range(recipe.train.steps):
        trainer.step(step, rows)
    starts = np.linspace(end, len(text) - context - 2, 256).astype(int)
    windows = torch.from_numpy(np.stack([text[start : start + context + 1] for start in starts]).astype(np.int64))
    with torch.no_grad():
        return float(trainer.model.loss(windows[:, :-1], windows[:, 1:])) / math.log(2)


def main(paths: list[str]) -> None:
    torch.set_num_threads(1)
    text = np.concatenate([np.frombuffer(Path(path).read_bytes(), dtype=np.uint8) for path in paths])
    begin = time.process_time()
    variants = [
        ("as derived", 1.0, ""),
        ("half the rates", 0.5, ""),
        ("twice the rates", 2.0, ""),
        ("weight decay 0.25", 1.0, "weight_decay = 0.25"),
    ]
    for size, tokens in (("150k", "100k"), ("300k", "100k")):
        print(*recipe_for(size, tokens, 1.0, 1, "")[1], sep="\n")
        for name, factor, optimizer in variants:
            results = [score(recipe_for(size, tokens, factor, seed, optimizer)[0], text) for seed in (1, 2, 3)]
            print(f"{size} {name}: {statistics.mean(results):.4f} ± {statistics.stdev(results):.4f}", flush=True)
    print(f"{time.process_time() - begin:.0f} CPU-seconds")


if __name__ == "__main__":
    main(sys.argv[1:])
