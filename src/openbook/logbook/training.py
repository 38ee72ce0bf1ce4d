"""The newest training of a logbook, followed through its attempts: which steps count, what went wrong, and where every second went.

The time between the first attempt's begin and the last one's end is cut at the events, and each stretch is given to one part of the
work; stretches that were lost carry their cause. So the parts, and the causes, add up to the time elapsed, whatever happened. A
clock that jumps backwards takes no time until it has caught up.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from openbook.logbook.attempts import VISITORS, Attempt, Event, attempts, seconds_between
from openbook.logbook.causes import cause_of, detail_of

PARTS = {
    "steps": "steps that count",
    "exchange": "exchange between workers",
    "save": "saving checkpoints",
    "validate": "validation",
    "other": "starting, ending, between steps",
    "again": "steps done again",
    "skipped": "data skipped",
    "restart": "starting again",
    "gap": "not running",
}
LOST = ("again", "skipped", "restart", "gap")
"""The parts that have a cause: an interruption or an anomaly."""


@dataclass
class Stretch:
    """`seconds` of the training's time from `at`, its seconds since the beginning."""

    at: float
    seconds: float
    part: str
    cause: str = ""

    def lose(self, part: str, cause: str) -> None:
        self.part, self.cause = part, cause


@dataclass(frozen=True)
class Incident:
    """One interruption of the training, and where it went on."""

    time: str
    cause: str
    detail: str
    reached: int
    resumed: int | None
    lost_steps: int
    lost_seconds: float
    away_seconds: float | None
    wall: float
    """Seconds since the training began at which it went on."""


@dataclass(frozen=True)
class Reading:
    """What the meter of an attempt said at a moment: nothing yet at its begin."""

    attempt: int
    at: float
    cost: dict[str, Any]


@dataclass
class Training:
    """Of every step the event that counts, which is the last one. Steps, looks and notes carry `wall`: seconds since the training began."""

    plan: Event = field(default_factory=dict)
    steps: dict[int, Event] = field(default_factory=dict)
    validations: dict[int, Event] = field(default_factory=dict)
    evaluations: dict[int, Event] = field(default_factory=dict)
    checkpoints: list[Event] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    tries: list[Attempt] = field(default_factory=list)
    anomalies: list[Event] = field(default_factory=list)
    actions: list[Event] = field(default_factory=list)
    notes: list[Event] = field(default_factory=list)
    abandoned: list[list[Event]] = field(default_factory=list)
    """Steps that a resume or a rollback went back on, one list for each time."""
    stretches: list[Stretch] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    @property
    def last(self) -> Event:
        return self.steps[max(self.steps)] if self.steps else {}

    @property
    def elapsed(self) -> float:
        return math.fsum(stretch.seconds for stretch in self.stretches)

    @property
    def effective(self) -> float | None:
        """Share of the time elapsed in which work was done that counts (ETTR): steps and their exchanges."""
        parts, elapsed = self.parts(), self.elapsed
        return (parts["steps"] + parts["exchange"]) / elapsed if elapsed else None

    def parts(self) -> dict[str, float]:
        """Seconds of every part, of none of them zero times."""
        return {part: math.fsum(stretch.seconds for stretch in self.stretches if stretch.part == part) for part in PARTS}

    def causes(self) -> dict[str, dict[str, float]]:
        """Of every cause, the most expensive first: how many `times`, `seconds` lost to it, and the parts that these are made of."""
        table: dict[str, dict[str, float]] = {}
        empty = {"times": 0, "seconds": 0.0, **dict.fromkeys(LOST, 0.0)}
        for incident in self.incidents:
            table.setdefault(incident.cause, dict(empty))["times"] += 1
        for action in self.actions:
            if action.get("kind") in ("retry", "skip", "rollback"):
                table.setdefault(action["cause"], dict(empty))["times"] += 1
        for stretch in self.stretches:
            if stretch.cause:
                row = table.setdefault(stretch.cause, dict(empty))
                row[stretch.part] += stretch.seconds
                row["seconds"] += stretch.seconds
        return dict(sorted(table.items(), key=lambda item: -item[1]["seconds"]))


def _moment(event: Event, key: str) -> datetime | None:
    try:
        return datetime.fromisoformat(event[key])
    except (KeyError, TypeError, ValueError):
        return None


