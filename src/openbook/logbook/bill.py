"""What a run cost, by stage and phase, and what of it was in vain: CPU seconds, joules with where each comes from, and their carbon.

Nothing is estimated. Joules are `measured:rapl`, `measured:nvml`, or `declared:watts` where the recipe declares what the machines draw
and no counter was read; of the rest of the time it is said that they are absent. kWh x PUE x grams per kWh stay three factors, and
without one of them there is no carbon.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from openbook.logbook.attempts import Event, Spent, attempts
from openbook.logbook.training import LOST, Stretch, Training
from openbook.recipe import EnergySection

DECLARED = "declared:watts"
JOULES_PER_KWH = 3.6e6


def without_report(events: Iterable[Event]) -> list[Event]:
    """The report's own events left out, so that rendering a run again gives the same page."""
    return [event for event in events if event.get("stage") != "report"]


@dataclass
class Cost(Spent):
    """What all attempts at one stage cost together.

    `unmetered` are those that ended without a word: nobody read their meter to the end. `absent_seconds` is the time of work for which
    there is neither a counter nor a declaration.
    """

    stage: str = ""
    attempts: int = 0
    unmetered: int = 0
    without_energy: int = 0
    absent_seconds: float = 0.0

    def attempt(self, cost: Mapping[str, Any], seconds: float, watts: float | None) -> None:
        """Adds one attempt that took `seconds`, as far as its meter was read."""
        joules = cost.get("joules") or ({DECLARED: watts * seconds} if watts else {})
        self.add({**cost, "seconds": seconds, "joules": joules})
        self.attempts += 1
        self.without_energy += not joules
        self.absent_seconds += 0.0 if joules else seconds


def costs(events: Iterable[Event], stages: Mapping[str, Any], watts: float | None = None) -> list[Cost]:
    """By stage, in the order of their first attempts; a stage that the logbook does not know costs what the manifest says."""
    table: dict[str, Cost] = {}
    for attempt in attempts(events):
        cost = table.setdefault(attempt.stage, Cost(stage=attempt.stage))
        cost.unmetered += attempt.end is None
        cost.attempt(attempt.cost, max(0.0, attempt.seconds or 0.0), watts)
    for name, record in stages.items():
        if name not in table:
            known = record.get("cost") or {}
            table[name] = Cost(stage=name)
            table[name].attempt(known, known.get("seconds") or 0.0, watts)
    return list(table.values())


@dataclass
class Waste:
    """What the training's meters read, split at what counts: by time between two readings, the stretches that were lost are in vain.

    `unread_seconds` is work after an attempt's last reading, of which only the time is known.
    """

    useful: dict[str, float] = field(default_factory=dict)
    wasted: dict[str, float] = field(default_factory=dict)
    unread_seconds: float = 0.0

    def _add(self, what: str, amount: float, share: float) -> None:
        self.wasted[what] = self.wasted.get(what, 0.0) + amount * share
        self.useful[what] = self.useful.get(what, 0.0) + amount * (1 - share)


def waste(training: Training, watts: float | None = None) -> Waste:
    """CPU seconds (`cpu_seconds`) and joules (by source) of the newest training, useful and wasted."""
    result, lost = Waste(), _Lost(training.stretches)
    ends = _ends(training)
    metered = {reading.attempt for reading in training.readings if reading.cost.get("joules")}
    for before, after in pairwise(training.readings):
        if before.attempt == after.attempt:
            share = lost.share(before.at, after.at)
            result._add("cpu_seconds", after.cost.get("cpu_seconds", 0.0) - before.cost.get("cpu_seconds", 0.0), share)
            for source, joules in (after.cost.get("joules") or {}).items():
                result._add(source, joules - (before.cost.get("joules") or {}).get(source, 0.0), share)
    for number, (begin, read, end) in ends.items():
        result.unread_seconds += end - read
        if watts and number not in metered:
            result._add(DECLARED, watts * (end - begin), lost.share(begin, end))
    return result


def _ends(training: Training) -> dict[int, tuple[float, float, float]]:
    """(begin, last reading, end) of every attempt, in seconds since the training began."""
    table: dict[int, tuple[float, float, float]] = {}
    for reading in training.readings:
        table[reading.attempt] = (table.get(reading.attempt, (reading.at,))[0], reading.at, reading.at)
    gaps = [stretch for stretch in training.stretches if stretch.part == "gap"]
    for number, (begin, read, _) in table.items():
        following = table[number + 1][0] if number + 1 in table else training.elapsed
        gap = next((gap for gap in gaps if math.isclose(gap.at + gap.seconds, following, abs_tol=1e-6)), None)
        table[number] = (begin, read, max(read, gap.at if gap else following))
    return table


class _Lost:
    """How much of a span of a training's time was lost."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = sorted(stretches, key=lambda stretch: stretch.at)
        self.starts = [stretch.at for stretch in self.stretches]
        self.before = list(accumulate((stretch.seconds if stretch.part in LOST else 0.0 for stretch in self.stretches), initial=0.0))

    def share(self, begin: float, end: float) -> float:
        return min(1.0, (self._until(end) - self._until(begin)) / (end - begin)) if end > begin else 0.0

    def _until(self, at: float) -> float:
        place = bisect_right(self.starts, at) - 1
        if place < 0:
            return 0.0
        stretch = self.stretches[place]
        return self.before[place] + (min(at - stretch.at, stretch.seconds) if stretch.part in LOST else 0.0)


@dataclass(frozen=True)
class Carbon:
    """The three factors, and grams of CO2-equivalent where none is missing; `missing` names those that are, as keys of the recipe."""

    kwh: float | None
    pue: float | None
    grid_g_per_kwh: float | None
    grams: float | None
    missing: list[str]
    absent_seconds: float


def carbon(bill: Iterable[Cost], declared: EnergySection) -> Carbon:
    """What the electricity of a run stands for."""
    bill = list(bill)
    joules = [sum(cost.joules.values()) for cost in bill if cost.joules]
    kwh = math.fsum(joules) / JOULES_PER_KWH if joules else None
    factors = {"energy.declared_watts (no counter was read)": kwh, "energy.pue": declared.pue}
    factors["energy.grid_g_per_kwh"] = declared.grid_g_per_kwh
    missing = [name for name, value in factors.items() if value is None]
    grams = None if missing else math.prod(value for value in factors.values() if value is not None)
    return Carbon(kwh, declared.pue, declared.grid_g_per_kwh, grams, missing, math.fsum(cost.absent_seconds for cost in bill))


def carbon_line(carbon: Carbon) -> str:
    """One line: the factors, and what they come to."""
    factors = [f"{carbon.kwh:.3g} kWh" if carbon.kwh is not None else "no kWh"]
    factors.append(f"PUE {carbon.pue:g}" if carbon.pue is not None else "PUE not declared")
    factors.append(f"{carbon.grid_g_per_kwh:g} g/kWh" if carbon.grid_g_per_kwh is not None else "grid not declared")
    line = " × ".join(factors)
    if carbon.grams is None:
        return f"{line}: no carbon figure without {', '.join(carbon.missing)}"
    return f"{line} = {carbon.grams:.3g} g CO2e"
