"""A tiny recipe, runs of it, and what an undisturbed process makes of each: what the drill's claims are checked with."""

from __future__ import annotations

import keyword
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import warm
from openbook.files import sha256_file
from openbook.logbook import check, read
from openbook.recipe import load_recipe
from openbook.run import open_run

RECIPE = """
name = "drill"
seed = 7

[corpus]
holdout = 0.2

[corpus.components.prose]
source = "files"
path = "prose"
weight = 1.0
max_epochs = 100_000

[tokenizer]
vocab_size = 301

[model]
layers = 2
width = 32
head_width = 16
context = 32

[train]
steps = 40
microbatch_rows = 2
microbatches = 4
device = "cpu"
validate_every = 1000
validate_bytes = 2000
"""


@dataclass(frozen=True)
class Claim:
    """One row of the table."""

    part: str
    claim: str
    measured: str
    holds: bool


@dataclass
class Rig:
    """Runs in a folder, all of one corpus. `small` asks for the smallest form of everything."""

    folder: Path
    small: bool = False
    seed: int = 1
    references: dict[tuple[str, ...], tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chance = random.Random(0)
        for index in range(24):
            path = self.folder / "prose" / f"{index:02}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(" ".join(chance.choices(keyword.kwlist, k=9)) + "." for _ in range(40)) + "\n", encoding="utf-8")
        self.recipe, self.said = self.folder / "drill.toml", self.folder / "said"
        self.recipe.write_text(RECIPE, encoding="utf-8")
        if warm.openbook("run", self.recipe, "--out", self.folder / "base", "--until", "tokenize", said=self.said):
            raise SystemExit(f"drill: the corpus could not be made:\n{self.said.read_text()}")

    def fresh(self, name: str, settings: Sequence[str] = ()) -> Path:
        """A run with tokens and no training."""
        shutil.copytree(self.folder / "base", self.folder / name)
        return self.again(self.folder / name, settings)

    def again(self, run: Path, settings: Sequence[str]) -> Path:
        """The same run with other settings of those that may change in mid-run."""
        open_run(run, load_recipe(self.recipe, list(settings))[0], self.recipe)
        return run

    def train(self, run: Path, workers: int = 1, faults: Sequence[str] = ()) -> int:
        return warm.openbook("train", run, "--workers", workers, faults=faults, said=self.said)

    def begin(self, run: Path, workers: int = 1, faults: Sequence[str] = ()) -> int:
        return warm.begin(["train", str(run), "--workers", str(workers)], faults, self.said)

    def reference(self, settings: Sequence[str] = ()) -> tuple[str, str]:
        """What one process that nothing disturbs ends in."""
        key = tuple(sorted(settings))
        if key not in self.references:
            run = self.fresh(f"reference-{len(self.references)}", settings)
            if self.train(run):
                raise SystemExit(f"drill: an undisturbed training failed:\n{self.said.read_text()[-2000:]}")
            self.references[key] = ended(run)
        return self.references[key]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read(run / "logbook.jsonl") if event["event"] == kind]


def ended(run: Path) -> tuple[str, str]:
    """What a training ended in: the file of weights, and the fingerprint of parameters and optimizer state; empty if it has not."""
    weights, saves = run / "weights" / "model.safetensors", events(run, "checkpoint")
    if not weights.is_file() or check(run / "logbook.jsonl") or events(run, "replay.mismatch"):
        return "", ""
    return sha256_file(weights), max(saves, key=lambda event: (event["branch"], event["step"]))["fingerprint"]


def newest_step(run: Path) -> int:
    return max((event["step"] for event in events(run, "step")), default=0)


def wait_for_step(run: Path, step: int, seconds: float = 120.0) -> None:
    """Raises TimeoutError if it is not committed in time."""
    deadline = time.monotonic() + seconds
    while newest_step(run) < step:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{run}: no step {step} after {seconds:g} s")
        time.sleep(0.02)


def workers_of(said: Path) -> list[int]:
    """Process numbers of the workers started last, by rank."""
    line = [line for line in said.read_text().splitlines() if "workers: processes" in line][-1]
    return [int(number) for number in line.partition("processes ")[2].split()]


def killed(status: int) -> bool:
    return status == -signal.SIGKILL
