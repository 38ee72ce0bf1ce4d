"""Training throughput of a recipe's model, as shares of the machine's measured peak and of a peer, all in one run.

    python benchmarks/throughput.py [recipes/pocket.toml] [--threads 1]

The peer is the same architecture in transformers (`Qwen3ForCausalLM`, with its own loss) trained by torch's fused AdamW; it is left
out where transformers is not installed. Every figure is the best of several repetitions, taken in turns, in CPU-seconds of the process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from openbook.model.exchange import exported_config
from openbook.model.loss import head_loss
from openbook.model.transformer import Transformer
from openbook.recipe import Recipe, load_recipe
from openbook.train.peak import matmul_flops_per_second
from openbook.train.step import Trainer

REPETITIONS = 6


def cpu_seconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The best CPU time of each piece of work, taken in turns so that noise meets all alike."""
    best = dict.fromkeys(works, float("inf"))
    for work in works.values():
        work()
    for _ in range(REPETITIONS):
        for name, work in works.items():
            begin = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def our_step(recipe: Recipe, rows: np.ndarray) -> tuple[Transformer, Callable[[], object]]:
    trainer = Trainer(recipe, torch.device("cpu"))
    return trainer.model, lambda: trainer.step(0, lambda step, microbatch: rows)


def peer_step(model: Transformer, rows: torch.Tensor, microbatches: int) -> Callable[[], object]:
    from transformers import AutoConfig, AutoModelForCausalLM

    facts = exported_config(model.config, 0)
    config = AutoConfig.for_model(**{key: value for key, value in facts.items() if key not in ("architectures", "torch_dtype")})
    peer = AutoModelForCausalLM.from_config(config).train()
    optimizer = torch.optim.AdamW(peer.parameters(), fused=True)

    def step() -> None:
        for _ in range(microbatches):
            (peer(input_ids=rows[:, :-1], labels=rows[:, :-1]).loss / microbatches).backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def head_works(width: int, vocabulary: int, rows: int) -> dict[str, Callable[[], object]]:
    hidden, weight = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,))

    def products() -> None:
        with torch.no_grad():
            logits = hidden @ weight.t()
            _ = logits @ weight, logits.t() @ hidden

    return {
        "three products": products,
        "head_loss": lambda: head_loss(hidden, weight, targets).backward(),
        "cross_entropy": lambda: F.cross_entropy(F.linear(hidden, weight), targets).backward(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=Path("recipes/pocket.toml"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe, _ = load_recipe(options.recipe)
    train = recipe.train
    rows = np.random.default_rng(0).integers(0, recipe.tokenizer.vocab_size, (train.microbatch_rows, recipe.model.context + 1))
    tokens = train.microbatches * train.microbatch_rows * recipe.model.context
    model, step = our_step(recipe, rows)
    works = {"openbook": step}
    with suppress(ImportError):
        works["transformers"] = peer_step(model, torch.from_numpy(rows), train.microbatches)
    steps = cpu_seconds(works)
    peak = matmul_flops_per_second(torch.device("cpu"), torch.float32, 2.0)
    flops = tokens * model.config.flops_per_token()
    head = cpu_seconds(head_works(recipe.model.width, recipe.tokenizer.vocab_size, train.microbatch_rows * recipe.model.context))
    result = {
        "threads": options.threads,
        "tokens_per_cpu_second": {name: round(tokens / seconds) for name, seconds in steps.items()},
        "peak_gflops_measured": round(peak / 1e9, 1),
        "share_of_peak": round(flops / (steps["openbook"] / options.threads) / peak, 3),
        "head_loss_over_three_products": round(head["head_loss"] / head["three products"], 2),
        "cross_entropy_over_head_loss": round(head["cross_entropy"] / head["head_loss"], 2),
    }
    if "transformers" in steps:
        result["openbook_over_transformers"] = round(steps["transformers"] / steps["openbook"], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
