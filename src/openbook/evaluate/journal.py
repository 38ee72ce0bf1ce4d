"""Questions put to a model, a unit at a time: what is answered is on disk, and is never asked again.

While NAME is at work its records are appended to NAME.items.jsonl, a line each, after a first line that says what they are a function
of. A process that dies leaves whole lines and perhaps one torn one. When all are there, NAME.json takes their place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

from openbook.files import make_folder
from openbook.progress import track

UNIT = 32
"""Questions asked together: what a crash can cost."""

Record = dict[str, Any]


class Numbered(Protocol):
    """A question; its record has the same two numbers."""

    @property
    def item(self) -> int: ...

    @property
    def draw(self) -> int: ...


Asked = TypeVar("Asked", bound=Numbered)


def collect(
    name: str, label: str, facts: dict[str, Any], asked: Sequence[Asked], answer: Callable[[Sequence[Asked]], list[Record]], out: Path
) -> dict[tuple[int, int], Record]:
    """Records by (draw, item): those on disk that the same facts made, and, by `answer`, those that are missing, in the order given."""
    done = _finished(out, name, facts)
    missing = [question for question in asked if (question.draw, question.item) not in done]
    with _journal(out, name, facts, done) as journal, track(label, len(asked)) as bar:
        for start in range(0, len(missing), UNIT):
            bar.update(len(asked) - len(missing) + start)
            for record in answer(missing[start : start + UNIT]):
                done[record["draw"], record["item"]] = record
                journal.write(_line(record))
            journal.flush()
    return done


def finish(name: str, out: Path) -> None:
    """To be called when NAME.json is there."""
    (out / f"{name}.items.jsonl").unlink(missing_ok=True)


def _finished(out: Path, name: str, facts: dict[str, Any]) -> dict[tuple[int, int], Record]:
    """What an earlier call left: of a whole result, of one at work, or of both where a crash came between."""
    records: list[Record] = []
    try:
        whole = json.loads((out / f"{name}.json").read_bytes())
        if all(whole.get(key) == value for key, value in facts.items()):
            records += whole["items"]
    except (FileNotFoundError, ValueError):
        pass
    journal = out / f"{name}.items.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.is_file() else []  # what follows the last line end is torn
    if lines and json.loads(lines[0]) == facts:
        records += [json.loads(line) for line in lines[1:]]
    return {(record["draw"], record["item"]): record for record in records}


def _line(part: dict[str, Any]) -> str:
    """With keys in their own order: a result that was interrupted is the same file, to the byte."""
    return json.dumps(part, ensure_ascii=False) + "\n"


@contextmanager
def _journal(out: Path, name: str, facts: dict[str, Any], done: dict[tuple[int, int], Record]) -> Iterator[TextIO]:
    """The file to append to, begun anew with what is known: a torn line, or other facts' records, do not stay."""
    make_folder(out)
    path = out / f"{name}.items.jsonl"
    aside = path.with_suffix(".partial")
    aside.write_text("".join(map(_line, (facts, *done.values()))), encoding="utf-8")
    aside.replace(path)
    with path.open("a", encoding="utf-8") as file:
        yield file
