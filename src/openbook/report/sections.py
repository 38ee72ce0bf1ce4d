"""The page's sections as plain data: from the manifest, the logbook's history and the scores to what the template prints."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from openbook.logbook import CAUSES, Account, Attempt, Event
from openbook.logbook.bill import Cost, carbon_line
from openbook.logbook.telling import tell
from openbook.logbook.training import LOST, PARTS, Training
from openbook.recipe import Recipe
from openbook.words import (
    NOTHING,
    count,
    duration,
    energy,
    figure,
    hours,
    is_number,
    moment,
    percent,
    printable,
    rounded,
    size,
    speed,
)

BASELINES = {
    "xz": "xz −9e, each document alone",
    "xz_archive": "xz −9e, all documents in one archive",
    "zstd": "zstd −19, each document alone",
    "ngram": "n-gram model of the training text",
}
SHOWN_LICENCES = 6


def style_of(names: Sequence[str], name: str) -> str:
    """A component's colour and dash: the same in every chart of the page."""
    return f"s{names.index(name) % 8}" if name in names else "s7"


def went_in(recipe: Recipe, corpus: Mapping[str, Any] | None, tokens: Mapping[str, Any] | None) -> dict[str, Any]:
    """The corpus by component, what was left out of it, and the tokenizer's figures."""
    known: Mapping[str, Any] = corpus["components"] if corpus else {}
    counted: Mapping[str, Any] = tokens["components"] if tokens else {}
    names = list(recipe.corpus.components)
    present = [name for name in names if not known or known.get(name, {}).get("train", {}).get("documents")]
    total = math.fsum(recipe.corpus.components[name].amount for name in present)
    rows = []
    for name, component in recipe.corpus.components.items():
        part, ids = known.get(name, {}), counted.get(name, {})
        share = component.amount / total if name in present and recipe.corpus.measure != "epochs" else None
        rows.append(
            {
                "name": name,
                "style": style_of(names, name),
                "source": f"{component.source}: {component.place}",
                "share": share,
                "share_text": percent(share) if share is not None else f"{component.epochs} epochs" if name in present else "absent",
                "train": part.get("train", {}),
                "valid": part.get("valid", {}),
                "tokens": ids.get("train", {}).get("tokens"),
                "bytes_per_token": figure(ids.get("valid", {}).get("bytes_per_token") or ids.get("train", {}).get("bytes_per_token"), 2),
                "licences": list(part.get("licences", {}).items())[:SHOWN_LICENCES],
                "more_licences": max(0, len(part.get("licences", {})) - SHOWN_LICENCES),
            }
        )
    return {
        "known": bool(known),
        "rows": rows,
        "vocabulary": tokens.get("vocab_size") if tokens else None,
        "dropped": _dropped(known),
        **{
            f"{split}_{unit}": sum(part.get(split, {}).get(unit, 0) for part in known.values())
            for split in ("train", "valid")
            for unit in ("documents", "bytes")
        },
        "tokens": sum(row["tokens"] or 0 for row in rows),
    }


def _dropped(known: Mapping[str, Any]) -> dict[str, Any]:
    """What was left out: by reason over all components, and of each component."""
    parts = {name: part["dropped"] for name, part in known.items() if part.get("dropped")}
    reasons: Counter[str] = Counter()
    for drops in parts.values():
        reasons.update({reason: drop.get("documents", 0) for reason, drop in drops.items()})
    total = sum(drop.get("bytes", 0) for drops in parts.values() for drop in drops.values())
    return {"parts": parts, "reasons": reasons.most_common(), "documents": reasons.total(), "bytes": total}


