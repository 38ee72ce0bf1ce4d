"""Git repositories at one commit: every file's text, with the licence that the repository states for it.

The work tree is not looked at, and nothing of the repository is run: files come from `git cat-file`, which knows no hooks or filters.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from openbook.corpus.raw import RawText, too_long
from openbook.corpus.sources import licences
from openbook.corpus.sources.files import is_wanted, locate, read_opened
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import COMPRESSIONS, READ_ERRORS, Counted, bare, unpack
from openbook.corpus.sources.web import cache_folder
from openbook.errors import InputError, OpenbookError
from openbook.files import make_folder
from openbook.recipe_corpus import GitComponent

SAFE = {
    "GIT_TERMINAL_PROMPT": "0",  # a question would wait for ever
    "GIT_NO_LAZY_FETCH": "1",  # reading a hostile partial clone must not start its remote's programs
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_CONFIG_NOSYSTEM": "1",
    "LC_ALL": "C",
}
LONGEST_LICENCE = 300_000
HEAD = 4096
"""Bytes at a file's beginning in which it may state a licence of its own."""


@dataclass(frozen=True)
class Blob:
    """A file of the commit: its path, the name of its content, its size in bytes."""

    path: str
    name: str
    size: int


def repository(component: GitComponent, folder: Path, where: str) -> Path:
    """A folder with the commit in it: the local repository, or a copy in the cache. Raises InputError if the commit is not to be had."""
    remote = "://" in component.repository or component.repository.startswith("git@")
    if not remote:
        path = locate(component.repository, folder, f"{where}.repository")
    else:
        path = cache_folder() / "git" / hashlib.sha256(component.repository.encode()).hexdigest()[:32]
        if not _has(path, component.commit):
            make_folder(path)
            _git(path, where, "init", "--quiet", "--bare")
            _git(path, where, "fetch", "--quiet", "--depth", "1", "--no-tags", "--", component.repository, component.commit)
    if not _has(path, component.commit):
        raise InputError(f"{where}.commit = {component.commit!r}: {component.repository} has no such commit")
    return path


def _has(path: Path, commit: str) -> bool:
    command = _command(path, "cat-file", "-e", f"{commit}^{{commit}}")
    return path.is_dir() and subprocess.run(command, env=os.environ | SAFE, capture_output=True, check=False).returncode == 0


def _command(path: Path, *arguments: str) -> list[str]:
    return ["git", "-c", f"safe.directory={path}", "-C", str(path), *arguments]


def _git(path: Path, where: str, *arguments: str) -> bytes:
    try:
        return subprocess.run(_command(path, *arguments), env=os.environ | SAFE, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise InputError(f"{where}: git is not installed") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{where}: git {arguments[0]} failed: {last}") from None


def blobs(path: Path, commit: str, where: str) -> list[Blob]:
    """The plain files of a commit in by-hash order; links and submodules are none."""
    found = []
    for line in _git(path, where, "ls-tree", "-r", "-z", "-l", "--full-tree", commit).split(b"\0"):
        head, tab, name = line.partition(b"\t")
        if tab and head.startswith(b"100"):
            _, _, digest, size = head.split()
            found.append(Blob(name.decode("utf-8", "surrogateescape"), digest.decode(), int(size)))
    return sorted(found, key=lambda blob: hashlib.sha256(blob.path.encode("utf-8", "surrogateescape")).digest())


def read_repository(component: GitComponent, folder: Path, where: str, limit: int) -> Iterator[RawText]:
    """Every text of the commit whose path the component includes. Raises InputError if there is none."""
    path = repository(component, folder, where)
    every = blobs(path, component.commit, where)
    wanted = [blob for blob in every if any(fnmatchcase(blob.path, pattern) for pattern in component.include)]
    wanted = [blob for blob in wanted if is_wanted(blob.path, component)]
    if not wanted:
        raise InputError(f"{where}: no file of {component.place} matches include = {component.include} and format = {component.format!r}")
    name = component.repository.rstrip("/").removesuffix(".git").rsplit("/", 1)[-1]
    with _contents(path) as contents:
        stated = _licences(every, contents)
        for blob in wanted:
            origin = f"{name}@{component.commit[:12]}:{blob.path.encode(errors='replace').decode()}"
            yield from contents.texts(blob, origin, component, limit, _of_folder(blob.path, stated))


def _licences(every: list[Blob], contents: _Contents) -> dict[PurePosixPath, str | None]:
    """What the licence files of each folder state together."""
    found: dict[PurePosixPath, list[str | None]] = {}
    for blob in sorted(every, key=lambda blob: blob.path):
        path = PurePosixPath(blob.path)
        if licences.is_licence_file(path.name) and blob.size <= LONGEST_LICENCE:
            found.setdefault(path.parent, []).append(licences.from_text(contents.whole(blob).decode("utf-8", "replace")))
    return {folder: licences.together(stated) for folder, stated in found.items()}


def _of_folder(path: str, stated: dict[PurePosixPath, str | None]) -> str | None:
    """The licence of the nearest folder above a file that states one."""
    return next((stated[folder] for folder in PurePosixPath(path).parents if folder in stated), None)


class _Contents:
    """A `git cat-file --batch` that is asked for one file after the other."""

    def __init__(self, ask: IO[bytes], answer: IO[bytes]) -> None:
        self._ask, self._answer = ask, answer

    def _begin(self, blob: Blob) -> None:
        self._ask.write(blob.name.encode() + b"\n")
        self._ask.flush()
        head = self._answer.readline().split()
        if len(head) != 3 or int(head[2]) != blob.size:
            raise OpenbookError(f"git: {blob.path} ({blob.name}) cannot be read; `git fsck` tells more")

    def whole(self, blob: Blob) -> bytes:
        self._begin(blob)
        return self._answer.read(blob.size + 1)[:-1]

    def texts(self, blob: Blob, origin: str, component: GitComponent, limit: int, licence: str | None) -> Iterator[RawText]:
        """The texts of one file."""
        if component.format == "text" and blob.size > limit:
            yield too_long(origin, blob.size, limit)
            return
        self._begin(blob)
        rest = _Slice(self._answer, blob.size)
        try:
            yield from _read(cast("BinaryIO", io.BufferedReader(rest)), blob, origin, component, limit, licence)
        except READ_ERRORS as error:
            yield RawText(origin, bytes=blob.size, problem=("unreadable", (str(error) or type(error).__name__).splitlines()[0]))
        rest.drain()


def _read(file: BinaryIO, blob: Blob, origin: str, component: GitComponent, limit: int, licence: str | None) -> Iterator[RawText]:
    name = blob.path.rsplit("/", 1)[-1]
    counted = unpack(file, name, blob.size) if name.endswith(COMPRESSIONS) else Counted(file)
    stream = io.BufferedReader(counted)
    own = licences.declared(stream.peek(HEAD)[:HEAD]) or licence
    for raw in read_opened(Opened(origin, bare(name), stream, component, limit)):
        yield raw if raw.problem or raw.licence else replace(raw, licence=own)


class _Slice(io.RawIOBase):
    """The next bytes of a stream, with the line end that follows them."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def drain(self) -> None:
        while self._left > 0 and (data := self._file.read(min(1 << 20, self._left))):
            self._left -= len(data)
        self._file.read(1)


@contextmanager
def _contents(path: Path) -> Iterator[_Contents]:
    command = _command(path, "cat-file", "--batch")
    with subprocess.Popen(command, env=os.environ | SAFE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            yield _Contents(process.stdin, process.stdout)
        finally:
            process.kill()
