"""A mixture of experts against every expert for every token, against a plain loop over experts, and against as many matrix products.

python benchmarks/experts.py

Forward and backward pass of one layer, fp32, one thread. All four take turns, and the fastest of each is compared.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.model.config import Experts, TransformerConfig
from openbook.model.experts import ExpertMLP, choose

TOKENS, ROUNDS = 4096, 7
SHAPES = [(8, 2, 256, 512), (64, 8, 256, 128)]
"""(experts, top_k, width, width of an expert): few large ones as Mixtral's, many small ones as Qwen3's."""


def every_expert(block: ExpertMLP, x: Tensor) -> Tensor:
    """Dense: what a mask instead of routes costs."""
    chosen, weights = choose(block.router(x).softmax(1), None, block.settings.top_k, block.settings.normalised)
    shares = torch.zeros(len(x), block.settings.count).scatter(1, chosen, weights)
    inner = F.silu(x @ block.experts.gate.mT) * (x @ block.experts.up.mT)  # (count, tokens, mlp_width)
    return torch.einsum("etw,te->tw", inner @ block.experts.down.mT, shares)


def looped(block: ExpertMLP, x: Tensor) -> Tensor:
    """The textbook's: for each expert, find its tokens, compute them, add them to the output."""
    chosen, weights = choose(block.router(x).softmax(1), None, block.settings.top_k, block.settings.normalised)
    output = torch.zeros_like(x)
    for number in range(block.settings.count):
        token, slot = torch.where(chosen == number)
        rows = x[token]
        inner = F.silu(rows @ block.experts.gate[number].T) * (rows @ block.experts.up[number].T)
        output = output.index_add(0, token, inner @ block.experts.down[number].T * weights[token, slot, None])
    return output


def products(block: ExpertMLP, x: Tensor) -> Tensor:
    """The matrix products alone, as if one expert had all choices: a bound, and not a mixture."""
    rows = x.repeat(block.settings.top_k, 1)
    inner = (rows @ block.experts.gate[0].T) * (rows @ block.experts.up[0].T)
    return (inner @ block.experts.down[0].T).view(block.settings.top_k, *x.shape).sum(0)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for count, top_k, width, inner in SHAPES:
        config = TransformerConfig(vocab_size=8, context=8, layers=1, width=width, heads=1, kv_heads=1, head_width=width, mlp_width=inner)
        block = ExpertMLP(config, Experts(count, top_k, inner))
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=width**-0.5)
        x = torch.randn(TOKENS, width, requires_grad=True)
        ways = {
            "grouped (openbook)": lambda x=x, block=block: block(x[None])[0],
            "every expert for every token": lambda x=x, block=block: every_expert(block, x),
            "loop over experts": lambda x=x, block=block: looped(block, x),
            "the products alone": lambda x=x, block=block: products(block, x),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(ROUNDS):
            for name, way in ways.items():
                begin = time.perf_counter()
                way().square().sum().backward()
                best[name] = min(best[name], time.perf_counter() - begin)
        print(f"{count} experts, top {top_k}, width {width}, experts' width {inner}, {TOKENS} tokens")
        for name, seconds in best.items():
            print(f"  {name:30} {seconds * 1e3:8.1f} ms  {seconds / best['grouped (openbook)']:6.2f} ×")


if __name__ == "__main__":
    main()
