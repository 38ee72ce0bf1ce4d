"""A run directory as the stages leave it, made in a moment: a training with two interruptions, scores, samples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from openbook.files import sha256_file, write_json
from openbook.logbook import Logbook
from openbook.recipe import load_recipe
from openbook.run import Run, open_run

RECIPE = """# A model for the tests of the report.
name = "{name}"
description = "A pocket GPT trained on the text that one machine has: Python, manuals and licences."

{components}
[tokenizer]
vocab_size = 4096

[model]
layers = 4
width = 128
context = 256

[train]
steps = {steps}
microbatch_rows = 8
"""
COMPONENTS = {"python": 0.4, "packages": 0.25, "man": 0.13, "system-docs": 0.12, "licences": 0.05, "notes": 0.05}
STAGES = ("corpus", "tokenize", "mixture", "train", "evaluate", "export")
TOKENS_PER_STEP = 2048
ENVIRONMENT = {"openbook": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "processor": "A processor", "cores": 2, "threads": 2}
HOSTILE = "</script></pre><script>alert(1)</script><img src=http://evil.example/x> & \x00\x1b[31m \u202e \ud800 {{ 7*7 }}"


class Clock:
    """A time that moves only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def _table(component: str) -> str:
    return f'[corpus.components.{component}]\nsource = "machine"\nselect = "man"\nweight = {COMPONENTS[component]}\n'


def _noise(*key: object) -> float:
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32 - 0.5


