"""The whole account of a run, as plain data: what was interrupted and why, what changed, what was verified, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openbook.logbook.attempts import Attempt, Event
from openbook.logbook.bill import Carbon, Cost, Waste, carbon, costs, waste
from openbook.logbook.training import Training, training
from openbook.recipe import EnergySection


def readable(path: Path) -> list[Event]:
    """The events up to the logbook's end or its first line that cannot be read."""
    events: list[Event] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:
            break
        if not isinstance(event, dict) or "event" not in event:
            break
        events.append(event)
    return events


class Account:
    """Everything that `openbook logbook`, the report and the model card tell of a run's past. `stages` are the manifest's."""

    def __init__(self, events: Sequence[Event], stages: Mapping[str, Any], energy: EnergySection) -> None:
        self.events = events
        self.training: Training = training(events)
        self.costs: list[Cost] = costs(events, stages, energy.declared_watts)
        self.waste: Waste = waste(self.training, energy.declared_watts)
        self.carbon: Carbon = carbon(self.costs, energy)
        self.changes = changes(events, self.training.tries)
        self.verified = verified(events, self.training)

    def saving(self) -> dict[str, Any]:
        """Checkpoints: how many, how large, and the share of the time elapsed that steps had to wait for them."""
        saved, elapsed = self.training.checkpoints, self.training.elapsed
        blocked = self.training.parts()["save"]
        return {
            "count": len(saved),
            "bytes": sum(event.get("bytes") or 0 for event in saved),
            "seconds": round(sum(event.get("seconds") or 0.0 for event in saved), 3),
            "blocking_seconds": round(blocked, 3),
            "blocking_share": round(blocked / elapsed, 6) if elapsed else None,
        }

    def as_json(self) -> dict[str, Any]:
        """The account as one JSON object."""
        past = self.training
        effective = past.effective
        return {
            "steps": past.last.get("step", 0),
            "planned_steps": past.plan.get("steps"),
            "tokens": past.last.get("tokens", 0),
            "elapsed_seconds": round(past.elapsed, 3),
            "effective_share": None if effective is None else round(effective, 6),
            "parts": {part: round(seconds, 3) for part, seconds in past.parts().items()},
            "causes": {name: {key: round(value, 3) for key, value in row.items()} for name, row in past.causes().items()},
            "interruptions": [asdict(incident) for incident in past.incidents],
            "changes": self.changes,
            "anomalies": [_bare(event) for event in past.anomalies],
            "actions": [_bare(event) for event in past.actions],
            "verified": self.verified,
            "notes": [_bare(event) for event in self.events if event["event"] == "note"],
            "checkpoints": self.saving(),
            "cost": {cost.stage: {"attempts": cost.attempts, **cost.as_cost()} for cost in self.costs},
            "waste": asdict(self.waste),
            "energy": asdict(self.carbon),
        }


def _bare(event: Event) -> Event:
    return {name: value for name, value in event.items() if name not in ("event", "previous")}


def changes(events: Iterable[Event], tries: Sequence[Attempt]) -> dict[str, list[str]]:
    """What was not the same all along: the recipe, the numerics contract, the workers, and the environment of the training's attempts."""
    found: dict[str, list[str]] = {"recipe": [], "contract": [], "workers": [], "environment": []}
    world: Any = None
    for event in events:
        match event["event"]:
            case "recipe" | "recipe.changed":
                found["recipe"] += map(str, event.get("changed") or [])
            case "contract.amended":
                found["contract"] += [f"{change} (step {event.get('step')}: {event.get('why')})" for change in event.get("changed") or []]
            case "membership":
                if world not in (None, event.get("world")):
                    found["workers"].append(f"{world} -> {event.get('world')}")
                world = event.get("world")
    before: Mapping[str, Any] = {}
    for attempt in tries:
        present = attempt.begin.get("environment") or {}
        found["environment"] += [
            f"{name}: {before[name]} -> {present[name]}" for name in before if name in present and before[name] != present[name]
        ]
        before = present or before
    return found


def verified(events: Sequence[Event], past: Training) -> dict[str, Any]:
    """The replays since the training began: each one's verdict, and the steps that hold, as [after, up to]."""
    begin = past.tries[0].begin if past.tries else None
    since = next((place for place, event in enumerate(events) if event is begin), len(events))
    replays = [event for event in events[since:] if event["event"] == "verify" and len(event.get("steps") or []) == 2]
    spans: list[list[int]] = []
    for first, last in sorted(event["steps"] for event in replays if event.get("verdict") == "holds"):
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], last)
        else:
            spans.append([first, last])
    told = [{name: event.get(name) for name in ("time", "steps", "verdict", "differs")} for event in replays]
    return {"spans": spans, "steps": sum(last - first for first, last in spans), "replays": told}
