"""What the logbook says about a training so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class History:
    """The attempts at one training. `steps` holds the newest event of each step that was ever finished."""

    steps: dict[int, dict[str, Any]]
    attempts: int
    killed: bool
    """Whether the attempt before the present one ended without a word."""

    def lost_after(self, step: int) -> tuple[int, float]:
        """(steps, seconds) of work that went beyond a checkpoint's step and will be done again."""
        lost = [event for number, event in self.steps.items() if number > step]
        start = self.steps[step]["seconds"] if step in self.steps else 0.0
        return len(lost), max((event["seconds"] for event in lost), default=start) - start

    def contradicts(self, step: int, loss: float, norm: float) -> bool:
        """Whether a step done again gives other bits than it gave before."""
        before = self.steps.get(step)
        return before is not None and (before["loss"] != loss or before["norm"] != norm)


def history(events: Iterable[dict[str, Any]], key: str) -> History:
    """Reads the attempts at the training named by `key`, of which the last is the present one."""
    steps: dict[int, dict[str, Any]] = {}
    said_farewell: list[bool] = []
    ours = False
    for event in events:
        kind = event["event"]
        if kind == "stage.begin":
            ours = event["stage"] == "train" and event["key"] == key
            if ours:
                said_farewell.append(False)
        elif ours and kind in ("stage.end", "stage.stopped"):
            said_farewell[-1] = True
        elif ours and kind == "step":
            steps[event["step"]] = event
    return History(steps, len(said_farewell), killed=len(said_farewell) > 1 and not said_farewell[-2])