def step_event(step: int, steps: int) -> dict[str, Any]:
    loss = (
        2.1
        + 5.9 * math.exp(-step / 45)
        + 1.1 * math.exp(-step / (steps / 3))
        - 0.3 * max(0.0, step / steps - 0.5)
        + 0.25 * _noise("loss", step)
    )
    norm = 0.35 + 2.5 * math.exp(-step / 30) + 0.1 * _noise("norm", step) + (3.2 if step == steps // 3 else 0.0)
    rate = min(1.0, step / (0.03 * steps), 2 * (1 - step / steps))
    speed = 5200 + 500 * _noise("speed", step) - (1800 if 0.55 < step / steps < 0.6 else 0)
    facts = {"step": step, "tokens": step * TOKENS_PER_STEP, "seconds": round(step * TOKENS_PER_STEP / 5150, 4)}
    return {**facts, "loss": round(loss, 6), "norm": round(norm, 6), "rate": rate, "tokens_per_second": round(speed, 1)}


def validation_event(step: int, steps: int) -> dict[str, Any]:
    end = {name: 1.15 + 0.17 * place for place, name in enumerate(COMPONENTS)}
    scores = {name: round(value + 2.4 * math.exp(-4 * step / steps) + 0.03 * _noise(name, step), 4) for name, value in end.items()}
    facts = {"step": step, "tokens": step * TOKENS_PER_STEP, "seconds": round(step * TOKENS_PER_STEP / 5150, 4)}
    return {**facts, "bits_per_byte": scores, "mean": round(math.fsum(scores.values()) / len(scores), 4)}


class Maker:
    """Makes run directories. Every figure of them is a function of the arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()

    def make(self, upto: str | None = "export", name: str = "pocket", steps: int = 300, sample: str = HOSTILE, joules: bool = False) -> Run:
        """A run whose stages are done up to and with `upto`."""
        source = self.folder / "recipe.toml"
        source.write_text(RECIPE.format(name=name, steps=steps, components="\n".join(map(_table, COMPONENTS))))
        run = open_run(self.folder / "run", load_recipe(source)[0], source)
        done = STAGES[: STAGES.index(upto) + 1] if upto else ()
        with Logbook(run.logbook_path, self.clock) as book:
            for index, stage in enumerate(done):
                summary = self.stage(book, run.path, stage, steps, sample)
                cost = {"seconds": 60.5 + index, "cpu_seconds": 100.25 + index, "peak_bytes": 700_000_000 + index}
                if joules:
                    cost["joules"] = {"measured:rapl": 1234.5}
                book.append("stage.end", stage=stage, summary=summary, cost=cost)
                run.manifest["stages"][stage] = _record(run, stage, done[:index], summary, cost)
                write_json(run.path / "manifest.json", run.manifest)
        return Run(run.path)

    def stage(self, book: Logbook, path: Path, stage: str, steps: int, sample: str) -> dict[str, Any]:
        self.begin(book, stage)
        (path / stage).mkdir(exist_ok=True)
        (path / stage / "made.bin").write_bytes(stage.encode())
        self.clock.pass_(60)
        if stage == "corpus":
            return {"components": {name: _corpus_part(place) for place, name in enumerate(COMPONENTS)}}
        if stage == "tokenize":
            tokens = {
                name: {"train": {"tokens": 300_000 * (7 - place), "bytes_per_token": 3.1 + place / 10}}
                for place, name in enumerate(COMPONENTS)
            }
            return {"vocab_size": 4096, "components": tokens}
        if stage == "train":
            self.train(book, steps)
            last = step_event(steps, steps)
            return {**_train_summary(last), "bits_per_byte": validation_event(steps, steps)["bits_per_byte"], "steps": steps}
        if stage == "evaluate":
            write_scores(path / "scores", sample)
            return {}
        return {"architecture": "Qwen3ForCausalLM", "bytes": 6_291_456}

    def begin(self, book: Logbook, stage: str) -> None:
        book.append("stage.begin", stage=stage, key=stage, environment=ENVIRONMENT)
        self.clock.pass_(1)

    def train(self, book: Logbook, steps: int) -> None:
        """Stopped once on request and killed once; what was done after the last checkpoint is done again."""
        first, second, checkpoint = int(steps * 0.4), int(steps * 0.71), int(steps * 0.7)
        self.steps(book, range(1, first + 1), steps)
        cause = f"Stopped: some/run: stopped by SIGTERM after step {first} of {steps}; the same command continues"
        book.append("stage.stopped", stage="train", cause=cause, cost={"seconds": 99.5, "cpu_seconds": 190.0})
        self.clock.pass_(1800)
        self.begin(book, "train")
        book.append("resume", step=first, checkpoint=f"checkpoints/step-{first:08d}")
        self.steps(book, range(first + 1, second + 1), steps)
        self.clock.pass_(600)
        self.begin(book, "train")
        book.append("checkpoint.damaged", path="checkpoints/step-00000009", why="hashes.json is missing or unreadable")
        lost = step_event(second, steps)["seconds"] - step_event(checkpoint, steps)["seconds"]
        book.append("interruption", cause="killed without a word", lost_steps=second - checkpoint, lost_seconds=round(lost, 3))
        book.append("resume", step=checkpoint, checkpoint=f"checkpoints/step-{checkpoint:08d}")
        self.steps(book, range(checkpoint + 1, steps + 1), steps)

    def steps(self, book: Logbook, numbers: range, steps: int) -> None:
        plan = {"parameters": 1_577_088, "flops_per_token": 1e7, "peak_flops_per_second": 2e11, "device": "cpu"}
        book.append("train.begin", **plan, steps=steps, tokens_per_step=TOKENS_PER_STEP)
        for step in numbers:
            self.clock.pass_(TOKENS_PER_STEP / 5150)
            book.append("step", **step_event(step, steps))
            if step % max(1, steps // 20) == 0 or step == steps:
                self.clock.pass_(2)
                book.append("validation", **validation_event(step, steps))
                book.append("checkpoint", step=step, path=f"checkpoints/step-{step:08d}", bytes=19_000_000, seconds=0.25)


def _record(run: Run, stage: str, before: tuple[str, ...], summary: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    folder = run.path / ("scores" if stage == "evaluate" else stage)
    files = {str(path.relative_to(run.path)): path for path in sorted(folder.iterdir())}
    artifacts = {name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for name, path in files.items()}
    inputs = {name: run.manifest["stages"][name]["sha256"] for name in before}
    facts = {"key": stage, "version": 1, "inputs": inputs, "sha256": hashlib.sha256(stage.encode()).hexdigest()}
    return {**facts, "artifacts": artifacts, "summary": summary, "cost": cost}


def _corpus_part(place: int) -> dict[str, Any]:
    train = {"documents": 1234 * (7 - place), "bytes": 930_001 * (7 - place)}
    valid = {"documents": 25 * (7 - place), "bytes": 19_003 * (7 - place)}
    dropped = {"duplicate": {"documents": 40 + place, "bytes": 123_456}, "too long": {"documents": 1, "bytes": 3_000_000}}
    licences = {"PSF-2.0": 900, "unknown": 40 + place} if place < 2 else {"GPL-3.0-or-later": 12, "MIT": 10, "<b>odd</b>": 1}
    return {"train": train, "valid": valid, "dropped": {} if place == 3 else dropped, "licences": licences}


def _train_summary(last: dict[str, Any]) -> dict[str, Any]:
    figures = {
        "parameters": 1_577_088,
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "loss": last["loss"],
        "tokens_per_second": 5150.0,
    }
    speed = {"flops_per_second": 5.15e10, "peak_flops_per_second": 2e11, "utilisation": 0.2575, "interruptions": 2}
    return {**figures, **speed, "device": "cpu", "precision": "fp32", "threads": 2}


def write_scores(folder: Path, sample: str) -> None:
    def estimate(value: float, spread: float) -> dict[str, float]:
        return {"bpb": round(value, 4), "low": round(value - spread, 4), "high": round(value + spread, 4)}

    def row(place: float) -> dict[str, Any]:
        value, spread = 1.15 + 0.17 * place, 0.03 + 0.02 * place
        baselines = {"xz": estimate(value * 1.55, spread), "zstd": estimate(value * 1.62, spread), "ngram": estimate(value * 1.2, spread)}
        facts = {"documents": int(40 - 5 * place), "bytes": int(390_000 - 9_000 * place)}
        return {
            **facts,
            "model": estimate(value, spread),
            "baselines": {**baselines, "xz_archive": {"bpb": round(value * 1.02 if place > 4 else value * 1.3, 4)}},
        }

    folder.mkdir()
    components = {name: row(place) for place, name in enumerate(COMPONENTS)}
    components["notes"]["model"].update(low=None, high=None)
    extra = {"stride": 128, "context": 256, "ngram": {"order": 5, "training_bytes": 26_000_000}}
    write_json(folder / "bits_per_byte.json", {**extra, "components": components, "all": row(1.7)})
    settings = {"document": "0" * 32, "seed": 1, "temperature": 0.8, "top_p": 0.95}
    samples = [
        {"component": name, "origin": f"/usr/share/{name}/file", "prompt": "def fibonacci(n):\n", "continuation": sample, **settings}
        for name in COMPONENTS
    ]
    (folder / "samples.json").write_text(json.dumps(samples))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    """Makes a run directory; see Maker.make."""
    return Maker(tmp_path).make
