"""Kills a training with SIGKILL at random moments and compares the weights with an undisturbed run of the same recipe.

    python benchmarks/kill_drill.py recipes/pocket.toml --kills 10 [--set train.steps=300]

Both runs share one corpus and one set of tokens, in a temporary directory. Exit status 1 if a single bit differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def openbook(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "openbook.cli", *arguments]


def weights_hash(run: Path) -> str:
    manifest = json.loads((run / "manifest.json").read_bytes())
    return str(manifest["stages"]["train"]["artifacts"]["weights/model.safetensors"]["sha256"])


def killed_run(run: Path, kills: int, seconds: float, chance: random.Random) -> int:
    """Trains `run` with `kills` kills spread over about `seconds` of training; returns how many hit before it was done."""
    hit = 0
    while hit < kills:
        process = subprocess.Popen(openbook("train", str(run)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # A restart costs some seconds before the first step: draw from the whole of it, saves and loading included.
            process.wait(timeout=chance.uniform(1.0, 2.0 * seconds / kills + 6.0))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hit += 1
            print(f"kill {hit:2} of {kills}: {last_step(run)}", flush=True)
    subprocess.run(openbook("train", str(run)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return hit


def last_step(run: Path) -> str:
    lines = (run / "logbook.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    steps = [line for line in lines if '"event":"step"' in line and line.endswith("}")]
    return f"after step {json.loads(steps[-1])['step']}" if steps else "before the first step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--reference", type=Path, help="a finished run of the same recipe; its tokens are used and its weights compared")
    options = parser.parse_args()
    overrides = [part for item in options.overrides for part in ("--set", item)]
    with tempfile.TemporaryDirectory() as folder:
        straight, broken = Path(folder) / "straight", Path(folder) / "broken"
        if options.reference:
            shutil.copytree(options.reference, straight, symlinks=True)
            shutil.copytree(straight, broken)
            strip_training(broken)
        else:
            subprocess.run(openbook("run", options.recipe, "--out", str(straight), "--until", "tokenize", *overrides), check=True)
            shutil.copytree(straight, broken)
            subprocess.run(openbook("train", str(straight)), check=True)
        manifest = json.loads((straight / "manifest.json").read_bytes())
        begin = time.monotonic()
        hit = killed_run(broken, options.kills, manifest["stages"]["train"]["summary"]["seconds"], random.Random(options.seed))
        same = weights_hash(straight) == weights_hash(broken)
        result = {"kills": hit, "same_bits": same, "sha256": weights_hash(broken), "seconds": round(time.monotonic() - begin, 1)}
        print(json.dumps(result))
        subprocess.run(openbook("verify", str(broken)), check=True)
    sys.exit(0 if same else 1)


def strip_training(run: Path) -> None:
    """Makes a finished run one that has not been trained."""
    for name in ("checkpoints", "weights", "scores"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "logbook.jsonl").unlink()
    manifest = json.loads((run / "manifest.json").read_bytes())
    manifest["stages"] = {name: record for name, record in manifest["stages"].items() if name in ("corpus", "tokenize")}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


if __name__ == "__main__":
    main()
