"""Training on one NVIDIA GPU: throughput, share of the measured peak, what determinism costs, energy, and the same bits after a kill.

    openbook run recipes/gpt2-124m.toml --out runs/gpt2-124m --until tokenize
    python benchmarks/gpu.py runs/gpt2-124m

Steps of the recipe as `openbook train` takes them, on the run's own rows. Every figure is the median of the timed steps after a warm-up.
Joules are NVML's counter over the timed steps; install openbook[gpu] for them. `--compile` also times the layers through torch.compile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from openbook.logbook import Meter
from openbook.model.count import flops_per_token
from openbook.run import Run
from openbook.tokens import Rows
from openbook.train.fingerprint import fingerprint
from openbook.train.peak import matmul_flops_per_second
from openbook.train.step import PRECISIONS, Trainer

WARM_UP, TIMED, REPEATED = 5, 20, 4


def timed(run: Run, device: torch.device, compiled: bool) -> dict[str, Any]:
    """Median seconds of a step, joules of all timed steps, and the fingerprint after them."""
    trainer, rows = Trainer(run.recipe, device), Rows.open(run)
    if compiled:
        for layer in trainer.model.layers:
            layer.compile()
    seconds = []
    for step in range(WARM_UP):
        trainer.step(step, rows)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with Meter() as meter:
        for step in range(WARM_UP, WARM_UP + TIMED):
            begin = time.perf_counter()
            trainer.step(step, rows)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    section = run.recipe.train
    tokens = section.microbatches * section.microbatch_rows * rows.context
    speed = tokens / statistics.median(seconds)
    return {
        "tokens_per_second": round(speed),
        "flops_per_second": speed * flops_per_token(trainer.model.config),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "joules_per_million_tokens": {
            name: round(joules / TIMED / tokens * 1e6, 1) for name, joules in meter.cost().get("joules", {}).items()
        },
        "fingerprint": fingerprint(trainer.tensors()),
    }


def resumed(run: Run, device: torch.device) -> bool:
    """Whether steps from a copy of the state in the middle end in the bits of going straight on, and a second straight run does too."""
    marks = set()
    for cut in (None, None, REPEATED // 2):
        trainer, rows = Trainer(run.recipe, device), Rows.open(run)
        for step in range(REPEATED):
            if step == cut:
                kept = {name: tensor.cpu() for name, tensor in trainer.tensors().items()}
                trainer = Trainer(run.recipe, device)
                for name, tensor in trainer.tensors().items():
                    tensor.copy_(kept[name])
            trainer.step(step, rows)
        marks.add(fingerprint(trainer.tensors()))
    return len(marks) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here: this benchmark needs one")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    run, device = Run(options.run), torch.device("cuda")
    peak = matmul_flops_per_second(device, PRECISIONS[run.recipe.train.precision], 2.0)
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "matmul_peak_tflops": round(peak / 1e12, 1)}
    for name, deterministic, compiled in (("default", False, False), ("deterministic", True, False), ("compiled", False, True)):
        if compiled and not options.compile:
            continue
        torch.use_deterministic_algorithms(deterministic)
        result[name] = timed(run, device, compiled)
        result[name]["share_of_peak"] = round(result[name].pop("flops_per_second") / peak, 3)
        result[name]["same_bits_again_and_after_a_resume"] = resumed(run, device)
    slower = result["default"]["tokens_per_second"] / result["deterministic"]["tokens_per_second"] - 1
    result["deterministic_costs"] = f"{slower:.1%}"
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
