"""Tiny Shakespeare by characters, against nanoGPT: the README's CPU task, and its larger model in equal CPU time."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from train import nanogpt, ours
from train.common import Absent, data_file

TARGET = 1.88
"""nanoGPT's README: "gets us a loss of only 1.88"."""

ITERATIONS, LONGER = 2000, 1.1
"""What the README trains; and by how much more, schedule included, as long as the whole validation text says that it is not there yet."""
LARGE_ITERATIONS = 150
LARGE = ["--block_size=256", "--batch_size=8", "--n_layer=6", "--n_head=6", "--n_embd=384", f"--eval_interval={LARGE_ITERATIONS}"]
"""nanoGPT's larger model without dropout, with an eighth of its batch, which on a CPU would be 25 seconds a step."""


def small(folder: Path, checkout: Path | None, seeds: int) -> dict[str, Any]:
    """CPU-seconds to a validation loss of 1.88."""
    result = _ours("shakespeare-char.toml", folder, seeds)
    result["target"] = TARGET
    result["reached"] = all(run["validation_loss"] <= TARGET for run in result["ours"])
    return result | _theirs(folder, checkout, result["ours"], ITERATIONS, nanogpt.SMALL, TARGET)


def large(folder: Path, checkout: Path | None, seeds: int) -> dict[str, Any]:
    """Validation loss after about equal CPU-seconds."""
    result = _ours("shakespeare-10m.toml", folder, seeds)
    return result | _theirs(folder, checkout, result["ours"], LARGE_ITERATIONS, LARGE)


def _ours(recipe: str, folder: Path, seeds: int) -> dict[str, Any]:
    text = data_file("corpus", "tinyshakespeare.txt")
    rows = []
    for seed in range(1, seeds + 1):
        path = f"corpus.components.shakespeare.path={text}"
        run = ours.prepared(recipe, folder / f"{Path(recipe).stem}-{seed}", path, f"seed={seed}", "train.threads=1")
        rows.append({"seed": seed} | ours.trained(run, text).row())
    return {"ours": rows}


def _theirs(
    folder: Path, checkout: Path | None, rows: list[dict[str, Any]], iterations: int, flags: list[str], target: float = math.inf
) -> dict[str, Any]:
    """Trains nanoGPT, and again for longer until it reaches the target; the last of these is the comparison."""
    try:
        source = nanogpt.checked(checkout)
    except Absent as absent:
        return {"absent": str(absent)}
    text = data_file("corpus", "tinyshakespeare.txt")
    peers: list[nanogpt.Trained] = []
    while not peers or peers[-1].validation_loss > target:
        peers.append(nanogpt.trained(source, folder / f"nanogpt-{iterations}", text, iterations, flags))
        iterations = round(iterations * LONGER)
    return {"nanogpt": [peer.row() for peer in peers], "nanogpt_over_ours": [_ratios(peer, rows) for peer in peers]}


def _ratios(peer: nanogpt.Trained, rows: list[dict[str, Any]]) -> dict[str, float]:
    compared = ("cpu", "steps_only", "tokens", "parameters")
    return {key: round(getattr(peer, key) / statistics.median(row[key] for row in rows), 3) for key in compared}


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    found = [f"{'':20}{'CPU-s':>8}{'steps only':>12}{'steps':>8}{'tokens':>11}{'parameters':>12}{'validation':>12}"]
    named = [(f"openbook, seed {row['seed']}", row) for row in result["ours"]]
    named += [("nanoGPT", row) for row in result.get("nanogpt", [])]
    for name, row in named:
        found.append(
            f"{name:20}{row['cpu']:8.1f}{row['steps_only']:12.1f}{row['steps']:8}{row['tokens']:11,}{row['parameters']:12,}"
            f"{row['validation_loss']:12.4f}"
        )
    for row, ratio in zip(result.get("nanogpt", []), result.get("nanogpt_over_ours", []), strict=True):
        found.append(
            f"nanoGPT's {row['steps']:,} iterations over openbook: {ratio['cpu']:.1f} times the CPU-seconds ({ratio['steps_only']:.1f} "
            f"times the seconds in steps alone), {ratio['tokens']:.1f} times the tokens, {ratio['parameters']:.3f} times the parameters"
        )
    if "reached" in result:
        found.append(f"validation loss of {result['target']}: {'reached' if result['reached'] else 'NOT reached'} by every seed of ours")
    return found + ([result["absent"]] if "absent" in result else [])
