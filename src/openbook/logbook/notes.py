"""Notes of people: each waits as a file in the run's `notes/` until whoever writes the logbook enters it.

A training holds its run's lock for days, and a note is worth most while it is running; so a note is left where the writer looks at
every step, instead of being written past the lock.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from openbook.errors import InputError
from openbook.files import write_json

FOLDER = "notes"
FIELDS = {"id", "text", "author", "written"}


def leave(run: Path, text: str, author: str) -> Path:
    """Leaves a note for the writer of a run's logbook. Raises InputError for a note that says nothing."""
    if not text.strip():
        raise InputError('openbook logbook add RUN "": the note is empty; it should say what happened, or what was decided and why')
    name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
    path = run / FOLDER / f"{name}.json"
    written = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {"id": name, "text": text.strip(), "author": author, "written": written})
    return path


def pending(run: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The notes that wait, oldest first. A file that is no note is left alone."""
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(note, dict) and set(note) == FIELDS and all(isinstance(value, str) for value in note.values()):
            yield path, note
