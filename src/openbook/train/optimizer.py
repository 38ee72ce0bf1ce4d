"""Muon for the matrices inside the layers with AdamW for the rest, or AdamW for everything. A tensor of experts is so many matrices.

All is elementwise or by row, except one call that makes whole matrices orthogonal. So a process may hold whole tensors or rows of them:
the bits are the same, as long as that one call sees whole matrices. Parameters, state and step number determine the future.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from openbook.recipe import AdamWSection, MuonSection
from openbook.train.moments import Moments

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton–Schulz iteration of Jordan et al. 2024 ("Muon"): steepest at zero, so that small singular values grow fast."""

INSIDE = ("layers.", "embedding_projection.", "head_projection.")
"""Parameters of which Muon takes the matrices."""
MUON_EPS = 1e-10
"""Beside Muon, Adam divides by this much more than the root of the second moment."""

Orthogonalise = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def orthogonalise(matrices: Tensor, steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values land in about [0.7, 1.2].

    matrices: (count, rows, columns), all of one shape, in one batched product per iteration. Returns the same shape, fp32; `dtype` is
    what the products are computed in.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = x @ x.mT  # (count, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def orthogonalise_all(updates: dict[str, Tensor], steps: int = 5, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Whole matrices by name, each made orthogonal; the bits of one do not depend on which others there are.

    On a CPU, matrices of one shape share a batch, which the tests show to change no bit where both sides are multiples of 64. A GPU chooses
    its kernel by the size of the batch, so there they go one by one. A tensor of experts, (experts, rows, columns), is a batch by itself.
    """
    batches: dict[tuple[int, ...], list[str]] = {}
    for name, update in updates.items():
        shared = update.device.type == "cpu" and update.dim() == 2 and not any(side % 64 for side in update.shape)
        batches.setdefault(tuple(update.shape) if shared else (len(batches),), []).append(name)
    done: dict[str, Tensor] = {}
    for names in batches.values():
        batch = torch.stack([updates[name] for name in names])  # (names, rows, columns), or (1, experts, rows, columns)
        change = orthogonalise(batch.flatten(0, -3), steps, dtype).view(batch.shape)
        done.update(zip(names, change.unbind(), strict=True))
    return done


class Optimizer:
    """Updates parameters in place. `state` is name-keyed and complete: it is what a checkpoint stores.

    parameters: by name, each whole or some of its rows (maybe none), on one device, fp32.
    shapes: by name, the whole shape. Muon takes what is named `layers.…` and is a matrix or many, and
        the projections of narrow embeddings.
    offload: keeps the state in the machine's memory instead of the parameters' device.
    of_wholes: makes of a function of whole matrices one that gets and returns this process's rows of them.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        shapes: Mapping[str, tuple[int, ...]],
        settings: MuonSection | AdamWSection,
        of_wholes: Callable[[Orthogonalise], Orthogonalise] = lambda orthogonalise: orthogonalise,
        offload: bool = False,
    ) -> None:
        self.parameters, self.settings = dict(parameters), settings
        self.matrices: dict[str, float] = {}
        """Muon's, with the factor by which a matrix of any shape changes its output by a comparable amount."""
        self.groups: dict[tuple[float, float], list[str]] = {}
        """Adam's, by rate and weight decay."""
        for name in self.parameters:
            shape = shapes[name]
            if isinstance(settings, MuonSection) and name.startswith(INSIDE) and len(shape) >= 2:
                self.matrices[name] = max(1.0, shape[-2] / shape[-1]) ** 0.5
            else:
                self.groups.setdefault(_rate_and_decay(name, shape, settings), []).append(name)
        if isinstance(settings, MuonSection):
            dtype = torch.bfloat16 if settings.newton_schulz_precision == "bf16" else torch.float32
            self.orthogonalise = of_wholes(partial(orthogonalise_all, steps=settings.newton_schulz_steps, dtype=dtype))
        self.moments = Moments(settings.state, offload)
        for name in self.matrices:
            self.moments.add(f"{name}.momentum", self.parameters[name])
        for name in (name for names in self.groups.values() for name in names):
            self.moments.add(f"{name}.mean", self.parameters[name])
            self.moments.add(f"{name}.square", self.parameters[name], square=True)

    @property
    def state(self) -> dict[str, Tensor]:
        return self.moments.tensors

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], step: int, scale: float) -> None:
        """Applies update number `step` (from 0) with learning rates multiplied by `scale`."""
        self.moments.begin(step, next(iter(gradients.values())).device)
        if self.matrices:
            self._muon(gradients, scale)
        for (rate, decay), names in self.groups.items():
            for some in self._at_once(names):
                self._adam(some, gradients, step, rate * scale, decay)

    def _at_once(self, names: list[str]) -> Iterator[list[str]]:
        """All names where state is updated where it lies; else one after another, as each is unpacked into fp32 meanwhile."""
        yield from ([name] for name in names) if self.moments.one_by_one else [names]

    def _muon(self, gradients: Mapping[str, Tensor], scale: float) -> None:
        """Nesterov momentum, orthogonalised (Jordan et al. 2024)."""
        settings = self.settings
        assert isinstance(settings, MuonSection)
        updates: dict[str, Tensor] = {}
        for names in self._at_once(list(self.matrices)):
            own = [gradients[name] for name in names]
            with self.moments.open([f"{name}.momentum" for name in names], own) as momenta:
                torch._foreach_lerp_(momenta, own, 1 - settings.momentum)
                updates.update(zip(names, torch._foreach_lerp(own, momenta, settings.momentum), strict=True))
        updates = self.orthogonalise(updates)
        rate = settings.matrix_rate * scale
        parameters = [self.parameters[name] for name in self.matrices]
        _decay(parameters, rate * settings.weight_decay)
        factors = [-rate * size for size in self.matrices.values()]
        torch._foreach_add_(parameters, torch._foreach_mul([updates[name] for name in self.matrices], factors))

    def _adam(self, names: list[str], gradients: Mapping[str, Tensor], step: int, rate: float, decay: float) -> None:
        """AdamW: Adam with bias correction (Kingma and Ba 2015), weight decay apart from it (Loshchilov and Hutter 2019)."""
        settings = self.settings
        own, parameters = [gradients[name] for name in names], [self.parameters[name] for name in names]
        bias1, bias2 = 1 - settings.beta1 ** (step + 1), 1 - settings.beta2 ** (step + 1)
        with (
            self.moments.open([f"{name}.mean" for name in names], own) as means,
            self.moments.open([f"{name}.square" for name in names], own) as squares,
        ):
            torch._foreach_lerp_(means, own, 1 - settings.beta1)
            torch._foreach_mul_(squares, settings.beta2)
            torch._foreach_addcmul_(squares, own, own, 1 - settings.beta2)
            roots = torch._foreach_sqrt(squares)
            eps = settings.eps if isinstance(settings, AdamWSection) else MUON_EPS
            torch._foreach_add_(roots, eps * bias2**0.5)
            _decay(parameters, rate * decay)
            torch._foreach_addcdiv_(parameters, means, roots, -rate * bias2**0.5 / bias1)


def _rate_and_decay(name: str, shape: tuple[int, ...], settings: MuonSection | AdamWSection) -> tuple[float, float]:
    """What Adam does with a parameter. Beside Muon nothing of it decays; alone, all matrices do, the embedding among them."""
    if isinstance(settings, AdamWSection):
        return settings.rate, settings.weight_decay if len(shape) >= 2 else 0.0
    if name.startswith("embedding."):
        return settings.embedding_rate, 0.0
    return settings.head_rate if name.startswith("head.") else settings.norm_rate, 0.0


def _decay(parameters: list[Tensor], by: float) -> None:
    if by:
        torch._foreach_mul_(parameters, 1 - by)
