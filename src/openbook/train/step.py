"""One training step: gradients of every microbatch, their tree sum, an exact clip, the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openbook.errors import OpenbookError
from openbook.model.initialise import initialise
from openbook.model.transformer import Transformer, TransformerConfig
from openbook.recipe import ModelSection, Recipe
from openbook.train.optimizer import Optimizer, OptimizerSettings
from openbook.train.schedule import rate
from openbook.train.tree import Gradients, Place, TreeSum, exact_norm
from openbook.train.workers import Solo, Workers

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class RowSource(Protocol):
    def __call__(self, step: int, microbatch: int) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True)
class StepResult:
    """`loss` in nats a token, mean over the step; `norm` of the gradient before clipping; `rate`, the schedule's multiplier."""

    loss: float
    norm: float
    rate: float


def config_of(section: ModelSection, vocab_size: int) -> TransformerConfig:
    """The transformer that a resolved recipe describes."""
    assert section.heads is not None and section.kv_heads is not None and section.mlp_width is not None  # filled by resolve
    return TransformerConfig(
        vocab_size=vocab_size,
        context=section.context,
        layers=section.layers,
        width=section.width,
        heads=section.heads,
        kv_heads=section.kv_heads,
        head_width=section.head_width,
        mlp_width=section.mlp_width,
        rope_theta=section.rope_theta,
        norm_eps=section.norm_eps,
        tied_head=section.tied_head,
    )


class NotFinite(OpenbookError):
    """The loss or the gradient is infinite or no number; every worker comes to the same conclusion in the same step."""


class Trainer:
    """Model and optimizer of a recipe, and the step that moves them. Knows nothing of files, time or the logbook."""

    def __init__(self, recipe: Recipe, device: torch.device, workers: Workers | None = None) -> None:
        self.recipe, self.device = recipe, device
        self.workers = workers or Solo()
        self.model = Transformer(config_of(recipe.model, recipe.tokenizer.vocab_size))
        initialise(self.model, recipe.seed, recipe.model.embedding_std)
        self.model.to(device)
        self.model.compute_dtype = PRECISIONS[recipe.train.precision]
        self.clip = recipe.train.optimizer.clip
        settings = recipe.train.optimizer.model_dump(exclude={"clip"})
        self.optimizer = Optimizer(self.model, OptimizerSettings(**settings), self.model.compute_dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds, by name; the tensors themselves, not copies."""
        parameters = {f"parameters.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        return parameters | {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state.items()}

    def step(self, step: int, rows: RowSource) -> StepResult:
        """Update number `step` (from 0): this worker's share of the microbatches, and the same update as every other worker's.

        Raises NotFinite, before anything has changed; LostWorker if another one is gone.
        """
        section = self.recipe.train
        tree = TreeSum()
        for microbatch in self.workers.share(section.microbatches):
            leaf = self._microbatch(torch.from_numpy(rows(step, microbatch)), 1.0 / section.microbatches)
            tree.add(Place(0, microbatch), leaf)
        gradients = self.workers.combine(tree, section.microbatches)
        loss = float(gradients.pop("loss"))
        norm = exact_norm(gradients.values())
        if not math.isfinite(norm) or not math.isfinite(loss):
            raise NotFinite(f"step {step + 1}: loss {loss} and gradient norm {norm} are not finite; lower train.optimizer's rates")
        if norm > self.clip:
            torch._foreach_mul_(list(gradients.values()), self.clip / norm)
        multiplier = rate(step, section.steps, section.schedule)
        self.optimizer.step(gradients, step, multiplier)
        return StepResult(loss, norm, multiplier)

    def _microbatch(self, rows: Tensor, weight: float) -> Gradients:
        """Gradients, and the loss, of one microbatch times `weight`, a power of two. rows: (rows, context + 1)."""
        rows = rows.to(self.device, non_blocking=True)
        loss = self.model.loss(rows[:, :-1], rows[:, 1:]) * weight
        loss.backward()
        leaf: Gradients = {}
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None
            leaf[name], parameter.grad = parameter.grad, None
        leaf["loss"] = loss.detach()
        return leaf
