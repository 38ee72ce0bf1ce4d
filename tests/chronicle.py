"""Logbooks made by Logbook.append with a clock that moves when told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from openbook.logbook import Event, Logbook, readable


class Chronicle:
    """A training in the making: each method appends one event after some seconds."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path / "logbook.jsonl", datetime(2026, 1, 2, tzinfo=UTC)
        self.book = Logbook(self.path, lambda: self.now)
        self.done, self.worked, self.branch = 0, 0.0, 0
        self.past = {0: 0.0}

    def tell(self, event: str, after: float = 0.0, **fields: Any) -> None:
        self.now += timedelta(seconds=after)
        self.book.append(event, **fields)

    def begin(self, after: float = 0.0, world: int = 1, key: str = "k") -> None:
        self.tell("stage.begin", after, stage="train", key=key, environment={"torch": "2.13"})
        self.tell("membership", world=world, attempt=0)

    def ready(self, after: float) -> None:
        self.tell("train.begin", after, steps=100, parameters=10, device="cpu", tokens_per_step=10)

    def steps(self, count: int, seconds: float = 10.0, between: float = 0.0, exchange: float = 0.0) -> None:
        for _ in range(count):
            self.done, self.worked = self.done + 1, self.past[self.done] + seconds
            self.past[self.done] = self.worked
            facts = {"step": self.done, "tokens": 10 * self.done, "seconds": self.worked, "branch": self.branch}
            figures = {"loss": 5.0 / self.done + self.branch, "norm": 1.0, "rate": 1.0, "tokens_per_second": 1.0}
            self.tell("step", seconds + between, **facts, **figures, exchange_seconds=exchange)

    def save(self, after: float, blocking: float | None = None, **cost: Any) -> None:
        extra = {} if blocking is None else {"blocking_seconds": blocking}
        self.tell("checkpoint", after, step=self.done, path="c", bytes=1000, seconds=after, cost=cost, **extra)

    def interrupted(self, cause: str, back: int, after: float = 0.0, **fields: Any) -> None:
        lost = self.done - back
        self.tell("interruption", after, cause=cause, lost_steps=lost, lost_seconds=self.past[self.done] - self.past[back], **fields)
        self.tell("resume", step=back, checkpoint=f"checkpoints/step-{back:08d}")
        self.done = back

    def rolled_back(self, kind: str, to_step: int, after: float) -> None:
        self.tell("anomaly", kind=kind, step=self.done, score=9.5, evidence={"loss": 12.0}, worker=3, host="node-7")
        cost = {"steps": self.done - to_step, "seconds": 1.0}
        self.tell("action", after, kind="rollback", step=self.done, to_step=to_step, why="the loss did not come back", cost=cost)
        self.done, self.branch = to_step, self.branch + 1

    def end(self, after: float, **cost: Any) -> None:
        self.tell("stage.end", after, stage="train", key="k", sha256="0", summary={}, cost=cost)

    def stop(self, cause: str, after: float = 0.0, **cost: Any) -> None:
        self.tell("stage.stopped", after, stage="train", cause=cause, cost=cost)

    def events(self) -> list[Event]:
        return readable(self.path)
