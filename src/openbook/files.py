"""Files that are either whole or absent: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ASIDE = ".partial"
"""Ending of names under which work in hand is written; whatever carries it after a crash is rubbish."""


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Digest of a value's canonical JSON text."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sync_folder(path: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, which then survive a power cut: what is written inside is of no use without their names."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def aside_name(path: Path) -> Path:
    """Where what will stand at `path` is written."""
    return path.with_name(path.name + ASIDE)


@contextmanager
def written_aside(path: Path, guard: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Gives a name to write to; renames it to `path` if the block succeeds, removes it if the block fails.

    Works for a file or a folder; a folder that stood at `path` is replaced. `guard` is asked first and last, and raises
    if this process must not.
    """
    guard()
    aside = aside_name(path)
    remove(aside)
    make_folder(path.parent)
    try:
        yield aside
        for part in (*sorted(aside.rglob("*")), aside):
            if part.is_file():
                sync_file(part)
            else:
                sync_folder(part)
        guard()
        if path.is_dir():
            shutil.rmtree(path)
        aside.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            remove(aside)
        raise


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
