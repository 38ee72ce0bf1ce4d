"""The drill's claims about bits: any workers give the same, a replay gives them again and finds what was altered; and what that costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import warm
from drill_rig import Claim, Rig, ended, newest_step, wait_for_step
from openbook.logbook import Logbook
from openbook.recipe import Recipe, load_recipe
from openbook.run import Run
from openbook.tokens import Rows
from openbook.train.fingerprint import fingerprint
from openbook.train.step import Trainer

CREWS = {
    "2 replicas": (2, 1),
    "3 replicas": (3, 1),
    "4 replicas": (4, 1),
    "FSDP2 of 2": (2, 2),
    "FSDP2 of 4": (4, 4),
    "HSDP 2x2": (4, 2),
}
NUMERICS = {
    "fp32, Muon": ["train.checkpoint_every=10"],
    "bf16, AdamW, 8-bit state": [
        "train.checkpoint_every=10",
        "train.precision=bf16",
        "train.optimizer.kind=adamw",
        "train.optimizer.state=int8",
    ],
}


def worlds(rig: Rig) -> Iterator[Claim]:
    for numerics, settings in list(NUMERICS.items())[: 1 if rig.small else None]:
        expected, same = rig.reference(settings), []
        crews = {name: CREWS[name] for name in ("3 replicas", "FSDP2 of 2")} if rig.small else CREWS
        for name, (world, shards) in crews.items():
            run = rig.fresh(f"{numerics}-{name}".replace(" ", "-"), [*settings, f"train.shards={shards}"])
            same += [name] if rig.train(run, world) == 0 and ended(run) == expected else []
        claim = f"the bits of one process ({numerics}): {', '.join(crews)}"
        yield Claim("worlds", claim, f"{len(same)}/{len(crews)}", len(same) == len(crews))
    yield _changed_in_mid_run(rig)


def _changed_in_mid_run(rig: Rig) -> Claim:
    """Stopped by the scheduler's signal, and gone on with by others."""
    way = [(1, 1), (2, 2), (1, 1)] if rig.small else [(1, 1), (2, 2), (3, 1), (4, 2), (2, 1), (4, 4), (1, 1)]
    length = (40 if rig.small else 150) * (len(way) - 1)
    settings = [f"train.steps={length}", "train.checkpoint_every=1000"]
    expected, run, stops = rig.reference(settings), rig.fresh("changing", settings), 0
    for world, shards in way[:-1]:
        process = rig.begin(rig.again(run, [*settings, f"train.shards={shards}"]), world)
        wait_for_step(run, newest_step(run) + 3)
        os.kill(process, signal.SIGUSR1)
        stops += warm.end(process) == 75
    done = rig.train(rig.again(run, [*settings, "train.shards=1"])) == 0
    words = " -> ".join(f"{world // shards}x{shards}" for world, shards in way)
    return Claim(
        "worlds",
        f"changes in mid-run, replicas x shards: {words}",
        f"{stops} stops with status 75",
        done and stops == len(way) - 1 and ended(run) == expected,
    )


def verified(rig: Rig) -> Iterator[Claim]:
    """A run of two workers that hold a model together, replayed by one process; then three forgeries of it."""
    settings = ["train.shards=2", "train.checkpoint_every=10", "train.permanent_every=10", "train.fingerprint_every=5"]
    run = rig.fresh("verified", settings)
    fine = rig.train(run, 2) == 0
    status, result = _verify(rig, run, "clean")
    holds = fine and status == 0 and result["verdict"] == "holds"
    yield Claim("verify", "a run of FSDP2 over 2 workers is confirmed by 1 process", f"{result['fingerprints']} fingerprints", holds)
    forgeries: dict[str, Callable[[Path, Path], int]] = {"token": _token, "learning rate": _rate, "logbook byte": _byte}
    for name, forge in forgeries.items():
        forged = rig.folder / f"forged-{name.replace(' ', '-')}"
        shutil.copytree(run, forged)
        step = forge(run, forged)
        status, result = _verify(rig, forged, name)
        found = (result["differs"] or {}).get("step")
        yield Claim(
            "verify",
            f"an altered {name} is located: step {step}",
            f"step {found}",
            status == 1 and found == step and bool(result["causes"]),
        )


