"""What the logbook says about a training so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openbook.logbook import Attempt, Event, attempts


@dataclass(frozen=True)
class History:
    """The attempts at one training before the present one, and the newest event of each step that they finished, by (branch, step)."""

    earlier: list[Attempt]
    steps: dict[tuple[int, int], Event]

    @property
    def killed(self) -> bool:
        """Whether the attempt before the present one ended without a word."""
        return bool(self.earlier) and self.earlier[-1].end is None

    @property
    def interruptions(self) -> int:
        return sum(not attempt.finished for attempt in self.earlier)

    @property
    def futile(self) -> int:
        """How many attempts in a row, up to the last one, have ended without a checkpoint."""
        count = 0
        for attempt in reversed(self.earlier):
            if attempt.finished or any(event["event"] == "checkpoint" for event in attempt.inside):
                break
            count += 1
        return count

    @property
    def hours(self) -> float:
        """How long all attempts have been at work."""
        return sum(max(0.0, attempt.seconds or 0.0) for attempt in self.earlier) / 3600.0  # a clock may have jumped back

    def lost_after(self, step: int) -> tuple[int, float]:
        """(steps, seconds) of work on the newest branch that went beyond a checkpoint's step and will be done again."""
        newest = max((branch for branch, _ in self.steps), default=0)
        seconds = {number: event["seconds"] for (branch, number), event in self.steps.items() if branch == newest}
        lost = [number for number in seconds if number > step]
        start = seconds.get(step, 0.0)
        return len(lost), max((seconds[number] for number in lost), default=start) - start

    def contradicts(self, branch: int, step: int, loss: float, norm: float) -> bool:
        """Whether a step done again gives other bits than it gave before."""
        before = self.steps.get((branch, step))
        return before is not None and (before["loss"] != loss or before["norm"] != norm)


def history(events: Iterable[Event], key: str) -> History:
    """Reads the attempts at the training named by `key`, of which the last is the present one."""
    tries = [attempt for attempt in attempts(events) if attempt.stage == "train" and attempt.begin["key"] == key]
    steps = {(event["branch"], event["step"]): event for attempt in tries for event in attempt.inside if event["event"] == "step"}
    return History(tries[:-1], steps)


def cause_of(past: History, told: str) -> tuple[str, str]:
    """Why the attempt before ended, in one word and in full. `told`: what the supervisor saw of it, as "cause: detail"."""
    cause, _, detail = told.partition(": ")
    if cause:
        return cause, detail
    if past.killed:
        return "killed", "without a word"
    fate = past.earlier[-1].fate
    kind, _, _ = fate.partition(":")
    words = {"LostWorker": "lost-worker", "NotFinite": "not-finite", "Disagreement": "disagreement", "OSError": "disk-full"}
    return "stopped" if fate.startswith("SIG") else words.get(kind, "unknown"), fate
