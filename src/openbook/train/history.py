"""What the logbook says about a training so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openbook.logbook import Attempt, Event, attempts


@dataclass(frozen=True)
class History:
    """The attempts at one training before the present one, and the newest event of each step that any of them finished."""

    earlier: list[Attempt]
    steps: dict[int, Event]

    @property
    def killed(self) -> bool:
        """Whether the attempt before the present one ended without a word."""
        return bool(self.earlier) and self.earlier[-1].end is None

    @property
    def interruptions(self) -> int:
        return sum(not attempt.finished for attempt in self.earlier)

    def lost_after(self, step: int) -> tuple[int, float]:
        """(steps, seconds) of work that went beyond a checkpoint's step and will be done again."""
        lost = [event for number, event in self.steps.items() if number > step]
        start = self.steps[step]["seconds"] if step in self.steps else 0.0
        return len(lost), max((event["seconds"] for event in lost), default=start) - start

    def contradicts(self, step: int, loss: float, norm: float) -> bool:
        """Whether a step done again gives other bits than it gave before."""
        before = self.steps.get(step)
        return before is not None and (before["loss"] != loss or before["norm"] != norm)


def history(events: Iterable[Event], key: str) -> History:
    """Reads the attempts at the training named by `key`, of which the last is the present one."""
    tries = [attempt for attempt in attempts(events) if attempt.stage == "train" and attempt.begin["key"] == key]
    steps = {event["step"]: event for attempt in tries for event in attempt.inside if event["event"] == "step"}
    return History(tries[:-1], steps)
