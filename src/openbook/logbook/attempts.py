"""The attempts at a run's stages, as the logbook tells them: when each began, how it ended, what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Event = dict[str, Any]


VISITORS = {"note", "verify", "recipe", "recipe.changed", "logbook.repaired"}
"""Events that others write between attempts: no sign of life of the attempt before them."""


def seconds_between(start: Event | None, end: Event | None) -> float | None:
    """By the machine's clock; none of it if the clock was put back meanwhile."""
    try:
        return max(0.0, (datetime.fromisoformat(end["time"]) - datetime.fromisoformat(start["time"])).total_seconds())  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Attempt:
    """One time that a stage was begun. `end` is its last word; it has none if it was killed, or if it is `newest` and still at work."""

    stage: str
    begin: Event
    inside: list[Event]
    end: Event | None
    newest: bool = False

    @property
    def finished(self) -> bool:
        return self.end is not None and self.end["event"] == "stage.end"

    @property
    def last(self) -> Event:
        own = (event for event in reversed(self.inside) if event["event"] not in VISITORS)
        return self.end or next(own, self.begin)

    @property
    def seconds(self) -> float | None:
        """Wall time: metered where the attempt ended with a word, else from the first to the last event."""
        metered = (self.end or {}).get("cost") or {}
        return metered.get("seconds", seconds_between(self.begin, self.last))

    @property
    def cost(self) -> dict[str, Any]:
        """What its meter said at its end or, if it was killed, with its last checkpoint."""
        metered = [event["cost"] for event in (*self.inside, self.end or {}) if event.get("cost")]
        return metered[-1] if metered else {}

    @property
    def fate(self) -> str:
        if self.finished:
            return "finished"
        if self.end:
            return str(self.end.get("cause", "stopped"))
        return "no word since: at work, or killed" if self.newest else "ended without a word"


def attempts(events: Iterable[Event]) -> list[Attempt]:
    """Every stage that was begun, in order. One process writes a logbook at a time, so attempts never overlap."""
    found: list[Attempt] = []
    begin: Event | None = None
    inside: list[Event] = []
    for event in events:
        kind = event["event"]
        if begin is not None and kind in ("stage.begin", "stage.end", "stage.stopped"):
            found.append(Attempt(str(begin["stage"]), begin, inside, None if kind == "stage.begin" else event))
            begin = None
        elif begin is not None:
            inside.append(event)
        if kind == "stage.begin":
            begin, inside = event, []
    if begin is not None:
        found.append(Attempt(str(begin["stage"]), begin, inside, None, newest=True))
    return found


@dataclass
class Spent:
    """A sum of what meters said; the peak is the highest, the rest adds up. `phases` are seconds, CPU seconds and joules by phase."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    joules: dict[str, float] = field(default_factory=dict)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, cost: dict[str, Any]) -> None:
        self.seconds += cost.get("seconds") or 0.0
        self.cpu_seconds += cost.get("cpu_seconds") or 0.0
        self.peak_bytes = max(self.peak_bytes, cost.get("peak_bytes") or 0)
        _add_joules(self.joules, cost)
        for name, part in (cost.get("phases") or {}).items():
            phase = self.phases.setdefault(name, {"seconds": 0.0, "cpu_seconds": 0.0, "joules": {}})
            for figure in ("seconds", "cpu_seconds"):
                phase[figure] = round(phase[figure] + part.get(figure, 0.0), 3)
            _add_joules(phase["joules"], part)

    def as_cost(self) -> dict[str, Any]:
        facts = {"seconds": round(self.seconds, 3), "cpu_seconds": round(self.cpu_seconds, 3), "peak_bytes": self.peak_bytes}
        return facts | {name: part for name in ("joules", "phases") if (part := getattr(self, name))}


def _add_joules(total: dict[str, float], cost: dict[str, Any]) -> None:
    for counter, joules in (cost.get("joules") or {}).items():
        total[counter] = round(total.get(counter, 0.0) + joules, 3)


def spent(events: Iterable[Event], stage: str, key: str) -> Spent:
    """What all attempts at one result cost together, as far as their meters were read."""
    total = Spent()
    for attempt in attempts(events):
        if attempt.stage == stage and attempt.begin["key"] == key:
            total.add(attempt.cost)
    return total
