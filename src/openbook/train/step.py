"""One training step: gradients of every microbatch, their tree sum, a decision, an exact clip, the optimizer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openbook.model.initialise import initialise
from openbook.model.transformer import Transformer
from openbook.recipe import Recipe
from openbook.recipe_model import config_of
from openbook.train.audit import Corruption, accused, audited, disputed, mark
from openbook.train.mixtures import Mixtures, usage
from openbook.train.optimizer import Optimizer
from openbook.train.policy import Decision, Memory, decide
from openbook.train.schedule import rate
from openbook.train.shards import Holding, Sharded, Whole, cut
from openbook.train.tree import Gradients, Place, TreeSum, exact_norm
from openbook.train.workers import Solo, Workers, exchange

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class RowSource(Protocol):
    def __call__(self, step: int, microbatch: int, skipped: int = 0) -> npt.NDArray[np.int64]: ...

    def segments(self, step: int, microbatch: int, skipped: int = 0) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True)
class Computed:
    """What a step would do: the sum of its gradients, not yet clipped, this worker's rows of it."""

    loss: float
    norm: float
    gradients: Gradients
    choices: Tensor | None = None
    """See `Mixtures`."""


@dataclass
class StepResult:
    """`loss` in nats a token, mean over the step; `norm` of the gradient before clipping; `rate`, the schedule's multiplier.

    `decision` is the last one: only after "commit" has anything changed. `findings` are what was decided on the way to it, and what an
    audit found, for the logbook. `computing` and `waiting` are seconds of this worker.
    """

    loss: float
    norm: float
    rate: float
    decision: Decision
    experts: dict[str, list[float]] | None = None
    """How a mixture's experts were used, by layer: see `usage`."""
    findings: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    computing: float = 0.0
    waiting: float = 0.0

    @property
    def memory(self) -> Memory:
        return self.decision.memory


