"""One event of a logbook as a line for people: its kind (good, bad or plain), what it is, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openbook.logbook.attempts import Event
from openbook.logbook.causes import cause_of, detail_of
from openbook.words import count, duration, figure, size

Told = tuple[str, str, str]


def tell(event: Event) -> Told | None:
    """(kind, what, detail) of an event that is out of the ordinary; None for the daily work, which `daily` tells."""
    teller = _EXTRAORDINARY.get(event["event"])
    return teller(event) if teller else None


def daily(event: Event) -> Told:
    """(kind, what, detail) of any event."""
    told = tell(event)
    if told:
        return told
    teller = _DAILY.get(event["event"])
    return ("plain", event["event"].replace(".", " "), teller(event) if teller else _facts(event))


def _facts(event: Event) -> str:
    """The fields of an event that nobody has found words for."""
    return ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("time", "event", "previous"))


def _listed(changed: Any) -> str:
    return ", ".join(map(str, changed or []))


def _note(event: Event) -> str:
    author = f" ({event['author']})" if event.get("author") else ""
    return f"{event.get('text', '')}{author}"


def _interruption(event: Event) -> Told:
    lost = f"{count(event.get('lost_steps'))} steps and {duration(event.get('lost_seconds'))} to do again"
    detail = detail_of(event)
    return ("bad", "interruption", f"{cause_of(str(event.get('cause', '')))}{f' ({detail})' if detail else ''}; {lost}")


def _anomaly(event: Event) -> Told:
    where = [f"worker {event['worker']}"] if event.get("worker") is not None else []
    where += [f"on {event['host']}"] if event.get("host") else []
    score = [f"score {figure(event['score'], 1)}"] if event.get("score") is not None else []
    evidence = [f"{name} {value}" for name, value in (event.get("evidence") or {}).items()]
    return ("bad", "anomaly", ", ".join([f"{event.get('kind')} at step {count(event.get('step'))}", *score, *where, *evidence]))


def _action(event: Event) -> Told:
    extras = [f"back to step {count(event['to_step'])}"] if event.get("to_step") is not None else []
    extras += [f"{count(event['skipped'])} microbatches left out"] if event.get("skipped") else []
    extras += [f"learning rate × {event['rate_factor']:g}"] if event.get("rate_factor", 1.0) != 1.0 else []
    cost = event.get("cost") or {}
    extras += [f"cost {count(cost.get('steps'))} steps, {duration(cost.get('seconds'))}"] if cost else []
    return ("plain", "action", "; ".join([f"{event.get('kind')} at step {count(event.get('step'))}", *extras, str(event.get("why", ""))]))


def _verify(event: Event) -> Told:
    first, last = event.get("steps") or (None, None)
    differs = event.get("differs") or {}
    where = f" from step {count(differs.get('step'))} ({differs.get('what')})" if differs else ""
    verdict = event.get("verdict")
    return ("good" if verdict == "holds" else "bad", "verified", f"steps {count(first)} to {count(last)}: {verdict}{where}")


_EXTRAORDINARY: Mapping[str, Callable[[Event], Told]] = {
    "recipe": lambda e: ("plain", "recipe", f"{str(e.get('sha256'))[:12]}…, changed: {_listed(e.get('changed')) or 'nothing, it is new'}"),
    "recipe.changed": lambda e: ("plain", "recipe changed", _listed(e.get("changed"))),
    "interruption": _interruption,
    "resume": lambda e: ("good", "resume", f"after step {count(e.get('step'))}, from {e.get('checkpoint') or 'the beginning'}"),
    "checkpoint.damaged": lambda e: ("bad", "damaged checkpoint", f"{e.get('path')}: {e.get('why')}"),
    "replay.mismatch": lambda e: (
        "bad",
        "replay mismatch",
        f"step {count(e.get('step'))} gave another result than before the interruption",
    ),
    "logbook.repaired": lambda e: ("bad", "logbook repaired", f"{count(e.get('torn_bytes'))} bytes of a torn last line cut off"),
    "contract.amended": lambda e: ("bad", "contract amended", f"{_listed(e.get('changed'))}; because: {e.get('why')}"),
    "anomaly": _anomaly,
    "action": _action,
    "verify": _verify,
    "note": lambda e: ("plain", "note", _note(e)),
}

_DAILY: Mapping[str, Callable[[Event], str]] = {
    "stage.begin": lambda e: str(e.get("stage")),
    "stage.end": lambda e: f"{e.get('stage')}, in {duration((e.get('cost') or {}).get('seconds'))}",
    "stage.stopped": lambda e: f"{e.get('stage')}: {e.get('cause')}",
    "train.begin": lambda e: f"{count(e.get('parameters'))} parameters, {count(e.get('steps'))} steps, on {e.get('device')}",
    "membership": lambda e: f"{e.get('world')} workers, attempt {e.get('attempt')}",
    "step": lambda e: f"{count(e.get('step'))}: loss {figure(e.get('loss'), 4)}, norm {figure(e.get('norm'))}",
    "evaluation": lambda e: f"after step {count(e.get('step'))}: {', '.join(e.get('tasks') or {})}",
    "validation": lambda e: f"after step {count(e.get('step'))}: {figure(e.get('mean'))} bits per byte",
    "checkpoint": lambda e: f"after step {count(e.get('step'))}: {size(e.get('bytes'))} in {duration(e.get('seconds'))}",
    "fingerprint": lambda e: f"after step {count(e.get('step'))}: {str(e.get('fingerprint'))[:12]}…",
}