def scored(scores: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any] | None:
    """Bits per byte of the model beside each baseline: for every component, and for all together, which comes first."""
    if not scores or not scores.get("components"):
        return None
    ordered = sorted(scores["components"], key=lambda name: names.index(name) if name in names else len(names))
    everything = [("all", scores["all"])] if scores.get("all") and len(ordered) > 1 else []
    groups = []
    for name, row in [*everything, *((name, scores["components"][name]) for name in ordered)]:
        bars = [{"key": "model", "title": "this model", **row["model"]}]
        bars += [{"key": key, "title": BASELINES.get(key, key), **value} for key, value in row.get("baselines", {}).items()]
        groups.append({"name": name, "documents": row.get("documents"), "bytes": row.get("bytes"), "bars": bars})
    reached = [bar.get(end) for group in groups for bar in group["bars"] for end in ("bpb", "high")]
    highest = max(filter(is_number, reached), default=1.0)
    for group in groups:
        best = min((bar["bpb"] for bar in group["bars"] if is_number(bar.get("bpb"))), default=None)
        group["bars"] = [_bar(bar, highest, best) for bar in group["bars"]]
    columns = list(dict.fromkeys(bar["key"] for group in groups for bar in group["bars"]))
    titles = {bar["key"]: bar["title"] for group in groups for bar in group["bars"]}
    return {
        "groups": groups,
        "columns": [(key, titles[key]) for key in columns],
        "context": scores.get("context"),
        "stride": scores.get("stride"),
        "ngram": scores.get("ngram"),
    }


def _bar(bar: dict[str, Any], highest: float, best: float | None) -> dict[str, Any]:
    """A bar's ends in hundredths of the longest."""

    def place(value: Any) -> float | None:
        return round(100 * value / highest, 2) if is_number(value) and highest else None

    short = bar["title"] if bar["key"] == "model" else {"xz_archive": "xz archive", "ngram": "n-gram"}.get(bar["key"], bar["key"])
    places = {"width": place(bar.get("bpb")), "left": place(bar.get("low")), "right": place(bar.get("high"))}
    interval = f"{figure(bar.get('low'))} to {figure(bar.get('high'))}" if is_number(bar.get("low")) and is_number(bar.get("high")) else ""
    return {**bar, **places, "short": short, "text": figure(bar.get("bpb")), "interval": interval, "best": bar.get("bpb") == best}


def lead(scores: dict[str, Any] | None, recipe: Recipe) -> dict[str, Any] | None:
    """The scored component with the largest share of the training tokens: the page's headline."""
    groups = {group["name"]: {bar["key"]: bar for bar in group["bars"]} for group in scores["groups"]} if scores else {}
    weights = {name: part.amount for name, part in recipe.corpus.components.items() if name in groups}
    if not weights:
        return None
    name = max(weights, key=lambda key: weights[key])
    return {"name": name, "model": groups[name]["model"], "xz": groups[name].get("xz")}


