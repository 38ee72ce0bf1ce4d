"""Muon for the matrices inside the layers, AdamW for everything else.

Both are elementwise or whole-matrix functions of (gradient, state), so their result does not depend on who computed them. Gradients
come in as a mapping from parameter name to tensor; state is a mapping from name to tensors, which is what a checkpoint stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton–Schulz iteration of Jordan et al. 2024 ("Muon"): steepest at zero, so that small singular values grow fast."""


def orthogonalise(matrices: Tensor, steps: int, precision: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values land in about [0.7, 1.2].

    matrices: (count, rows, columns), all of one shape, in one batched product per iteration, which is taken in `precision`: bf16 is
    enough, as Jordan et al. found. Returns the same shape, in fp32.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(precision)
    for _ in range(steps):
        gram = x @ x.mT  # (count, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rates are peaks; the schedule multiplies all of them."""

    matrix_rate: float
    embedding_rate: float
    head_rate: float
    norm_rate: float
    momentum: float
    beta1: float
    beta2: float
    weight_decay: float
    newton_schulz_steps: int


class Optimizer:
    """One update of all parameters. `state` is name-keyed and complete: parameters, state and step determine the future.

    `precision` is that of the orthogonalisation; all else is fp32.
    """

    def __init__(self, model: nn.Module, settings: OptimizerSettings, precision: torch.dtype = torch.float32) -> None:
        self.settings, self.precision = settings, precision
        self.parameters = dict(model.named_parameters())
        self.state: dict[str, Tensor] = {}
        self.rates: dict[str, float] = {}
        self.groups: dict[tuple[int, ...], list[str]] = {}
        for name, parameter in self.parameters.items():
            if name.startswith("layers.") and parameter.dim() == 2:
                self.groups.setdefault(tuple(parameter.shape), []).append(name)
                self.state[f"{name}.momentum"] = torch.zeros_like(parameter)
                continue
            self.rates[name] = self._adam_rate(name)
            self.state[f"{name}.mean"] = torch.zeros_like(parameter)
            self.state[f"{name}.square"] = torch.zeros_like(parameter)

    def _adam_rate(self, name: str) -> float:
        if name.startswith("embedding."):
            return self.settings.embedding_rate
        return self.settings.head_rate if name.startswith("head.") else self.settings.norm_rate

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], step: int, scale: float) -> None:
        """Applies update number `step` (from 0) with learning rates multiplied by `scale`."""
        for shape, names in self.groups.items():
            self._muon(shape, names, gradients, scale)
        for name, rate in self.rates.items():
            self._adam(name, gradients[name], step, rate * scale)

    def _muon(self, shape: tuple[int, ...], names: list[str], gradients: Mapping[str, Tensor], scale: float) -> None:
        """Nesterov momentum, orthogonalised; scaled so that a matrix of any shape changes its output by a comparable amount."""
        momentum = self.settings.momentum
        fresh, buffers = [gradients[name] for name in names], [self.state[f"{name}.momentum"] for name in names]
        torch._foreach_lerp_(buffers, fresh, 1 - momentum)
        updates = torch.stack(torch._foreach_lerp(fresh, buffers, momentum))
        updates = orthogonalise(updates, self.settings.newton_schulz_steps, self.precision)
        rate = self.settings.matrix_rate * scale
        size = max(1.0, shape[0] / shape[1]) ** 0.5
        parameters: list[Tensor] = [self.parameters[name] for name in names]
        if self.settings.weight_decay:
            torch._foreach_mul_(parameters, 1 - rate * self.settings.weight_decay)
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-rate * size)

    def _adam(self, name: str, gradient: Tensor, step: int, rate: float) -> None:
        """Adam (Kingma and Ba 2015) with bias correction; no decay on embeddings, head and norms."""
        beta1, beta2 = self.settings.beta1, self.settings.beta2
        mean, square = self.state[f"{name}.mean"], self.state[f"{name}.square"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        bias1, bias2 = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
        denominator = (square / bias2).sqrt_().add_(1e-10)
        self.parameters[name].addcdiv_(mean, denominator, value=-rate / bias1)
