"""Progress on standard error: a live line in a terminal, a plain line now and then elsewhere. Standard output stays free for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_LINE_EVERY = 15.0
"""Seconds between lines where there is no terminal."""


class Bar(Protocol):
    def update(self, done: float, note: str = "") -> None: ...


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


class _Plain:
    def __init__(self, title: str, total: float) -> None:
        self.title, self.total = title, total
        self.last = time.monotonic()
        self.first: tuple[float, float] | None = None
        """Where and when the work was first heard of: a resumed one does not begin at nothing."""

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        self.first = self.first or (done, now)
        if now - self.last >= PLAIN_LINE_EVERY:
            self.last = now
            say(f"  {self.title} {done / self.total:4.0%}  {self._left(done, now)}{note}".rstrip())

    def _left(self, done: float, now: float) -> str:
        """The time that is left at the pace so far."""
        start, since = self.first or (done, now)
        if done <= start:
            return ""
        seconds = round((self.total - done) * (now - since) / (done - start))
        return f"{seconds // 60}:{seconds % 60:02} left  "


class _Live:
    def __init__(self, progress: object, task: object) -> None:
        self.progress, self.task = progress, task

    def update(self, done: float, note: str = "") -> None:
        self.progress.update(self.task, completed=done, note=note)  # type: ignore[attr-defined]


@contextmanager
def track(title: str, total: float) -> Iterator[Bar]:
    """A bar from 0 to `total`, in any unit."""
    if not sys.stderr.isatty():
        yield _Plain(title, max(total, 1e-9))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("  {task.description}"),
        BarColumn(24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Live(progress, progress.add_task(title, total=max(total, 1e-9), note=""))
