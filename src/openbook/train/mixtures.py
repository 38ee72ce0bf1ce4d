"""What a step knows of its mixtures of experts: how often each expert was chosen, and the bias that follows from it.

Choices are counted in whole numbers and travel with the gradients, in fp32, along the same tree. Sums below 2^24 are exact; beyond, they
still have the tree's order. So the bias, like every weight, does not depend on who computed what.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openbook.model.experts import ExpertMLP, balance
from openbook.train.tree import Gradients


class Mixtures:
    """All mixtures of a model, in the order of its layers."""

    def __init__(self, model: nn.Module) -> None:
        self.blocks = [module for module in model.modules() if isinstance(module, ExpertMLP)]

    def choices(self) -> Gradients:
        """Of the microbatch just computed: "choices", (layers, 2, count) in fp32, see `Routes.counts`; nothing if there is no mixture."""
        counts = [block.counts for block in self.blocks if block.counts is not None]
        return {"choices": torch.stack(counts).float()} if counts else {}

    @torch.no_grad()
    def balance(self, choices: Tensor) -> None:
        """Moves the biases after a step, in place. choices: of all its microbatches."""
        for block, (given, _) in zip(self.blocks, choices, strict=True):
            if block.router.bias is not None:
                block.router.bias.copy_(balance(given, block.router.bias, block.settings.balance_rate))


def usage(choices: Tensor) -> dict[str, list[float]]:
    """By layer: `largest`, what the busiest expert was given over the mean, which is 1 for perfect balance; `dropped`, the share of
    choices that found their expert full. choices: (layers, 2, count)."""
    given, computed = choices.double().unbind(1)  # (layers, count) each
    largest = given.amax(1) / given.mean(1)
    dropped = 1 - computed.sum(1) / given.sum(1)
    return {"largest": [round(value, 4) for value in largest.tolist()], "dropped": [round(value, 6) for value in dropped.tolist()]}
