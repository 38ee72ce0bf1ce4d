"""Runs openbook with faults built in, from outside: nothing of this is in the product.

    python benchmarks/chaos.py FAULT ... -- train runs/pocket --workers 2

kill@PHASE:STEP:RANK           SIGKILL in forward, backward, reduce, optimizer, save (tensors written, not renamed) or rename
hang@STEP:RANK                 SIGSTOP
nan@STEP                       a gradient of the step's first microbatch is no number
poison@STEP[:FACTOR]           loss and gradients of that step's first microbatch of data times 10,000; it goes where the data go
flip@STEP:RANK[:MICROBATCH]    one bit of one element of one microbatch's gradients
flip-always@STEP:RANK[:MICROBATCH]   the same from that step on, in every microbatch or in that one
slow@RANK:FACTOR               computing takes that many times as long
clock-back@STEP                the wall clock goes back by an hour

Steps count from 1, as in the logbook; microbatches and ranks from 0. A fault happens at its step or the first chance after it, and, but
for poison, flip-always and slow, once in a run directory: RUN/chaos/ keeps a mark, so that a worker that starts again lives. Workers
that openbook starts have the same faults.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import torch

POINTS = {
    "step": ["openbook.train.step:Trainer.step"],
    "microbatch": ["openbook.train.step:Trainer._microbatch"],
    "rows": ["openbook.tokens.rows:Rows.__call__"],
    "reduce": ["openbook.train.workers:Group.combine", "openbook.train.workers:Solo.combine"],
    "optimizer": ["openbook.train.optimizer:Optimizer.step"],
    "aside": ["openbook.files:written_aside"],
    "rename": ["os:replace"],
    "start": ["openbook.train.launch:_start"],
}
"""What of the product is taken hold of, by name: the one thing here to change when the product does."""
USERS = ("openbook.cli", "openbook.pipeline", "openbook.train.build", "openbook.train.follow", "openbook.train.launch")
"""Modules to import before anything is replaced, because they hold functions of others under names of their own."""

NUMBER, RANK = r"(?P<step>\d+)", r"(?P<rank>\d+)"
FORMS = (
    rf"(?P<kind>kill)@(?P<phase>forward|backward|reduce|optimizer|save|rename):{NUMBER}:{RANK}",
    rf"(?P<kind>hang)@{NUMBER}:{RANK}",
    rf"(?P<kind>nan|clock-back)@{NUMBER}",
    rf"(?P<kind>poison)@{NUMBER}(:(?P<factor>[\d.e]+|nan|inf))?",
    rf"(?P<kind>flip|flip-always)@{NUMBER}:{RANK}(:(?P<microbatch>\d+))?",
    rf"(?P<kind>slow)@{RANK}:(?P<factor>[\d.]+)",
)
AN_HOUR = 3600.0


@dataclass(frozen=True)
class Fault:
    text: str
    kind: str
    phase: str | None = None
    step: int = 0
    rank: int | None = None
    factor: float = 1e4
    microbatch: int | None = None


def fault(text: str) -> Fault:
    for form in FORMS:
        if match := re.fullmatch(form, text):
            said = {key: value for key, value in match.groupdict().items() if value is not None}
            kinds = {"step": int, "rank": int, "microbatch": int, "factor": float}
            return Fault(text, **{key: kinds.get(key, str)(value) for key, value in said.items()})
    sys.exit(f"chaos: {text}: no such fault\n\n{__doc__}")


def take_hold(point: str, around: Callable[..., Any]) -> None:
    """Calls `around(real, *arguments)` instead of the real function, wherever in openbook it is known."""
    for place in POINTS[point]:
        module, _, path = place.partition(":")
        owner = importlib.import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        real = getattr(owner, name)
        everywhere(owner, name, real, wraps(real)(lambda *arguments, real=real, **options: around(real, *arguments, **options)))


def everywhere(owner: Any, name: str, real: Any, replacement: Any) -> None:
    setattr(owner, name, replacement)
    for module in [module for key, module in sys.modules.items() if key.split(".")[0] == "openbook"]:
        for held in [key for key, value in vars(module).items() if value is real]:
            setattr(module, held, replacement)


class Chaos:
    """The faults of one process, and where in the training it is."""

    def __init__(self, faults: Sequence[Fault], run: Path) -> None:
        self.faults, self.marks = faults, run / "chaos"
        self.rank = int(os.environ.get("RANK", "0"))
        self.step = self.microbatch = 0
        self.poisoned: dict[bytes, float] = {}

    def install(self) -> None:
        for module in USERS:
            importlib.import_module(module)
        for point in POINTS:
            take_hold(point, getattr(self, f"around_{point}"))

    def due(self, kind: str, step: int, phase: str | None = None) -> bool:
        """Whether a fault that happens once happens now; from then on it has happened."""
        for one in self.faults:
            if (one.kind, one.phase) == (kind, phase) and one.rank in (None, self.rank) and step >= one.step and self.here(one):
                mark = self.marks / one.text
                if not mark.exists():
                    mark.parent.mkdir(parents=True, exist_ok=True)
                    mark.touch()
                    return True
        return False

    def here(self, one: Fault) -> bool:
        return one.microbatch in (None, self.microbatch)

    def kill(self, phase: str, step: int) -> None:
        if self.due("kill", step, phase):
            os.kill(os.getpid(), signal.SIGKILL)

    def around_start(self, real: Callable[..., Any], command: Sequence[str], *rest: Any) -> Any:
        texts = [one.text for one in self.faults]
        return real([sys.executable, __file__, *texts, "--", *command[command.index("openbook.cli") + 1 :]], *rest)

    def around_step(self, real: Callable[..., Any], trainer: Any, step: int, *rest: Any) -> Any:
        self.step = step + 1
        if self.due("hang", self.step):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.due("clock-back", self.step):
            turn_clock_back()
        return real(trainer, step, *rest)

    def around_rows(self, real: Callable[..., Any], rows: Any, step: int, microbatch: int) -> Any:
        found = real(rows, step, microbatch)
        self.microbatch = microbatch
        position, row = divmod(rows.sample(step, microbatch, 0), rows.microbatches * rows.microbatch_rows)
        for one in self.faults:
            if one.kind == "poison" and (position + 1, row) == (one.step, 0):
                self.poisoned[found.tobytes()] = one.factor
        return found

    def around_microbatch(self, real: Callable[..., Any], trainer: Any, rows: torch.Tensor, *rest: Any) -> Any:
        self.kill("forward", self.step)
        hooks = [parameter.register_hook(lambda _: self.kill("backward", self.step)) for parameter in trainer.model.parameters()]
        begin = time.perf_counter()
        leaf = real(trainer, rows, *rest)
        seconds = time.perf_counter() - begin
        for hook in hooks:
            hook.remove()
        for one in self.faults:
            if one.kind == "slow" and one.rank == self.rank:
                time.sleep(seconds * (one.factor - 1))
        self.spoil(leaf, self.poisoned.get(rows.cpu().numpy().tobytes()))
        return leaf

    def spoil(self, leaf: dict[str, torch.Tensor], factor: float | None) -> None:
        """Changes a microbatch's gradients (and loss) in place."""
        if factor is not None:
            torch._foreach_mul_(list(leaf.values()), factor)
        target = [value for name, value in leaf.items() if name != "loss"][-1].view(-1)  # the head's: every row takes part in it
        if self.microbatch == 0 and self.due("nan", self.step):
            target[0] = torch.nan
        always = [one for one in self.faults if one.kind == "flip-always" and one.rank == self.rank and self.step >= one.step]
        if self.due("flip", self.step) or any(self.here(one) for one in always):
            target.view(torch.int32)[target.abs().argmax()] ^= 1 << 20  # in the fraction: wrong by a few per cent, and no spike

    def around_reduce(self, real: Callable[..., Any], *arguments: Any) -> Any:
        self.kill("reduce", self.step)
        return real(*arguments)

    def around_optimizer(self, real: Callable[..., Any], *arguments: Any) -> Any:
        real(*arguments)
        self.kill("optimizer", self.step)

    def around_aside(self, real: Callable[..., Any], path: Path, *rest: Any) -> Any:
        if match := re.match(r"step-(\d+)", path.parent.name):  # a file inside a checkpoint that is being written
            self.kill("save", int(match[1]))
        return real(path, *rest)

    def around_rename(self, real: Callable[..., Any], source: Any, target: Any, **options: Any) -> None:
        if match := re.fullmatch(r"step-(\d+)", Path(target).name):
            self.kill("rename", int(match[1]))
        real(source, target, **options)


def turn_clock_back() -> None:
    class Back(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(seconds=AN_HOUR)

    real = time.time
    everywhere(time, "time", real, lambda: real() - AN_HOUR)
    for module in [module for key, module in sys.modules.items() if key.split(".")[0] == "openbook"]:
        if vars(module).get("datetime") is datetime:
            module.datetime = Back  # type: ignore[attr-defined]


def run_folder(arguments: Sequence[str]) -> Path:
    """The run directory of an openbook command: --out, or the first argument that is a folder."""
    if "--out" in arguments[:-1]:
        return Path(arguments[arguments.index("--out") + 1])
    found = next((Path(argument) for argument in arguments if Path(argument).is_dir()), None)
    return found or sys.exit("chaos: the openbook command names no run directory; give --out or an existing one")


def main(arguments: Sequence[str]) -> None:
    if "--" not in arguments:
        sys.exit(__doc__)
    cut = arguments.index("--")
    command = list(arguments[cut + 1 :])
    Chaos([fault(text) for text in arguments[:cut]], run_folder(command)).install()
    from openbook.cli import main as openbook

    sys.argv = ["openbook", *command]
    openbook()


if __name__ == "__main__":
    main(sys.argv[1:])