class Trainer:
    """Model and optimizer of a recipe, and the step that moves them. Knows nothing of files, time or the logbook."""

    def __init__(self, recipe: Recipe, device: torch.device, workers: Workers | None = None) -> None:
        self.recipe, self.section, self.device = recipe, recipe.train, device
        self.batches = recipe.train.batches
        self.workers = workers or Solo()
        compute = PRECISIONS[recipe.train.precision]
        mesh = self.workers.mesh
        with torch.device("meta" if mesh else device):  # what will be cut need not be whole anywhere
            self.model = Transformer(config_of(recipe.model, recipe.tokenizer.vocab_size))
        self.model.compute_dtype = compute
        self.model.activations = recipe.train.activations
        if mesh:
            cut(self.model, mesh["shards"])
            self.model.to_empty(device=device)
        self.holding: Holding = Sharded(self.model, mesh["shards"]) if mesh else Whole(self.model)
        self.mixtures = Mixtures(self.model)
        settings, offload = recipe.train.optimizer, recipe.train.offload
        self.optimizer = Optimizer(self.holding.parameters, self.holding.shapes, settings, self.holding.of_wholes, offload)
        self.computing = self.waiting = 0.0
        self.begin_again()

    def begin_again(self) -> None:
        """The state before the first step."""
        shape = self.recipe.model
        assert shape.embedding_std is not None and shape.start is not None  # filled by resolve
        initialise(self.model, self.recipe.seed, shape.embedding_std, shape.start)
        for tensor in self.optimizer.state.values():
            tensor.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds, by name: the tensors themselves, not copies; parts of tensors where the model is sharded."""
        parameters = {f"parameters.{name}": self.holding.whole(name, rows) for name, rows in self.holding.parameters.items()}
        state = {f"optimizer.{name}": self.holding.whole(self._parameter_of(name), rows) for name, rows in self.optimizer.state.items()}
        biases = {f"buffers.{name}": bias for name, bias in self.model.named_buffers()}
        return parameters | state | biases

    def _parameter_of(self, state: str) -> str:
        """The parameter that a tensor of the optimizer's state belongs to."""
        while state not in self.holding.parameters:
            state = state.rpartition(".")[0]
        return state

    def step(self, step: int, rows: RowSource, memory: Memory | None = None) -> StepResult:
        """Update number `step` (from 0): this worker's share of the microbatches, and the same update as every other worker's.

        Computes again, and passes over data, as the policy decides; whoever knows the same past decides the same. Raises LostWorker if
        another worker is gone, Corruption if one goes on computing wrong.
        """
        memory = memory or Memory()
        self.computing = self.waiting = 0.0
        findings: list[tuple[str, dict[str, Any]]] = []
        while True:
            computed = self.compute(step, rows, memory.skipped)
            if self._audit(step, rows, memory.skipped, findings):
                continue
            decision = decide(self.section.anomalies, memory, step, computed.loss, computed.norm, self.batches.first_microbatch)
            findings += told(decision, step, decision.memory.skipped - memory.skipped)
            memory = decision.memory
            if decision.kind not in ("retry", "skip"):
                multiplier = self.commit(step, computed, memory.rate_factor) if decision.kind == "commit" else 0.0
                used = None if computed.choices is None else usage(computed.choices)
                return StepResult(computed.loss, computed.norm, multiplier, decision, used, findings, self.computing, self.waiting)

    def compute(self, step: int, rows: RowSource, skipped: int = 0) -> Computed:
        """The gradients of a step; nothing has changed yet."""
        rounds = self.batches.microbatches_at(step) // self.holding.width
        tree = TreeSum()
        share = self.workers.share(rounds)
        self.audited = audited(step, share.start, share) if self._audits(step) else -1
        for round_ in share:
            leaf = self._round(step, round_, rows, skipped)
            if round_ == self.audited:
                self.mark = mark(leaf)
            tree.add(Place(0, round_), leaf)
        begin = time.perf_counter()
        gradients = self.workers.combine(tree, rounds)
        self.waiting += time.perf_counter() - begin
        loss, choices = float(gradients.pop("loss")), gradients.pop("choices", None)
        return Computed(loss, exact_norm(gradients.values(), self.holding.gather), gradients, choices)

    def commit(self, step: int, computed: Computed, rate_factor: float = 1.0) -> float:
        """Clips and applies a step's gradients; returns the learning rates' multiplier."""
        clip = self.section.optimizer.clip
        if computed.norm > clip:
            torch._foreach_mul_(list(computed.gradients.values()), clip / computed.norm)
        multiplier = rate(step, self.batches, self.section.schedule) * rate_factor
        self.optimizer.step(computed.gradients, step, multiplier)
        if computed.choices is not None:
            self.mixtures.balance(computed.choices)
        return multiplier

    def _round(self, step: int, round_: int, rows: RowSource, skipped: int) -> Gradients:
        """This worker's microbatch of a round, summed with those of the workers that hold the model with it."""
        begin = time.perf_counter()
        number = round_ * self.holding.width + self.holding.rank
        microbatch = torch.from_numpy(rows(step, number, skipped))
        masked = self.section.documents == "masked"
        segments = torch.from_numpy(rows.segments(step, number, skipped)).to(self.device) if masked else None
        leaf = self._microbatch(microbatch, segments, 1.0 / self.batches.microbatches_at(step))
        self.computing += time.perf_counter() - begin
        return leaf

    def _microbatch(self, rows: Tensor, segments: Tensor | None, weight: float) -> Gradients:
        """Gradients, and the loss, of one microbatch times `weight`, a power of two.

        rows: (rows, context + 1); segments: (rows, context) where documents are masked.
        """
        rows = rows.to(self.device, non_blocking=True)
        if self.workers.mesh is None:
            loss = self.model.loss(rows[:, :-1], rows[:, 1:], segments) * weight
            loss.backward()
        else:
            with exchange():  # the parts of a sharded model come and go in both
                loss = self.model.loss(rows[:, :-1], rows[:, 1:], segments) * weight
                loss.backward()
        return self.holding.leaf({"loss": loss.detach()} | self.mixtures.choices())

    def _audits(self, step: int) -> bool:
        every = self.section.audit_every
        return every is not None and (step + 1) % every == 0

    def _audit(self, step: int, rows: RowSource, skipped: int, findings: list[tuple[str, dict[str, Any]]]) -> bool:
        """Whether the step has to be computed again, because somebody computed wrong. Raises Corruption if that was so before."""
        if not self._audits(step):
            return False
        first = self.workers.gather(self.mark, self._mark_of(step, 1, rows, skipped))
        width = self.holding.width
        if not disputed(first, width):
            return False
        again = [self._mark_of(step, distance, rows, skipped) for distance in (0, 1, 2)]
        names = accused(first, self.workers.gather(*again), width)
        who = f"worker {' or '.join(map(str, names))}"
        if any(kind == "anomaly" and facts["kind"] == "corruption" for kind, facts in findings):
            raise Corruption(f"step {step + 1}: {who} computes other bits than the others, again and again; take its machine out")
        evidence = {"marks": [[int(number) for number in row] for row in first]}
        findings.append(("anomaly", {"kind": "corruption", "step": step + 1, "worker": names[0], "workers": names, "evidence": evidence}))
        findings.append(("action", {"kind": "retry", "step": step + 1, "why": f"{who} computed other bits than the others"}))
        return True

    def _mark_of(self, step: int, distance: int, rows: RowSource, skipped: int) -> int:
        """The mark of the audited round of the replica `distance` places after this one."""
        share = self.workers.share(self.batches.microbatches_at(step) // self.holding.width, distance)
        return mark(self._round(step, audited(step, share.start, share), rows, skipped))


def told(decision: Decision, step: int, skipped: int) -> list[tuple[str, dict[str, Any]]]:
    """A decision as the logbook's events: what was found, and what is done about it. `skipped`: microbatches that it passes over."""
    if not decision.why:
        return []
    evidence = dict(decision.evidence or {})
    scores: dict[str, float] = evidence.get("scores") or {}
    kind = f"{max(scores, key=lambda name: scores[name])}-spike" if scores else "corruption" if decision.kind == "commit" else "not-finite"
    found = ("anomaly", {"kind": kind, "step": step + 1, "score": max(scores.values(), default=None), "evidence": evidence})
    done: dict[str, Any] = {"kind": decision.kind, "step": step + 1, "why": decision.why}
    if skipped:
        done["skipped"] = skipped
    if decision.anchor is not None:
        done |= {"to_step": decision.anchor, "rate_factor": decision.memory.rate_factor}
    return [found, ("action", done)] if decision.kind != "commit" else [found]
