"""The logbook: one JSON object a line, each carrying the SHA-256 of the line before.

A line is written whole or, after a crash, torn; a torn last line is cut off when the logbook is opened again, and that is recorded.
Any other change to the past breaks the chain at the line after it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openbook.files import canonical_json
from openbook.logbook.notes import pending

START = "0" * 64
"""What the first line carries in place of the hash of the line before."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


class Logbook:
    """Appends events. One writer at a time: the run's lock sees to that, and `guard`, which raises if this writer no longer is the one."""

    def __init__(self, path: Path, now: Callable[[], datetime] = utc_now, guard: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._now, self._guard = now, guard
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        self._previous = _digest(lines[-1]) if lines else START
        self._file = path.open("ab")
        if len(whole) < len(content):
            self._file.truncate(len(whole))
            self.append("logbook.repaired", torn_bytes=len(content) - len(whole))
        self.take_notes(whole)

    def append(self, event: str, **fields: Any) -> None:
        """Adds one event; it reaches the operating system at once and the disk at the next `sync`."""
        self._guard()
        record = {"time": self._now().isoformat(timespec="milliseconds"), "event": event, **fields, "previous": self._previous}
        line = canonical_json(record).encode()
        self._file.write(line + b"\n")
        self._file.flush()
        self._previous = _digest(line)

    def take_notes(self, already: bytes = b"") -> None:
        """Enters the notes that wait beside the logbook, and removes them. Costs one look into a folder.

        `already` is what the logbook held when it was opened: a note that a killed process had entered, but not removed, is in it.
        """
        for path, note in pending(self.path.parent):
            if f'"id":"{note["id"]}"'.encode() not in already:
                self.append("note", **note)
                self.sync()
            path.unlink(missing_ok=True)

    def sync(self) -> None:
        self._guard()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Logbook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """All whole events, oldest first; nothing if there is no logbook."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


@dataclass(frozen=True)
class Broken:
    """The first place where a logbook contradicts itself."""

    line: int
    why: str


def check(path: Path) -> Broken | None:
    """Follows the chain from the first line to the last whole one; None if it holds."""
    previous = START
    if not path.is_file():
        return Broken(1, "is missing")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # a line that is being written, or was when the process was killed
            line = line.rstrip(b"\n")
            try:
                carried = json.loads(line)["previous"]
            except (ValueError, KeyError, TypeError):
                return Broken(number, "is not a logbook line")
            if carried != previous:
                return Broken(
                    number - 1 if number > 1 else 1, "was changed after the next line was written" if number > 1 else "is not a first line"
                )
            previous = _digest(line)
    return None
