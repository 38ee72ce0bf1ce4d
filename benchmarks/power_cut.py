"""What a disk may hold after a power cut, from operations that were watched on a real one.

Only POSIX's promises hold: bytes of a file that were not fsynced are there, gone, or torn; names in a folder that was not fsynced are
there or not, each for itself; a rename is whole or absent. What writes to the watched folder does not matter: threads, other processes
and C code are seen by what they leave at the next operation that Python makes.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

WATCHED = [(builtins, "open"), (io, "open")] + [
    (os, name) for name in ("open", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync", "truncate", "link", "symlink")
]
BLOCK = 512
"""Bytes that a disk writes at once; what is torn, is torn between them."""


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
