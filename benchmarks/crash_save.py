"""Crashes in the middle of saving checkpoints, at every file operation: is there always a whole one, and is it the right one?

    python benchmarks/crash_save.py [--cases 1000] [--seed 1]

Real saves are watched, operation by operation. From what was seen, disks are made as a power cut may leave them where only POSIX's
promises hold: bytes of a file that were not fsynced are there, gone, or torn; names in a folder that was not fsynced are there or not,
each for itself; a rename is whole or absent. The product's own code then looks for a checkpoint on each. Then the kinder failures:
an error from every operation, a disk that is full after so many bytes, truncated files, flipped bits. Exit status 1 if one case fails.

What is watched is a folder, and what writes to it does not matter: threads, other processes and C code are seen by what they leave at
the next operation that Python makes.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import os
import random
import resource
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from openbook.files import ASIDE
from openbook.integrity import damage
from openbook.train.checkpoint import State, load, newest_first, read_state, save

SAVES, KEEP = 3, 2
WATCHED = [(builtins, "open"), (io, "open")] + [
    (os, name) for name in ("open", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync", "truncate", "link", "symlink")
]
BLOCK = 512
"""Bytes that a disk writes at once; what is torn, is torn between them."""


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


# Operations, as they change what a disk holds. A folder or file is a number; a name is (number of its folder, text).

Name = tuple[int, str]
TOP = 0


@dataclass(frozen=True)
class Names:
    """Names that come (to a number) and go (None), all at once."""

    changes: dict[Name, int | None]


@dataclass(frozen=True)
class Bytes:
    file: int
    content: bytes


@dataclass(frozen=True)
class Sync:
    thing: int


@dataclass(frozen=True)
class Returned:
    """The save of this step is over, as its caller sees it."""

    step: int


Operation = Names | Bytes | Sync | Returned


@dataclass
class Tree:
    """What a folder holds at a moment."""

    names: dict[Name, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)


class Recorder:
    """Sees a folder before every operation, and notes what has changed since the one before. Inode numbers are used again by file
    systems once they are free; the numbers given here are not."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.operations: list[Operation] = []
        self.tree = Tree()
        self.numbers: dict[int, int] = {top.stat().st_ino: TOP}
        self.given = 1
        self.lock = threading.RLock()

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        with self.lock:
            self.look()
            if name == "fsync":
                number = self.numbers.get(os.fstat(arguments[0]).st_ino)
                if number is not None:
                    self.operations.append(Sync(number))

    def look(self) -> None:
        now, numbers = Tree(), {self.top.stat().st_ino: TOP}
        self._scan(self.top, TOP, now, numbers)
        self.operations += changes(self.tree, now)
        self.tree, self.numbers = now, numbers

    def _scan(self, folder: Path, number: int, tree: Tree, numbers: dict[int, int]) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            facts = entry.stat(follow_symlinks=False)
            known = self.numbers.get(facts.st_ino)
            if known is None:
                known, self.given = self.given, self.given + 1
            numbers[facts.st_ino] = tree.names[number, entry.name] = known
            if stat.S_ISDIR(facts.st_mode):
                self._scan(Path(entry.path), known, tree, numbers)
            else:
                with REAL_OPEN(entry.path, "rb") as file:
                    tree.contents[known] = file.read()


REAL_OPEN = io.open


def changes(old: Tree, new: Tree) -> Iterator[Operation]:
    """What leads from one to the other: a name whose number is also lost elsewhere was renamed, in one operation."""
    gone = {name: number for name, number in old.names.items() if new.names.get(name) != number}
    come = {name: number for name, number in new.names.items() if old.names.get(name) != number}
    left = {number: name for name, number in gone.items()}
    for name, number in come.items():
        if number not in left:
            yield Names({name: number})
    for number, content in new.contents.items():
        if old.contents.get(number, b"") != content:
            yield Bytes(number, content)
    for name, number in come.items():
        if number in left:
            yield Names({left[number]: None, name: number})
            del gone[left[number]]
    # Names inside a folder go before the folder's own; a name that was taken over has not gone.
    yield from (Names({name: None}) for name in sorted(gone, reverse=True) if name not in new.names)


@contextmanager
def watching(before: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls `before` with the name and arguments of every file operation that Python is about to make."""

    def wrapped(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            before(name, (*arguments, *options.values()))
            return real(*arguments, **options)

        return operation

    patches = [patch.object(module, name, wrapped(getattr(module, name), name)) for module, name in WATCHED]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def record(top: Path, saves: int = SAVES, one_save: Callable[[Path, int], None] = save_step) -> list[Operation]:
    """Every operation of so many saves into `top`/checkpoints, from an empty `top`."""
    recorder = Recorder(top)
    with watching(recorder.before):
        for step in range(1, saves + 1):
            one_save(top / "checkpoints", step)
            recorder.look()
            recorder.operations.append(Returned(step))
    return recorder.operations


@dataclass
class Disk:
    """What is safe after some operations, and what is under way: names and contents in the order in which they came."""

    names: dict[Name, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    moving: list[Names] = field(default_factory=list)
    written: dict[int, list[bytes]] = field(default_factory=dict)
    returned: int = 0

    def carry_out(self, operation: Operation) -> None:
        match operation:
            case Names():
                self.moving.append(operation)
            case Bytes(file, content):
                self.written.setdefault(file, []).append(content)
            case Sync(thing):
                if thing in self.written:
                    self.contents[thing] = self.written.pop(thing)[-1]
                here = [move for move in self.moving if any(folder == thing for folder, _ in move.changes)]
                self.moving = [move for move in self.moving if move not in here]
                for move in here:
                    apply(self.names, move)
            case Returned(step):
                self.returned = step

    def after_power_cut(self, chance: random.Random) -> Tree:
        """One of the states that the disk may be found in."""
        names = dict(self.names)
        for move in surviving(self.moving, chance):
            apply(names, move)
        contents = dict(self.contents)
        for file, versions in self.written.items():
            contents[file] = torn([contents.get(file, b""), *versions], chance)
        return Tree(names, contents)


def apply(names: dict[Name, int], move: Names) -> None:
    for name, number in move.changes.items():
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


def surviving(moves: Sequence[Names], chance: random.Random) -> list[Names]:
    """Those changes of names that reached the disk: up to some moment, as with a journal, or any of them."""
    if chance.random() < 0.5:
        return list(moves[: chance.randint(0, len(moves))])
    share = chance.random()
    return [move for move in moves if chance.random() < share]


def torn(versions: Sequence[bytes], chance: random.Random) -> bytes:
    """What may be left of a file that was not fsynced: a version of it, a part, or blocks of it among zeros or what was there before."""
    content = chance.choice(versions)
    kind = chance.choice(("whole", "cut", "blocks"))
    if kind == "cut":
        return content[: chance.randint(0, len(content))]
    if kind == "blocks":
        before = versions[0].ljust(len(content), b"\0")
        starts = range(0, len(content), BLOCK)
        return b"".join((content if chance.random() < 0.7 else before)[at : min(at + BLOCK, len(content))] for at in starts)
    return content


def lay_out(tree: Tree, top: Path) -> None:
    """Makes the files; what no name leads to is lost."""
    paths = {TOP: top}
    waiting = dict(tree.names)
    while reachable := [name for name in waiting if name[0] in paths]:
        for name in reachable:
            number = waiting.pop(name)
            path = paths[name[0]] / name[1]
            if number in tree.contents:
                path.write_bytes(tree.contents[number])
            else:
                path.mkdir()
                paths[number] = path


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
