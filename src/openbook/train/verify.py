"""`openbook verify --steps`: any part of a training done again on this machine and compared with the logbook, to the bit.

A replay needs one process whatever trained the run, because the bits do not depend on the number of workers. It reads the run and
writes nothing but one event. Where it differs, what lies on disk is searched for the cause: the data, the recipe, the logbook's own
lines, and the checkpoints, tensor by tensor.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from openbook.errors import InputError, OpenbookError
from openbook.files import sha256_file
from openbook.integrity import Findings, damage, legible
from openbook.model.exchange import save_weights
from openbook.progress import say, track
from openbook.run import Run
from openbook.tokens import Rows
from openbook.train.checkpoint import load, read_state, step_of, whole
from openbook.train.contract import Contract, changes, choose_device, compute_alike, contract
from openbook.train.fingerprint import fingerprint
from openbook.train.policy import Memory
from openbook.train.step import Trainer

Verdict = Literal["holds", "differs", "inconclusive"]
NOT_FINITE = "not finite"


@dataclass(frozen=True)
class Difference:
    """The first thing that came out otherwise.

    `what` is the logbook's "loss", "norm", "fingerprint" or whole "event", "token" in the data, "tensor NAME" of a checkpoint, or
    "weights", the training's result.
    """

    step: int
    what: str
    replayed: object = None
    recorded: object = None

    def __str__(self) -> str:
        if self.what == "event":
            how = "the logbook has no legible event of it"
        elif self.what == "token":
            how = f"it reads token {self.replayed}, which the vocabulary does not have"
        elif self.what == "weights":
            how = "the replayed weights are not those of weights/model.safetensors in the manifest"
        elif self.what.startswith("tensor"):
            how = f"{self.what} of its checkpoint is not the replayed one"
        else:
            how = f"{self.what} {self.replayed} replayed, {self.recorded} in the logbook"
        return f"step {self.step} differs: {how}"


@dataclass(frozen=True)
class Replay:
    """What came of a replay of steps `first` + 1 to `last` that began from the state after step `start`.

    `fingerprints` counts those compared. `contract` says how this machine's numerics contract differs from the run's.
    """

    first: int
    last: int
    start: int
    fingerprints: int
    difference: Difference | None = None
    causes: list[str] = field(default_factory=list)
    failure: str | None = None
    contract: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        if self.failure or (self.difference and self.contract):
            return "inconclusive"
        return "differs" if self.difference else "holds"

    def praise(self) -> str:
        """What a replay that holds has shown."""
        start = f"from the checkpoint of step {self.start}" if self.start else "from the initial weights"
        return (
            f"steps {self.first}:{self.last} replayed {start}: losses, norms and fingerprints ({self.fingerprints}) are the same to the bit"
        )

    def problems(self) -> list[str]:
        """One line each; none if the replay holds."""
        lines = [str(self.difference)] if self.difference else []
        if self.difference and self.contract:
            lines.append(f"inconclusive: computed under another numerics contract ({'; '.join(self.contract)})")
        return [*lines, *(f"cause: {cause}" for cause in self.causes), *([self.failure] if self.failure else [])]

    def event(self) -> dict[str, Any]:
        """What the logbook keeps of it."""
        facts: dict[str, Any] = {"steps": [self.first, self.last], "start": self.start, "fingerprints": self.fingerprints}
        differs = {"step": self.difference.step, "what": self.difference.what} if self.difference else None
        rest = {"verdict": self.verdict, "differs": differs, "causes": self.causes, "failure": self.failure, "contract": self.contract}
        return facts | rest


Key = tuple[int, int]
"""(branch, step): a training that has gone back does some steps again, with other data."""


@dataclass
class Recorded:
    """What the logbook says of a run's newest training; the last word on a step of a branch counts."""

    key: str = ""
    steps: dict[Key, dict[str, Any]] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)
    """The logbook's line of each step."""
    fingerprints: dict[Key, str] = field(default_factory=dict)
    contracts: dict[Key, Contract] = field(default_factory=dict)

    @property
    def trained(self) -> int:
        """The last step of the newest branch."""
        branch = max((branch for branch, _ in self.steps), default=0)
        return max((step for on, step in self.steps if on == branch), default=0)

    def final(self, step: int) -> Key:
        """A step on the way to the training's end."""
        return max((branch for branch, number in self.steps if number == step), default=0), step


def recorded(logbook: Path) -> Recorded:
    """Reads what is legible of a logbook, damaged or not."""
    found, here = Recorded(), Recorded()
    by_key: dict[str, Recorded] = {}
    present: Contract = {}
    for line, event in legible(logbook):
        match event:
            case {"event": "stage.begin", "stage": "train", "key": str(key)}:
                found = here = by_key.setdefault(key, Recorded(key))
            case {"event": "stage.begin"}:
                here = Recorded()
            case {"event": "train.begin"}:
                present = event.get("contract") or {}
            case {"event": "step", "step": int(step), "branch": int(branch), "loss": float(), "norm": float()}:
                at = (branch, step)
                here.steps[at], here.lines[at], here.contracts[at] = event, line, present
                here.fingerprints.pop(at, None)
            case {"event": "checkpoint" | "fingerprint", "step": int(step), "branch": int(branch), "fingerprint": str(value)}:
                here.fingerprints[branch, step] = value
    return found


