"""From the logbook's events to what a reader asks: how it learnt, what went wrong, what it cost. Pure functions of the events.

The report's own events are left out everywhere, so that rendering a run again gives the same page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openbook.logbook import Attempt, Event, Spent, attempts
from openbook.logbook.attempts import seconds_between

POINTS = 400
"""The most points that a curve keeps on the page."""


def without_report(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.get("stage") != "report"]


@dataclass(frozen=True)
class Incident:
    """One interruption of the training, and where it went on."""

    time: str
    cause: str
    reached: int
    resumed: int | None
    lost_steps: int
    lost_seconds: float
    away_seconds: float | None


@dataclass
class Training:
    """The newest training of a run: of every step the event that counts, which is the last one."""

    plan: Event = field(default_factory=dict)
    steps: dict[int, Event] = field(default_factory=dict)
    validations: dict[int, Event] = field(default_factory=dict)
    checkpoints: list[Event] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    tries: list[Attempt] = field(default_factory=list)

    @property
    def last(self) -> Event:
        return self.steps[max(self.steps)] if self.steps else {}

    def waste(self) -> dict[str, float] | None:
        """Where the wall time between the first attempt's begin and the last one's end went, in seconds."""
        total = seconds_between(self.tries[0].begin, self.tries[-1].last) if self.tries else None
        if not total or not self.steps:
            return None
        parts = {
            "steps that count": float(self.last.get("seconds", 0.0)),
            "steps done again": math.fsum(incident.lost_seconds for incident in self.incidents),
            "saving checkpoints": math.fsum(event.get("seconds", 0.0) for event in self.checkpoints),
            "not running": math.fsum(incident.away_seconds or 0.0 for incident in self.incidents),
        }
        rest = total - math.fsum(parts.values())
        return {**parts, "validation, start-up, other": max(rest, 0.0)} if rest > -0.02 * total else None


def training(events: Iterable[Event]) -> Training:
    """Follows the newest training through its attempts; what a resume went back on is forgotten, as it was in the weights."""
    tries = [attempt for attempt in attempts(events) if attempt.stage == "train"]
    if not tries:
        return Training()
    tries = [attempt for attempt in tries if attempt.begin.get("key") == tries[-1].begin.get("key")]
    result = Training(tries=tries)
    before: Attempt | None = None
    for attempt in tries:
        _follow(result, attempt, before)
        before = attempt
    return result


def _follow(result: Training, attempt: Attempt, before: Attempt | None) -> None:
    said: Event | None = None
    for event in attempt.inside:
        kind = event["event"]
        if kind == "train.begin":
            result.plan = event
        elif kind == "step":
            result.steps[event["step"]] = event
        elif kind == "validation":
            result.validations[event["step"]] = event
        elif kind == "checkpoint":
            result.checkpoints.append(event)
        elif kind == "interruption":
            said = event
        elif kind == "resume":
            _resume(result, attempt, before, said, event)
            said = None
    if said is not None:
        _resume(result, attempt, before, said, None)


def _resume(result: Training, attempt: Attempt, before: Attempt | None, said: Event | None, resume: Event | None) -> None:
    """Records the incident, if it was one (a finished training that is asked for again resumes without having been interrupted)."""
    reached, back = max(result.steps, default=0), resume["step"] if resume else None
    lost = [event for step, event in result.steps.items() if back is not None and step > back]
    if said is not None or (before is not None and not before.finished):
        start = result.steps.get(back or 0, {}).get("seconds", 0.0)
        lost_seconds = max((event.get("seconds", 0.0) for event in lost), default=start) - start
        facts = {"lost_steps": len(lost), "lost_seconds": lost_seconds, **(said or {})}
        cause = facts.get("cause") or (before.fate if before else "interrupted")
        away = seconds_between(before.last, attempt.begin) if before else None
        time = before.last["time"] if before else (said or attempt.begin)["time"]
        result.incidents.append(Incident(time, str(cause), reached, back, facts["lost_steps"], facts["lost_seconds"], away))
    if back is not None:
        for record in (result.steps, result.validations):
            for step in [step for step in record if step > back]:
                del record[step]


@dataclass
class Cost(Spent):
    """What all attempts at one stage cost together. `unmetered` are those that ended without a word: nobody read their meter to the end."""

    stage: str = ""
    attempts: int = 0
    unmetered: int = 0
    without_energy: int = 0

    def add(self, cost: dict[str, Any]) -> None:
        super().add(cost)
        self.without_energy += not cost.get("joules")


def costs(events: Iterable[Event], stages: dict[str, Any]) -> list[Cost]:
    """By stage, in the order of their first attempts; a stage that the logbook does not know costs what the manifest says."""
    table: dict[str, Cost] = {}
    for attempt in attempts(events):
        cost = table.setdefault(attempt.stage, Cost(stage=attempt.stage))
        cost.attempts += 1
        cost.unmetered += attempt.end is None
        cost.add(attempt.cost or {"seconds": attempt.seconds})
    for name, record in stages.items():
        if name not in table:
            table[name] = Cost(stage=name, attempts=1)
            table[name].add(record.get("cost") or {})
    return list(table.values())


def thin(values: Sequence[float | None], limit: int = POINTS) -> list[int]:
    """The places of at most `limit` values that draw the same curve: the ends, and each stretch's lowest and highest, so that no
    spike is lost."""
    total = len(values)
    if total <= limit:
        return list(range(total))
    buckets = (limit - 2) // 2
    kept = {0, total - 1}
    for bucket in range(buckets):
        stretch = range(1 + bucket * (total - 2) // buckets, 1 + (bucket + 1) * (total - 2) // buckets)
        numbers = [(value, place) for place in stretch if (value := values[place]) is not None and math.isfinite(value)]
        kept.update({min(numbers)[1], max(numbers)[1]} if numbers else {stretch[0]})
    return sorted(kept)


def smoothed(values: Sequence[float | None], reach: int) -> list[float | None]:
    """The mean of up to `reach` values on either side. Near the start it reaches as far forward as back, so that it follows the steep
    beginning of a loss curve instead of lagging behind it."""
    sums, counts = [0.0], [0]
    for value in values:
        number = value if value is not None and math.isfinite(value) else None
        sums.append(sums[-1] + (number or 0.0))
        counts.append(counts[-1] + (number is not None))
    result: list[float | None] = []
    for place in range(len(values)):
        left, right = place - min(reach, place), min(len(values), place + min(reach, place) + 1)
        known = counts[right] - counts[left]
        result.append((sums[right] - sums[left]) / known if known else None)
    return result