def _verify(rig: Rig, run: Path, name: str) -> tuple[int, dict[str, Any]]:
    printed = rig.folder / f"{name.replace(' ', '-')}.json"
    status = warm.openbook("verify", run, "--steps", "0:40", "--json", said=rig.said, result=printed)
    return status, json.loads(printed.read_text())


def _token(run: Path, forged: Path) -> int:
    """Alters a token that step 30 reads. Returns the first step that reads it."""
    before = Rows.open(Run(run))
    name, index = before.order.locate(before.sample(29, 1, 0))
    shard = forged / "tokens" / "train" / f"{name}.bin"
    content = bytearray(shard.read_bytes())
    content[(index * before.context + 5) * 2] ^= 1
    shard.write_bytes(content)
    after, microbatches = Rows.open(Run(forged), check=False), range(before.batches.microbatches)
    return next(step + 1 for step in range(40) if any(not np.array_equal(before(step, m), after(step, m)) for m in microbatches))


def _rate(_: Path, forged: Path) -> int:
    """The first step takes another length, so the second begins from other weights."""
    path = forged / "recipe.resolved.json"
    document = json.loads(path.read_text())
    document["train"]["optimizer"]["head_rate"] *= 1.1
    path.write_text(json.dumps(document, indent=2))
    return 2


def _byte(_: Path, forged: Path) -> int:
    """A digit of a loss in the logbook."""
    path = forged / "logbook.jsonl"
    lines = path.read_text().splitlines()
    number = next(index for index, line in enumerate(lines) if '"event":"step"' in line and json.loads(line)["step"] == 23)
    at = lines[number].index('"loss":') + len('"loss":') + 4
    digit = str((int(lines[number][at]) + 1) % 10)
    lines[number] = lines[number][:at] + digit + lines[number][at + 1 :]
    path.write_text("\n".join(lines) + "\n")
    return 23


MARK_EVERY = 50
"""Steps between fingerprints, of which this share is counted."""


def cost(rig: Rig) -> Iterator[Claim]:
    """A step against the same model, microbatches, norm and optimizer with gradients summed as torch does, in CPU-seconds, in turns."""
    torch.set_num_threads(1)
    shape = ["train.microbatches=8"] + (["train.microbatch_rows=2", "train.steps=40"] if rig.small else [])
    recipe, _ = load_recipe(Path(__file__).parent.parent / "recipes" / "pocket.toml", shape)
    rows = np.random.default_rng(0).integers(0, recipe.tokenizer.vocab_size, (recipe.train.microbatch_rows, recipe.model.context + 1))
    trainer, plain = Trainer(recipe, torch.device("cpu")), _plain_step(recipe, rows)
    with Logbook(rig.folder / "cost.jsonl") as book:

        def ours() -> None:
            result = trainer.step(0, lambda step, microbatch, skipped=0: rows)
            book.append("step", step=1, tokens=1, seconds=1.0, branch=0, loss=result.loss, norm=result.norm, rate=result.rate)

        works = {"plain": plain, "openbook": ours, "fingerprint": lambda: fingerprint(trainer.tensors())}
        turns = [{name: _cpu_seconds(work) for name, work in works.items()} for _ in range(3 if rig.small else 7)][1:]
    more = statistics.median((turn["openbook"] + turn["fingerprint"] / MARK_EVERY) / turn["plain"] - 1 for turn in turns)
    claim = "tree, decision, logbook and a fingerprint every 50 steps, against plain gradient accumulation: under 3 % of a step"
    yield Claim("cost", claim, f"{more:+.2%} of {turns[-1]['plain']:.2f} CPU-seconds", more < 0.03)


def _cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _plain_step(recipe: Recipe, rows: np.ndarray) -> Callable[[], None]:
    trainer = Trainer(recipe, torch.device("cpu"))
    parameters = dict(trainer.model.named_parameters())
    count = recipe.train.microbatches

    def step() -> None:
        total = 0.0
        for _ in range(count):
            tokens = torch.from_numpy(rows)
            loss = trainer.model.loss(tokens[:, :-1], tokens[:, 1:]) / count
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.train.optimizer.clip)
        trainer.optimizer.step({name: parameter.grad for name, parameter in parameters.items()}, 0, 1.0)
        for parameter in parameters.values():
            parameter.grad = None

    return step
