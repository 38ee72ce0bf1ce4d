"""Training throughput of a recipe's model, as shares of the machine's measured peak and of its peers, all in one run.

    python benchmarks/throughput.py [recipes/pocket.toml] [--set model.style=gpt] [--adamw] [--nanogpt PATH] [--threads 1]

The peers are the same architecture in transformers, with its own loss; in litgpt (modern style); and in nanoGPT (gpt style), whose
folder --nanogpt names. Each is trained by torch's fused AdamW in fp32, eagerly; those that are not installed are left out. Every figure is
the best of several repetitions, taken in turns, in CPU-seconds of the process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.model.count import flops_per_token
from openbook.model.exchange import exported_config
from openbook.model.loss import head_loss
from openbook.model.transformer import Transformer
from openbook.recipe import AdamWSection, Recipe, load_recipe
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
    return trainer.model, lambda: trainer.step(0, lambda *place: rows)


def peer_step(peer: nn.Module, loss: Callable[[], Tensor], microbatches: int) -> Callable[[], object]:
    """A training step as the peers' own loops take it."""
    optimizer = torch.optim.AdamW(peer.parameters(), fused=True)

    def step() -> None:
        for _ in range(microbatches):
            (loss() / microbatches).backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def same_size(peer: nn.Module, model: Transformer) -> None:
    """Raises AssertionError if the peer is another architecture."""
    ours, theirs = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, peer))
    assert ours == theirs, f"{type(peer).__name__} has {theirs:,} parameters, the recipe's model {ours:,}"


def transformers_peer(model: Transformer, rows: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    from transformers import AutoConfig, AutoModelForCausalLM

    facts = exported_config(model.config, 0)
    config = AutoConfig.for_model(**{key: value for key, value in facts.items() if key not in ("architectures", "torch_dtype")})
    peer = AutoModelForCausalLM.from_config(config).train()
    return peer, lambda: peer(input_ids=rows[:, :-1], labels=rows[:, :-1]).loss


def litgpt_peer(model: Transformer, rows: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    from litgpt.config import Config
    from litgpt.model import GPT

    ours = model.config
    if ours.norm != "rms" or ours.tied_head:
        raise ImportError("litgpt has no learned positions and ties no head")
    shape = {"block_size": ours.context, "n_layer": ours.layers, "n_embd": ours.width, "head_size": ours.head_width}
    heads = {"n_head": ours.heads, "n_query_groups": ours.kv_heads, "norm_qk": True, "rotary_percentage": 1.0}
    words = {"vocab_size": ours.vocab_size, "padded_vocab_size": ours.vocab_size, "norm_class_name": "RMSNorm", "norm_eps": ours.norm_eps}
    rest = {"parallel_residual": False, "bias": False, "mlp_class_name": "LLaMAMLP", "intermediate_size": ours.mlp_width}
    peer = GPT(Config(**shape, **heads, **words, **rest))
    return peer, lambda: F.cross_entropy(peer(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def nanogpt_peer(folder: Path | None, model: Transformer, rows: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """nanoGPT's GELU is the exact one, which on a CPU is the cheaper one to compute."""
    ours = model.config
    if folder is None or ours.norm != "layer" or any(ours.windows) or not ours.tied_head or ours.mlp_width != 4 * ours.width:
        raise ImportError("nanoGPT is not given or has another architecture")
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig

    with redirect_stdout(sys.stderr):
        shape = {"block_size": ours.context, "n_layer": ours.layers, "n_head": ours.heads, "n_embd": ours.width}
        peer = GPT(GPTConfig(**shape, vocab_size=ours.vocab_size, dropout=0.0, bias=True))
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    return peer, lambda: peer(inputs, targets)[1]


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
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--nanogpt", type=Path, metavar="PATH")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--adamw", action="store_true", help="AdamW on our side too, in place of the recipe's optimizer")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe, _ = load_recipe(options.recipe, options.set)
    if options.adamw:
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"optimizer": AdamWSection(kind="adamw")})})
    train = recipe.train
    rows = np.random.default_rng(0).integers(0, recipe.tokenizer.vocab_size, (train.microbatch_rows, recipe.model.context + 1))
    tokens = train.microbatches * train.microbatch_rows * recipe.model.context
    model, step = our_step(recipe, rows)
    works = {"openbook": step}
    peers = {"transformers": transformers_peer, "litgpt": litgpt_peer, "nanogpt": partial(nanogpt_peer, options.nanogpt)}
    for name, make in peers.items():
        with suppress(ImportError):
            peer, loss = make(model, torch.from_numpy(rows))
            same_size(peer, model)
            works[name] = peer_step(peer, loss, train.microbatches)
    steps = cpu_seconds(works)
    peak = matmul_flops_per_second(torch.device("cpu"), torch.float32, 2.0)
    flops = tokens * flops_per_token(model.config)
    head = cpu_seconds(head_works(recipe.model.width, recipe.tokenizer.vocab_size, train.microbatch_rows * recipe.model.context))
    result = {
        "threads": options.threads,
        "tokens_per_cpu_second": {name: round(tokens / seconds) for name, seconds in steps.items()},
        "openbook_over": {name: round(seconds / steps["openbook"], 2) for name, seconds in steps.items() if name != "openbook"},
        "peak_gflops_measured": round(peak / 1e9, 1),
        "share_of_peak": round(flops / (steps["openbook"] / options.threads) / peak, 3),
        "head_loss_over_three_products": round(head["head_loss"] / head["three products"], 2),
        "cross_entropy_over_head_loss": round(head["cross_entropy"] / head["head_loss"], 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