def span(run: Run, text: str) -> tuple[int, int]:
    """The steps that `--steps A:B` means: from the state after step A to that after step B. Raises InputError if there are none such."""
    shape = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = map(int, shape.groups()) if shape else (0, 0)
    if first >= last:
        raise InputError(f"--steps {text}: should be A:B with A below B, such as 0:100, the first hundred steps")
    trained = recorded(run.logbook_path).trained
    if last > trained:
        raise InputError(f"--steps {text}: the logbook of {run.path} ends with step {trained}")
    return first, last


def replay(run: Run, findings: Findings, first: int, last: int) -> Replay:
    """Replays a span, and says in the logbook what came of it. `findings` tell where to look for causes."""
    with run.locked():
        result = Replayer(run, findings, first, last).carry_out()
        run.logbook.append("verify", **result.event())
        run.logbook.sync()
    return result


class Replayer:
    """One replay at work, on a model and an optimizer of its own."""

    def __init__(self, run: Run, findings: Findings, first: int, last: int) -> None:
        self.run, self.findings, self.first, self.last = run, findings, first, last
        self.start = self.compared = 0
        self.recorded = recorded(run.logbook_path)
        wanted = run.recipe.train.device
        self.device = choose_device("auto" if wanted == "cuda" else wanted)
        compute_alike(self.device)
        here = contract(self.device, run.recipe.train.precision)
        finals = [self.recorded.final(step) for step in range(first + 1, last + 1)]
        theirs = [self.recorded.contracts[at] for at in finals if at in self.recorded.contracts]
        self.contract = sorted({change for one in theirs if one for change in changes(one, here)})

    def carry_out(self) -> Replay:
        if self.contract:
            say(f"  this machine computes otherwise than the run did ({'; '.join(self.contract)}): bits are not comparable")
        try:
            self._prepare()
            difference, causes = self._compare()
        except OpenbookError as error:
            failure = f"the replay could not be carried out: {error}"
            return Replay(self.first, self.last, self.start, self.compared, failure=failure, contract=self.contract)
        return Replay(self.first, self.last, self.start, self.compared, difference, causes, contract=self.contract)

    def _prepare(self) -> None:
        """Opens the data as it lies there and loads the newest checkpoint to start from."""
        section = self.run.recipe.train
        if section.threads:
            torch.set_num_threads(section.threads)
        for name, why in self.findings.files.items():
            if name.startswith("tokens/train/") and name.endswith(".bin") and why == "is missing":
                raise OpenbookError(f"{self.run.path / name} is missing")
        self.rows = Rows.open(self.run, check=False)
        self.trainer = Trainer(self.run.recipe, self.device)
        self.checkpoints = {self._key_of(folder): folder for folder in self._usable()}
        self.memory = Memory()
        candidates = (at for at, folder in self.checkpoints.items() if self._leads_on(at) and self._is_as_logged(at, folder))
        _, self.start = self.origin = next(candidates, (0, 0))
        self._return()
        say(f"  replaying from {f'the checkpoint of step {self.start}' if self.start else 'the initial weights'}")

    def _leads_on(self, at: Key) -> bool:
        """Whether a state is on the way to the training's end, and not behind where the replay begins."""
        branch, step = at
        return step <= self.first and branch <= self.recorded.final(self.last)[0]

    def _key_of(self, folder: Path) -> Key:
        return read_state(folder).memory.branch, step_of(folder)

    def _return(self) -> None:
        """To where the replay began."""
        if self.start:
            load(self.checkpoints[self.origin], self.trainer.tensors())
            self.memory = read_state(self.checkpoints[self.origin]).memory
        else:
            self.trainer.begin_again()
            self.memory = Memory()

    def _usable(self) -> Iterator[Path]:
        """This training's undamaged checkpoints, the newest first."""
        for folder in whole(self.run.path / "checkpoints"):
            if damage(folder) is None and read_state(folder).key == self.recorded.key:
                yield folder

    def _is_as_logged(self, at: Key, folder: Path) -> bool:
        """Loads a checkpoint; whether it holds what was fingerprinted when it was saved. If not, it will be compared, not trusted."""
        load(folder, self.trainer.tensors())
        logged = self.recorded.fingerprints.get(at)
        return logged is None or fingerprint(self.trainer.tensors()) == logged

    def _compare(self) -> tuple[Difference | None, list[str]]:
        """The first difference, and what on disk explains it."""
        difference: Difference | None = None
        step, end = self.start, self.recorded.final(self.last)
        with track("replay", self.last - self.start) as bar:
            while (self.memory.branch, step) != end:
                step += 1
                found, step = self._step(step)
                difference = difference or found
                stuck = difference and (difference.what == "token" or difference.replayed == NOT_FINITE)
                if stuck or (difference and not self._witnessed(step)):
                    break
                folder = self.checkpoints.get((self.memory.branch, step))
                tensor = self._tensor_that_differs(folder) if folder else None
                difference = difference or (Difference(step, f"tensor {tensor}") if tensor else None)
                if difference and folder:
                    return difference, [*self._causes(difference.step), *self._witness(folder, tensor, difference)]
                bar.update(step - self.start, f"step {step}")
        difference = difference or self._result()
        return difference, self._causes(difference.step) if difference else []

    def _witnessed(self, step: int) -> bool:
        """Whether there is a checkpoint to come that can tell more of a difference."""
        return any(branch == self.memory.branch and step <= witness <= self.last for branch, witness in self.checkpoints)

    def _step(self, step: int) -> tuple[Difference | None, int]:
        """Carries out the step that the logbook numbers `step`, and compares what it says of it. Returns the step then reached, too."""
        for microbatch in range(self.rows.batches.microbatches_at(step - 1)):
            token = int(self.rows(step - 1, microbatch, self.memory.skipped).max())
            if token >= self.run.recipe.tokenizer.vocab_size:
                return Difference(step, "token", token), step
        at = self.memory.branch, step
        logged = self.recorded.steps.get(at)
        result = self.trainer.step(step - 1, self.rows, self.memory)
        if result.decision.kind == "stop":
            return Difference(step, "loss", NOT_FINITE, (logged or {}).get("loss")), step
        if result.decision.anchor is not None:
            return None, self._go_back(result.decision.anchor, result.memory)
        self.memory = result.memory
        if logged is None:
            return Difference(step, "event"), step
        for what, value in (("loss", result.loss), ("norm", result.norm)):
            if logged[what] != value:
                return Difference(step, what, value, logged[what]), step
        before = self.recorded.fingerprints.get(at)
        if before is not None:
            self.compared += 1
            now = fingerprint(self.trainer.tensors())
            return Difference(step, "fingerprint", now, before) if now != before else None, step
        return None, step

    def _go_back(self, anchor: int, memory: Memory) -> int:
        """What the training did when it went back: the state after step `anchor`, and from there on another way."""
        if anchor < self.start:
            self.start, self.origin = 0, (0, 0)
        self._return()
        for step in range(self.start, anchor):
            self.memory = self.trainer.step(step, self.rows, self.memory).memory
        self.memory = memory
        return anchor

    def _result(self) -> Difference | None:
        """After the training's last step: whether its weights are those that the manifest records."""
        name = "weights/model.safetensors"
        record = self.run.stage_record("train")
        if record is None or name not in record["artifacts"] or self.last < self.run.recipe.train.steps:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            save_weights(self.trainer.model, Path(scratch), 0)
            same = sha256_file(Path(scratch) / "model.safetensors") == record["artifacts"][name]["sha256"]
        return None if same else Difference(self.last, "weights")

    def _tensor_that_differs(self, folder: Path) -> str | None:
        """The first tensor of a checkpoint, in the model's order, that is not the replayed one to the bit."""
        mine = self.trainer.tensors()
        theirs = {name: torch.empty_like(tensor) for name, tensor in mine.items()}
        load(folder, theirs)
        return next((name for name in mine if fingerprint({"": mine[name]}) != fingerprint({"": theirs[name]})), None)

    def _causes(self, step: int) -> list[str]:
        """What on disk is not what was recorded, and bears on a step."""
        root = self.run.path
        causes = [f"{root / 'recipe.resolved.json'} was altered: {change}" for change in self.findings.keys]
        read = {self.rows.order.locate(sample)[0] for sample in range(self.rows.sample(step - 1, 0, 0), self.rows.sample(step, 0, 0))}
        for component in sorted(read):
            name = f"tokens/train/{component}.bin"
            if name in self.findings.files:
                causes.append(f"{root / name}, which step {step} reads: {self.findings.files[name]}")
        broken = self.findings.broken
        if broken and broken.line == self.recorded.lines.get(self.recorded.final(step)):
            causes.append(f"{root / 'logbook.jsonl'}:{broken.line}, which tells of step {step}: {broken.why}")
        return causes

    def _witness(self, folder: Path, tensor: str | None, difference: Difference) -> list[str]:
        """What a checkpoint at or after the difference says of it."""
        name = folder.relative_to(self.run.path)
        if tensor is None:
            return [f"{name} holds the replayed state: it is the logbook that is wrong about step {difference.step}"]
        return [] if difference.what.startswith("tensor") else [f"{name}: the first tensor that differs is {tensor}"]
