"""Items per CPU-second on four-choice tasks with demonstrations: our engine, and lm-eval's Hugging Face backend on the same prompts.

The model has GPT-2's smallest shape (124M parameters, window 1,024) and random weights: speed does not depend on what they are. Each side
gets its own process and one thread; only scoring is timed, after one item to warm up. Log-likelihoods are compared, too.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY = 50_257
RANKS = "tokenizer/gpt2/r50k_base.tiktoken"
"""GPT-2's vocabulary, below the data folder."""
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How GPT-2 splits text (Radford et al. 2019, encoder.py)."""


def make(folder: Path, data: Path) -> None:
    """A Hugging Face folder of the shape, with GPT-2's own vocabulary."""
    from openbook.export.build import tokenizer_config
    from openbook.files import write_json
    from openbook.model.exchange import save_weights
    from openbook.model.initialise import initialise
    from openbook.model.presets import preset
    from openbook.model.published import shape_of
    from openbook.model.tokenizer import Tokenizer
    from openbook.model.transformer import Transformer

    model = Transformer(shape_of(preset("gpt2")))
    initialise(model, 1, 0.02)
    folder.mkdir()
    save_weights(model, folder, VOCABULARY - 1)
    lines = (line.split() for line in (data / RANKS).read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    Tokenizer(ranks, {"<|endoftext|>": VOCABULARY - 1}, PATTERN).save(folder / "tokenizer.json")
    write_json(folder / "tokenizer_config.json", tokenizer_config("<|endoftext|>", 1024))


def pairs(data: Path, name: str, shots: int, count: int) -> list[tuple[str, str]]:
    from openbook.evaluate.data import examples_of, items_of
    from openbook.evaluate.questions import Questions
    from openbook.evaluate.task import task_named

    task = task_named(name)
    items = items_of(task, data, False, 0)
    questions = Questions(task, items, examples_of(task, data, items), shots, 0)
    return [pair for index in range(count + 1) for pair in questions.question(index, 0).pairs]


def measure(side: str, folder: Path, asked: list[tuple[str, str]], choices: int) -> dict[str, object]:
    """CPU-seconds of this process for all pairs but the first item's, and their log-likelihoods."""
    import torch

    torch.set_num_threads(1)
    if side == "openbook":
        from openbook.evaluate.models import open_model

        model = open_model(str(folder))

        def score(some: list[tuple[str, str]]) -> list[float]:
            return [found.logprob for found in model.loglikelihood(some)]
    else:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        peer = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=choices)

        def score(some: list[tuple[str, str]]) -> list[float]:
            requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(some)]
            return [float(logprob) for logprob, _ in peer.loglikelihood(requests, disable_tqdm=True)]

    score(asked[:choices])
    start = time.process_time()
    found = score(asked[choices:])
    return {"cpu_seconds": time.process_time() - start, "logprobs": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENBOOK_DATA", "shared/data")))
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--tasks", nargs="*", default=["arc_easy", "hellaswag"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        asked = pairs(chosen.data, chosen.tasks[0], chosen.shots, chosen.items)
        print(json.dumps(measure(chosen.side, chosen.folder, asked, 4)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "gpt2"
        make(folder, chosen.data)
        for name in chosen.tasks:
            sides = {side: _alone(chosen, side, folder, name) for side in ("openbook", "lm-eval")}
            rates = {side: chosen.items / float(found["cpu_seconds"]) for side, found in sides.items()}
            gaps = [abs(a - b) for a, b in zip(sides["openbook"]["logprobs"], sides["lm-eval"]["logprobs"], strict=True)]
            rows.append({"task": name, **rates, "times": rates["openbook"] / rates["lm-eval"], "largest_difference": max(gaps)})
    if chosen.json:
        print(json.dumps({"items": chosen.items, "shots": chosen.shots, "tasks": rows}))
        return
    for row in rows:
        print(
            f"{row['task']:12} {row['openbook']:.3f} items/CPU-s, lm-eval {row['lm-eval']:.3f}: {row['times']:.2f} times; "
            f"largest difference {row['largest_difference']:.1e} nats"
        )


def _alone(chosen: argparse.Namespace, side: str, folder: Path, name: str) -> dict:
    # -P: lm-eval imports a package whose name this file has
    command = [sys.executable, "-P", __file__, "--side", side, "--folder", str(folder), "--tasks", name]
    command += ["--data", str(chosen.data), "--items", str(chosen.items), "--shots", str(chosen.shots)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
