"""Crashes in the middle of saving checkpoints, at every file operation: is there always a whole one, and is it the right one?

    python benchmarks/crash_save.py [--cases 1000] [--seed 1]

Real saves are watched, operation by operation; from what was seen, disks are made as a power cut may leave them (power_cut.py), and the
product's own code looks for a checkpoint on each. Then the kinder failures: no space for an operation, or after so many bytes; files
cut short; flipped bits. Exit status 1 if one case fails.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from openbook.files import ASIDE
from openbook.integrity import damage
from openbook.train.checkpoint import State, load, newest_first, read_state, save
from power_cut import Disk, Operation, Recorder, Returned, lay_out, watching

SAVES, KEEP = 3, 2


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of real fsyncs would only cost time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"weights": torch.randn(40, 30, generator=generator), "moments": torch.randn(7, generator=generator)}


def save_step(root: Path, step: int) -> None:
    save(root, State("key", step, step * 100, step / 2), tensors_of(step), KEEP)


def record(top: Path, saves: int = SAVES, one_save: Callable[[Path, int], None] = save_step) -> list[Operation]:
    """Every operation of so many saves into `top`/checkpoints, from an empty `top`."""
    recorder = Recorder(top)
    with watching(recorder.before):
        for step in range(1, saves + 1):
            one_save(top / "checkpoints", step)
            recorder.look()
            recorder.operations.append(Returned(step))
    return recorder.operations


def judge(root: Path, least: int) -> str | None:
    """What is wrong with the checkpoint that a training would go on from; None if it is whole, right, and of step `least` or later."""
    found = next((folder for folder in newest_first(root) if damage(folder) is None), None)
    if found is None:
        return f"no whole checkpoint, and the save of step {least} had returned" if least else None
    state = read_state(found)
    if state.step < least:
        return f"the newest is of step {state.step}, and the save of step {least} had returned"
    filled = {name: torch.zeros_like(tensor) for name, tensor in tensors_of(state.step).items()}
    load(found, filled)
    right = all(torch.equal(filled[name], tensor) for name, tensor in tensors_of(state.step).items())
    return None if right and state == State("key", state.step, state.step * 100, state.step / 2) else f"{found.name} holds other values"


def power_cuts(cases: int, seed: int, operations: Sequence[Operation]) -> list[str]:
    """One line for each case that fails. The cases go through all moments in turn, each time with other losses."""
    problems = []
    for case in range(cases):
        moment = case % (len(operations) + 1)
        disk = Disk()
        for operation in operations[:moment]:
            disk.carry_out(operation)
        with scratch() as top:
            lay_out(disk.after_power_cut(random.Random(f"{seed}:{case}")), top)
            root = top / "checkpoints"
            problem = judge(root, disk.returned)
            if problem is None and case % 10 == 0:  # what is left must not stand in the way either
                save_step(root, SAVES + 1)
                problem = judge(root, SAVES + 1)
        if problem:
            problems.append(f"power cut {case}, before operation {moment} of {len(operations)}: {problem}")
    return problems


class Full:
    """A disk that has no space for one changing operation, number `at` from 0, and counts them."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def __call__(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open" and not changing(arguments):
            return
        self.seen += 1
        if self.seen == self.at + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def changing(arguments: tuple[Any, ...]) -> bool:
    """Whether an opening is for writing, as builtins.open or os.open is told."""
    mode = arguments[1] if len(arguments) > 1 else "r"
    return bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else any(letter in mode for letter in "wax+")


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_failure(trouble: AbstractContextManager[None], what: str) -> list[str]:
    """Saves steps 1 and 2, step 3 in trouble, and step 4. What is wrong then, a line each."""
    with scratch() as top:
        root = top / "checkpoints"
        save_step(root, 1)
        save_step(root, 2)
        least = 3
        try:
            with trouble:
                save_step(root, 3)
        except OSError:
            least = 2
        left = [path.name for path in root.glob(f"*{ASIDE}")]
        problems = [judge(root, least), f"{left[0]} was left on a full disk" if left else None]
        save_step(root, 4)
        return [f"{what}: {problem}" for problem in (*problems, judge(root, 4)) if problem]


def failures(every: int = 1) -> tuple[int, list[str]]:
    """No space for any one of a save's operations (or every so many), then for more than so many bytes in a file.

    Returns the number of cases and a line for each thing that is wrong.
    """
    counter = Full(-1)
    problems = one_failure(watching(counter), "no trouble")
    numbers, sizes = range(0, counter.seen, every), range(0, 6000, 400 * every)
    for number in numbers:
        problems += one_failure(watching(Full(number)), f"no space for operation {number}")
    for size in sizes:
        problems += one_failure(files_at_most(size), f"no space after {size} bytes")
    return len(numbers) + len(sizes), problems


def rot(cases: int, seed: int) -> list[str]:
    """Cuts a file of the newest checkpoint short, or flips a bit of it. One line for each that goes unnoticed."""
    problems = []
    for case in range(cases):
        chance = random.Random(f"{seed}:{case}")
        with scratch() as root:
            save_step(root, 1)
            save_step(root, 2)
            file = chance.choice(sorted(newest_first(root)[0].iterdir()))
            content = bytearray(file.read_bytes())
            if case % 2:
                content = content[: chance.randrange(len(content))]
            else:
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            file.write_bytes(content)
            problem = judge(root, 1)
        if problem:
            problems.append(f"{'cut' if case % 2 else 'flipped'} {file.name}: {problem}")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with scratch() as top:
        operations = record(top)
    cut = power_cuts(options.cases, options.seed, operations)
    print(f"power cuts at {len(operations) + 1} moments: {options.cases - len(cut)}/{options.cases}", flush=True)
    count, failed = failures()
    print(f"failed operations and full disks: {count - len(failed)}/{count}", flush=True)
    rotten = rot(100, options.seed)
    print(f"truncated files and flipped bits: {100 - len(rotten)}/100")
    for problem in [*cut, *failed, *rotten][:20]:
        print(problem)
    sys.exit(1 if cut or failed or rotten else 0)


if __name__ == "__main__":
    main()
