"""One of four processes that train in every constellation in turn; worker 0 prints what came of each. Run by test_shards.py.

python crowd.py RANK RECIPE FOLDER PORT ...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from openbook.recipe import Recipe, load_recipe
from openbook.train.checkpoint import Saver, State, load, save
from openbook.train.fingerprint import fingerprint
from openbook.train.policy import Memory
from openbook.train.step import Trainer
from openbook.train.workers import LOOPBACK, Seat, Workers, join

SETTINGS = {
    "muon": [],
    "bf16": ["train.precision=bf16"],
    "adamw": ["train.optimizer.kind=adamw"],
    "int8 state": ["train.optimizer.state=int8"],
    "adamw, bf16 state": ["train.optimizer.kind=adamw", "train.optimizer.state=bf16"],
    "tied head": ["model.tied_head=true"],
    "narrow": ["model.style=opt", "model.norm_place=post", "model.embedding_width=24"],
    "switch": ["model.style=switch"],
    "mixture, int8 state": [
        "model.style=moe",
        "model.experts.scores=sigmoid",
        "model.experts.shared=16",
        "model.experts.balance_rate=0.01",
        "model.experts.z_loss=0.001",
        "train.activations=full",
        "train.optimizer.state=int8",
    ],
    "ramp": ["train.ramp.start=4", "train.ramp.over=0.3"],
    "audited": ["train.audit_every=1"],
}
"""Of a recipe whose 301 rows of embeddings no number of workers divides."""
STORED = "mixture, int8 state"
"""The one whose checkpoints are loaded: parameters of two and three dimensions, scales beside codes, and biases that are not cut."""
CREWS = {"one": (1, 1), "three": (3, 1), "FSDP2 of 2": (2, 2), "FSDP2 of 4": (4, 4), "HSDP 2x2": (4, 2)}
"""(workers, workers that hold a model together)."""
COMMON = ["tokenizer.vocab_size=301", "train.steps=6", "train.microbatches=8"]
STEPS = 3


def rows(step: int, microbatch: int, skipped: int = 0) -> np.ndarray:
    return np.random.default_rng([step, microbatch]).integers(0, 301, (2, 33))


def learnt(recipe: Recipe, workers: Workers) -> tuple[Trainer, list[object]]:
    trainer, memory = Trainer(recipe, torch.device("cpu"), workers), Memory()
    facts: list[object] = []
    for step in range(STEPS):
        result = trainer.step(step, rows, memory)
        memory = result.memory
        facts += [result.loss, result.norm, result.experts, *result.findings]
    return trainer, [*facts, fingerprint(trainer.tensors())]


@contextmanager
def joined(rank: int, crew: tuple[int, int], port: int) -> Iterator[Workers]:
    world, shards = crew
    workers = join(Seat(rank, world, LOOPBACK, port), cuda=False, shards=shards)
    yield workers
    workers.gather(0)  # nobody closes a store that others still ask
    workers.leave()


def stored(trainer: Trainer, workers: Workers, root: Path) -> None:
    """As a session does it."""
    group = workers.host.get_group() if workers.host else None

    def write(state: State, tensors: Mapping[str, torch.Tensor]) -> Path:
        return save(root, state, tensors, 2, group=group)

    if workers.rank < trainer.holding.width:
        saver = Saver(write, workers.host)
        saver.begin(State("key", STEPS, 0, 0.0), trainer.tensors(), "", 0.0)
        saver.collect(wait=True)
        saver.close()
    workers.gather(0)


def main(rank: int, recipe: Path, folder: Path, ports: list[int]) -> None:
    found: dict[str, dict[str, object]] = {name: {} for name in CREWS}
    recipes = {name: load_recipe(recipe, [*COMMON, *settings])[0] for name, settings in SETTINGS.items()}
    for (name, crew), port in zip(CREWS.items(), ports, strict=False):
        if rank < crew[0]:
            with joined(rank, crew, port) as workers:
                for setting, one in recipes.items():
                    trainer, found[name][setting] = learnt(one, workers)
                    if setting == STORED:
                        stored(trainer, workers, folder / name)
    for (name, crew), port in zip(CREWS.items(), ports[len(CREWS) :], strict=True):
        if rank < crew[0]:
            with joined(rank, crew, port) as workers:
                trainer = Trainer(recipes[STORED], torch.device("cpu"), workers)
                for other in CREWS:
                    trainer.begin_again()
                    load(folder / other / f"step-{STEPS:08d}", trainer.tensors())
                    found[name][f"from {other}"] = fingerprint(trainer.tensors())
    if rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), [int(port) for port in sys.argv[4:]])
