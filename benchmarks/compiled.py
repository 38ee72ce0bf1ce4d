"""Every style trains alike with torch.compile and without: losses of three steps, and the seconds that compiling takes.

    python benchmarks/compiled.py [--style STYLE ...] [--backend inductor]

Tiny models, one thread. The test command does this for three styles with the backend aot_eager, which generates no code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from openbook.model.styles import STYLES
from openbook.recipe import Recipe, load_recipe
from openbook.train.step import Trainer

RECIPE = """
name = "compiled"
corpus.components.text = {source = "machine", select = "licences", weight = 1}
tokenizer.vocab_size = 300
model = {layers = 2, width = 32, head_width = 16, context = 32}
train = {steps = 3, microbatch_rows = 2, device = "cpu"}
"""


def rows(step: int, microbatch: int, skipped: int = 0) -> np.ndarray:
    return np.random.default_rng(step).integers(0, 300, (2, 33))


def losses(recipe: Recipe, backend: str | None) -> tuple[list[float], float]:
    trainer = Trainer(recipe, torch.device("cpu"))
    if backend:
        torch._dynamo.reset()
        trainer.model.compile(backend=backend)
    begin = time.perf_counter()
    found = [trainer.step(step, rows).loss for step in range(3)]
    return found, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", action="append", choices=list(STYLES))
    parser.add_argument("--backend", default="inductor")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compiled.toml"
        path.write_text(RECIPE)
        for style in options.style or STYLES:
            recipe, _ = load_recipe(path, [f"model.style={style}"])
            eager, _ = losses(recipe, None)
            compiled, seconds = losses(recipe, options.backend)
            apart = max(abs(one - other) for one, other in zip(eager, compiled, strict=True))
            failed += apart > 1e-3
            print(f"{style}: {'alike' if apart <= 1e-3 else 'NOT alike'}, losses {apart:.1e} apart, {seconds:.0f} s", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