def spoken(samples: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    fields = ("component", "document", "origin", "prompt", "continuation", "seed", "temperature", "top_p")
    return [{name: printable(sample[name]) if name in sample else "" for name in fields} for sample in samples or []]


def cost_rows(costs: Sequence[Cost]) -> dict[str, Any]:
    """The bill: a row for each stage, and their sum."""
    total = Cost(stage="all")
    for cost in costs:
        total.add(vars(cost))
    total.attempts = sum(cost.attempts for cost in costs)
    counters = sorted(total.joules)
    return {
        "rows": [_cost_row(cost, counters) for cost in costs],
        "total": _cost_row(total, counters),
        "counters": counters,
        "unmetered": sum(cost.unmetered for cost in costs),
        "without_energy": sum(cost.without_energy for cost in costs),
        "cpu_seconds": total.cpu_seconds,
        "joules": math.fsum(total.joules.values()) if counters else None,
    }


def _cost_row(cost: Cost, counters: Sequence[str]) -> dict[str, Any]:
    row = {"stage": cost.stage, "attempts": cost.attempts, "seconds": duration(cost.seconds), "cpu": duration(cost.cpu_seconds)}
    return {**row, "peak": size(cost.peak_bytes or None), "joules": [energy(cost.joules.get(counter)) for counter in counters]}


def rates(train: Mapping[str, Any] | None, training: Training) -> dict[str, Any] | None:
    """Speed against the measured peak: from the summary of a finished training, else from the steps so far."""
    facts = dict(train or {})
    last, plan = training.last, training.plan
    if not facts and last.get("seconds") and plan.get("flops_per_token"):
        per_second = last["tokens"] / last["seconds"]
        peak = plan.get("peak_flops_per_second")
        facts = {"tokens_per_second": per_second, "flops_per_second": per_second * plan["flops_per_token"], "peak_flops_per_second": peak}
        facts["utilisation"] = facts["flops_per_second"] / peak if peak else None
    if not is_number(facts.get("flops_per_second")):
        return None
    return {
        "tokens": count(facts.get("tokens_per_second")),
        "flops": speed(facts["flops_per_second"]),
        "peak": speed(facts.get("peak_flops_per_second")),
        "share": facts.get("utilisation"),
        "share_text": percent(facts.get("utilisation")),
        "device": _device(facts.get("device") or plan.get("device")),
        "precision": facts.get("precision"),
        "threads": facts.get("threads"),
    }


def _device(name: str | None) -> str | None:
    """A device as people call it."""
    return name and {"cpu": "CPU", "cuda": "GPU"}.get(name.partition(":")[0], name)


def chronicle(events: Sequence[Event], tries: Sequence[Attempt]) -> list[dict[str, str]]:
    """The logbook in short: a line for each attempt at a stage, and one for everything out of the ordinary."""
    lines: list[dict[str, str]] = []
    begun = iter(tries)
    for event in events:
        told = _tell_attempt(next(begun)) if event["event"] == "stage.begin" else tell(event)
        if told:
            kind, what, detail = told
            lines.append({"time": moment(event["time"]), "kind": kind, "what": what, "detail": detail})
    return lines


def _tell_attempt(attempt: Attempt) -> tuple[str, str, str]:
    steps = [event["step"] for event in attempt.inside if event["event"] == "step"]
    reach = f"; steps {min(steps):,} to {max(steps):,}" if steps else ""
    if attempt.finished:
        return ("good", attempt.stage, f"finished in {duration(attempt.seconds)}{reach}")
    return ("bad", attempt.stage, f"after {duration(attempt.seconds)}: {plain_detail(attempt.fate)}{reach}")


_OWN_PATH = re.compile(r"^Stopped: .*: (?=stopped by )")


def plain_detail(detail: str) -> str:
    """What is known of a cause, without what only the terminal needed: the class of the request to stop, and the folder it named."""
    return _OWN_PATH.sub("", detail).partition("; the same command")[0]


def incidents(training: Training) -> list[dict[str, str]]:
    return [
        {
            "number": str(number),
            "time": moment(incident.time),
            "cause": incident.cause,
            "detail": plain_detail(incident.detail),
            "reached": count(incident.reached),
            "resumed": count(incident.resumed),
            "lost": f"{count(incident.lost_steps)} steps, {duration(incident.lost_seconds)}",
            "away": duration(incident.away_seconds),
        }
        for number, incident in enumerate(training.incidents, 1)
    ]


def waterfall(training: Training) -> list[dict[str, Any]]:
    """Where the training's time went: a bar for each part, beginning where the one above it ends; the last is all of it."""
    elapsed = training.elapsed
    rows, left = [], 0.0
    for part, seconds in training.parts().items() if elapsed else ():
        if seconds:
            share = 100 * seconds / elapsed
            rows.append({"part": part, "name": PARTS[part], "text": duration(seconds), "left": round(left, 3), "share": round(share, 3)})
            left += share
    return rows


def causes(training: Training) -> dict[str, Any]:
    """Hours lost by cause, and what was not lost; they add up to the time elapsed."""
    table = training.causes()
    kept = training.elapsed - math.fsum(row["seconds"] for row in table.values())
    rows = [
        {
            "cause": cause,
            "meaning": CAUSES[cause],
            "times": count(row["times"]),
            "hours": figure(row["seconds"] / 3600, 3),
            "parts": [duration(row[part]) if row[part] else NOTHING for part in LOST],
        }
        for cause, row in table.items()
    ]
    return {
        "rows": rows,
        "columns": [PARTS[part] for part in LOST],
        "kept": figure(kept / 3600, 3),
        "elapsed": figure(training.elapsed / 3600, 3),
        "effective": percent(training.effective),
    }


def proven(account: Account) -> dict[str, Any]:
    """What was replayed to the bit, and what changed in mid-run."""
    found = account.verified
    return {
        "spans": [f"{first} to {last}" for first, last in found["spans"]],
        "steps": count(found["steps"]),
        "of": count(account.training.last.get("step", 0)),
        "bad": [event for event in found["replays"] if event["verdict"] != "holds"],
        "changes": [f"{what}: {change}" for what, each in account.changes.items() for change in each],
    }


def power(account: Account) -> dict[str, Any]:
    """Energy by stage and phase with where each joule comes from, useful and wasted, and the carbon line."""
    sources = sorted({source for cost in account.costs for source in cost.joules})
    phases = [
        {
            "stage": cost.stage,
            "phase": name,
            "seconds": duration(part["seconds"]),
            "cpu": duration(part["cpu_seconds"]),
            "joules": [energy(part["joules"].get(source)) for source in sources],
        }
        for cost in account.costs
        for name, part in cost.phases.items()
    ]
    shown = {"cpu_seconds": ("CPU time", duration), **{source: (f"energy ({source})", energy) for source in sources}}
    split = [
        {"what": title, "useful": show(account.waste.useful.get(what, 0.0)), "wasted": show(account.waste.wasted.get(what, 0.0))}
        for what, (title, show) in shown.items()
        if what in account.waste.useful
    ]
    absent, unread = account.carbon.absent_seconds, account.waste.unread_seconds
    return {
        "sources": sources,
        "phases": phases,
        "split": split,
        "carbon": carbon_line(account.carbon),
        "absent": duration(absent) if absent else None,
        "unread": duration(unread) if unread else None,
    }


def environments(tries: Sequence[Attempt]) -> dict[str, Any]:
    """The machine and libraries, and which of these facts differed between attempts."""
    seen = [(attempt.stage, attempt.begin.get("environment") or {}) for attempt in tries]
    facts: dict[str, list[str]] = {}
    for _, environment in seen:
        for name, value in environment.items():
            values = facts.setdefault(name, [])
            if str(value) not in values:
                values.append(str(value))
    return {"facts": list(facts.items()), "changed": [name for name, values in facts.items() if len(values) > 1]}


def headline(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures at the top: what there is of them. `facts` are the other sections."""
    train, plan, training = facts["train"] or {}, facts["training"].plan, facts["training"]
    seconds = train.get("seconds") or training.last.get("seconds")
    tokens = train.get("tokens") or training.last.get("tokens")
    parameters = train.get("parameters") or plan.get("parameters")
    steps = train.get("steps") or training.last.get("step")
    device = _device(train.get("device") or plan.get("device"))
    best, bill = facts["lead"], facts["cost"]
    metered = energy(bill["joules"]) if bill["joules"] is not None else "no energy counter on this machine"
    score, xz = (best["model"]["text"], best["xz"]) if best else (None, None)
    tiles = [
        ("parameters", rounded(parameters), f"{count(parameters)} exactly"),
        ("training tokens", rounded(tokens), f"in {count(steps)} steps"),
        ("training time", duration(seconds), f"of steps, on {device}" if device else "of steps"),
        (f"bits per byte on {best['name']}" if best else "bits per byte", score, f"xz needs {xz['text']}" if xz else "lower is better"),
        ("CPU-hours, all stages", hours(bill["cpu_seconds"]) if bill["rows"] else None, metered),
    ]
    return [_tile(*tile) for tile in tiles]


def _tile(title: str, value: str | None, note: str) -> dict[str, str]:
    """One figure of the headline; its note explains a figure that is there."""
    known = value not in (None, NOTHING)
    return {"title": title, "value": value if value and known else "not yet", "note": note if known else ""}