def training(events: Iterable[Event]) -> Training:
    """Follows the newest training through its attempts; what a resume or rollback went back on is abandoned, as it was in the weights."""
    events = list(events)
    tries = [attempt for attempt in attempts(events) if attempt.stage == "train"]
    tries = [attempt for attempt in tries if attempt.begin.get("key") == tries[-1].begin.get("key")]
    follower = _Follower(Training(tries=tries))
    for attempt in tries:
        follower.follow(attempt)
    follower.book("other")
    if tries:
        follower.result.notes = [{**note, "wall": follower.wall(note)} for note in events if note["event"] == "note"]
    return follower.result


class _Follower:
    """Reads a training's events in order. `unbooked` are the seconds since the last stretch, up to the event at hand."""

    def __init__(self, result: Training) -> None:
        self.result = result
        self.at = self.unbooked = 0.0
        self.latest: datetime | None = None
        self.walls: list[tuple[datetime, float]] = []
        """Moments, and the seconds since the beginning that they are."""
        self.before: Attempt | None = None
        self.cause = ""
        """Of the interruption or anomaly that is being recovered from; empty while all is well."""
        self.recovery: list[Stretch] = []
        """Stretches of the present recovery, whose cause may yet be told."""
        self.anomaly = "unknown"
        self.of_step: dict[int, list[Stretch]] = {}
        self.since = 0
        """The first stretch of the present attempt."""

    def follow(self, attempt: Attempt) -> None:
        self._begin(attempt)
        before, said = self.before, None
        for event in attempt.inside:
            if event["event"] in VISITORS:
                continue
            self._advance(event)
            if said is not None and event["event"] in ("interruption", "step"):
                self._resume(attempt, before, said, None)
                before = said = None
            if event["event"] == "interruption":
                self._interrupted(event)
                said = event
            elif event["event"] == "resume":
                self._resume(attempt, before, said, event)
                before = said = None
            else:
                self._told(event)
        if said is not None:
            self._resume(attempt, before, said, None)
        if attempt.end:
            self._advance(attempt.end)
            self.book("other")
            self._read(attempt.end)
        self.before = attempt

    def _begin(self, attempt: Attempt) -> None:
        if self.before is None or self.before.finished:
            self.book("other")
            self._advance(attempt.begin)
            self.unbooked = 0.0  # nobody had asked for it to go on
            self.cause = ""
        else:
            self.cause = cause_of(self.before.fate)
            self._advance(attempt.begin)
            self._recover("gap")
        self.since = len(self.result.stretches)
        self._read({"cost": {}}, attempt=1)

    def _read(self, event: Event, attempt: int = 0) -> None:
        if event.get("cost") is not None:
            number = (self.result.readings[-1].attempt if self.result.readings else -1) + attempt
            self.result.readings.append(Reading(number, self.at + self.unbooked, event["cost"]))

    def _advance(self, event: Event) -> None:
        time = _moment(event, "time")
        if time and (self.latest is None or time > self.latest):
            self.unbooked += (time - self.latest).total_seconds() if self.latest else 0.0
            self.latest = time

    def wall(self, note: Event) -> float:
        """Seconds since the training began at which a note was written; the training's end for a later one."""
        time = _moment(note, "written") or _moment(note, "time")
        place = bisect_right(self.walls, time, key=lambda pair: pair[0]) if time else 0
        if not time or not place:
            return 0.0
        (begin, wall), following = self.walls[place - 1], self.walls[place : place + 1]
        return min(wall + (time - begin).total_seconds(), following[0][1] if following else wall)

    def book(self, part: str, seconds: float = math.inf, cause: str = "") -> Stretch:
        """Gives the unbooked seconds, or the first `seconds` of them, to a part."""
        stretch = Stretch(self.at, max(0.0, min(seconds, self.unbooked)), part, cause)
        self.at, self.unbooked = self.at + stretch.seconds, self.unbooked - stretch.seconds
        if self.latest and not self.unbooked:
            self.walls.append((self.latest, self.at))
        if stretch.seconds:
            self.result.stretches.append(stretch)
        return stretch

    def _recover(self, part: str, seconds: float = math.inf) -> None:
        self.recovery.append(self.book(part, seconds, self.cause))

    def _interrupted(self, event: Event) -> None:
        self.cause = cause_of(str(event.get("cause", "")))
        for stretch in self.recovery:
            stretch.cause = self.cause
        self._recover("restart")

    def _told(self, event: Event) -> None:
        match event["event"]:
            case "step":
                self._step(event)
            case "validation":
                self.book("validate")
                self.result.validations[event["step"]] = {**event, "wall": self.at}
            case "evaluation":
                self.book("validate")
                self.result.evaluations[event["step"]] = {**event, "wall": self.at}
            case "checkpoint":
                self._saved(event)
            case "anomaly":
                self.anomaly = cause_of(str(event.get("kind", "")))
                self.result.anomalies.append(event)
            case "action":
                self._acted(event)
            case "train.begin":
                self.result.plan = event
                self._between()

    def _between(self, seconds: float = math.inf) -> None:
        """Time that no step, look or save took: part of a recovery, if there is one."""
        if self.cause:
            self._recover("restart", seconds)
        else:
            self.book("other", seconds)

    def _step(self, event: Event) -> None:
        number = event["step"]
        if number in self.result.steps:
            self._abandon(number - 1, self.cause or self.anomaly)
        previous = {"seconds": 0.0} if number == 1 else self.result.steps.get(number - 1, {})
        own = math.inf
        if "seconds" in event and "seconds" in previous:
            own = max(0.0, event["seconds"] - previous["seconds"])
        self._between(self.unbooked - own)
        self.cause, self.recovery = "", []
        exchange = self.book("exchange", float(event.get("exchange_seconds") or 0.0))
        self.of_step[number] = [exchange, self.book("steps")]
        self.result.steps[number] = {**event, "wall": self.at}

    def _saved(self, event: Event) -> None:
        """What the steps had to wait for a checkpoint: since the last event or, if it was written beside them, earlier."""
        blocking = event.get("blocking_seconds", event.get("seconds"))
        owed = self.unbooked if blocking is None else max(0.0, float(blocking))
        owed -= self.book("save", owed).seconds
        place = len(self.result.stretches)
        while owed > 0 and place > self.since:
            place -= 1
            stretch = self.result.stretches[place]
            if stretch.part in ("steps", "other"):
                taken = min(owed, stretch.seconds)
                stretch.seconds, owed = stretch.seconds - taken, owed - taken
                self.result.stretches.insert(place + 1, Stretch(stretch.at + stretch.seconds, taken, "save"))
        self.result.checkpoints.append(event)
        self._read(event)

    def _acted(self, event: Event) -> None:
        kind, cause = event.get("kind"), self.anomaly
        self.result.actions.append({**event, "cause": cause})
        if kind == "rollback":
            self._abandon(int(event.get("to_step", 0)), cause)
        if kind in ("retry", "rollback", "skip"):
            self.book("skipped" if kind == "skip" else "again", cause=cause)
            self.cause = cause

    def _resume(self, attempt: Attempt, before: Attempt | None, said: Event | None, resume: Event | None) -> None:
        """Records the incident, if it was one (a finished training that is asked for again resumes without having been interrupted)."""
        result, back = self.result, resume["step"] if resume else None
        reached = max(result.steps, default=0)
        start = result.steps.get(reached if back is None else back, {}).get("seconds", 0.0)
        lost = [] if back is None else self._abandon(back, self.cause or "unknown")
        if said is not None or (before is not None and not before.finished):
            lost_seconds = max((event.get("seconds", 0.0) for event in lost), default=start) - start
            facts = {"lost_steps": len(lost), "lost_seconds": lost_seconds, **(said or {})}
            cause, detail = self.cause or "unknown", detail_of(said or {"cause": before.fate if before else ""})
            away = seconds_between(before.last, attempt.begin) if before else None
            time = before.last["time"] if before else (said or attempt.begin)["time"]
            lost_of = (facts["lost_steps"], facts["lost_seconds"])
            result.incidents.append(Incident(time, cause, detail, reached, back, *lost_of, away, self.at + self.unbooked))

    def _abandon(self, after: int, cause: str) -> list[Event]:
        """Goes back to the state after a step: later ones no longer count, and their time is lost."""
        later = [step for step in self.result.steps if step > after]
        for step in later:
            for stretch in self.of_step.pop(step, []):
                stretch.lose("again", cause)
        lost = [self.result.steps.pop(step) for step in later]
        if lost:
            self.result.abandoned.append(lost)
        for seen in (self.result.validations, self.result.evaluations):
            for step in [step for step in seen if step > after]:
                del seen[step]
        return lost
