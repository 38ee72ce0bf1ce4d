"""What the charts draw: few points, plain numbers, JSON that any browser reads."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from openbook.logbook import Event
from openbook.logbook.training import LOST, Training
from openbook.report.scores import looks as task_looks
from openbook.words import count, duration, figure, is_number, percent

AXES = {"tokens": "training tokens", "wall": "time on the clock"}
POINTS = 400
"""The most points that a curve keeps on the page."""
BRANCH_POINTS = 60
"""The most points of a branch that was abandoned; there may be many."""
GAP_STYLES = 6
"""Colours for causes; the legend names them."""
REACH = 0.01
"""How far the smoothed loss looks to either side, as a share of the steps so far."""
TABLE_ROWS = 12


def _rounded(value: Any, digits: int = 5) -> float | None:
    """What JSON and a screen can hold; None for what is not a number."""
    return float(f"{value:.{digits}g}") if is_number(value) else None


def _series(
    name: str, style: str, events: Sequence[Event], values: Sequence[float | None], places: Sequence[int] | None = None
) -> dict[str, Any]:
    places = thin(values) if places is None else places
    series: dict[str, Any] = {"name": name, "style": style, "step": [events[place]["step"] for place in places]}
    for axis in AXES:
        series[axis] = [_rounded(events[place].get(axis), 7) for place in places]
    return {**series, "y": [_rounded(values[place]) for place in places]}


def charts(training: Training, components: Sequence[str]) -> dict[str, Any]:
    """The data of every chart, by the chart's name; {} before the first step."""
    steps = [training.steps[step] for step in sorted(training.steps)]
    looks = [training.validations[step] for step in sorted(training.validations)]
    if not steps:
        return {}
    loss = [event.get("loss") for event in steps]
    drawn: dict[str, Any] = {
        "loss": {"unit": "nats per token", "scale": "log", "series": [_series("each step", "faint", steps, loss)]},
        "norm": {"unit": "gradient norm", "scale": "log", "series": [_series("gradient norm", "s1", steps, _column(steps, "norm"))]},
        "rate": {"unit": "of the peak rate", "scale": "zero", "series": [_series("learning rate", "s2", steps, _column(steps, "rate"))]},
        "speed": {"unit": "tokens per second", "scale": "zero"},
    }
    drawn["speed"]["series"] = [_series("tokens per second", "s3", steps, _column(steps, "tokens_per_second"))]
    drawn["loss"]["branches"] = branches(training)
    # the smoothed curve keeps the same steps, so that a readout compares like with like
    drawn["loss"]["series"].append(_series("smoothed", "s0", steps, smoothed(loss, round(REACH * len(steps))), thin(loss)))
    if looks:
        names = [name for name in components if any(name in event["bits_per_byte"] for event in looks)]
        scores = {name: [event["bits_per_byte"].get(name) for event in looks] for name in names}
        curves = [_series(name, f"s{components.index(name) % 8}", looks, scores[name]) for name in names]
        drawn["validation"] = {"unit": "bits per byte", "scale": "linear", "marked": True, "series": curves}
    tried, values = task_looks(training.evaluations)
    if values:
        curves = [_series(name, f"s{place % 8}", tried, values[name]) for place, name in enumerate(values)]
        drawn["tasks"] = {"unit": "share of items", "scale": "zero", "marked": True, "series": curves}
    for chart in drawn.values():
        chart["text"] = _in_words(chart)
    return drawn


def _column(events: Sequence[Event], name: str) -> list[float | None]:
    return [event.get(name) for event in events]


def _in_words(chart: dict[str, Any]) -> str:
    """A curve for those who cannot see it: where it begins and where it ends."""
    parts = []
    for series in chart["series"]:
        known = [(step, value) for step, value in zip(series["step"], series["y"], strict=True) if value is not None]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            parts.append(f"{series['name']}: {start:g} at step {first}, {end:g} at step {last}")
    return f"Line chart of {chart['unit']}. " + "; ".join(parts) + "."


def branches(training: Training) -> list[dict[str, Any]]:
    """The losses of steps that a resume or a rollback went back on, drawn faded: on the clock all of them, against tokens only those that
    went another way than what was done afterwards."""
    found = []
    for lost in training.abandoned:
        again = [training.steps.get(event["step"], {}).get("loss") for event in lost]
        loss = [event.get("loss") for event in lost]
        series = _series("abandoned", "faint", lost, loss, thin(loss, BRANCH_POINTS))
        found.append({**series, "differs": any(there != here for there, here in zip(again, loss, strict=True))})
    return found


def marks(training: Training) -> list[dict[str, Any]]:
    """Where the interruptions stand on the axes: at the step from which the training went on."""
    found = []
    for number, incident in enumerate(training.incidents, 1):
        event = training.steps.get(incident.resumed if incident.resumed is not None else incident.reached, {})
        place = {"tokens": event.get("tokens", 0), "wall": _rounded(incident.wall, 7)}
        found.append({"number": number, "text": f"interruption {number}: {incident.cause}", **place})
    return found


def gaps(training: Training) -> list[dict[str, Any]]:
    """Stretches of the clock that were lost, each with its cause: nothing was learnt, or (`again`) what was learnt did not count.
    Neighbours of one cause are one, if nothing lies between them that the eye could see."""
    found: list[dict[str, Any]] = []
    near = training.elapsed / POINTS
    for stretch in training.stretches:
        if stretch.part in LOST:
            facts = {"cause": stretch.cause, "again": stretch.part == "again"}
            if found and facts.items() <= found[-1].items() and stretch.at - found[-1]["end"] <= near:
                found[-1]["end"] = stretch.at + stretch.seconds
            else:
                found.append({**facts, "begin": stretch.at, "end": stretch.at + stretch.seconds})
    styles = {cause: place % GAP_STYLES for place, cause in enumerate(dict.fromkeys(gap["cause"] for gap in found))}
    for gap in found:
        gap.update(begin=_rounded(gap["begin"], 7), end=_rounded(gap["end"], 7), style=styles[gap["cause"]])
    return found


def notes(training: Training) -> list[dict[str, Any]]:
    """Where the notes stand on the axes: on the clock, and at the last step that counts before them."""
    steps = [training.steps[step] for step in sorted(training.steps)]
    walls = [event["wall"] for event in steps]
    found = []
    for note in training.notes:
        place = bisect_right(walls, note["wall"]) - 1
        tokens = steps[place].get("tokens", 0) if place >= 0 else 0
        found.append({"text": f"note: {note.get('text', '')}", "wall": _rounded(note["wall"], 7), "tokens": tokens})
    return found


def learning_table(training: Training) -> list[dict[str, str]]:
    """The curves in a dozen rows: evenly spread steps, the first and the last among them."""
    numbers = sorted(training.steps)
    last = len(numbers) - 1
    places = sorted({round(row * last / (TABLE_ROWS - 1)) for row in range(TABLE_ROWS)}) if numbers else []
    shown: dict[str, Callable[[Any], str]] = {
        "step": count,
        "tokens": count,
        "seconds": duration,
        "loss": lambda value: figure(value, 4),
        "norm": figure,
        "rate": percent,
        "tokens_per_second": count,
    }
    return [{name: show(training.steps[numbers[place]].get(name)) for name, show in shown.items()} for place in places]


def validation_table(training: Training, components: Sequence[str]) -> dict[str, Any]:
    looks = [training.validations[step] for step in sorted(training.validations)]
    places = thin([event.get("mean") for event in looks], 2 * TABLE_ROWS)
    names = [name for name in components if any(name in event["bits_per_byte"] for event in looks)]
    rows = [
        {
            "step": count(looks[place]["step"]),
            "tokens": count(looks[place].get("tokens")),
            "values": [figure(looks[place]["bits_per_byte"].get(name)) for name in names],
            "mean": figure(looks[place].get("mean")),
        }
        for place in places
    ]
    return {"names": names, "rows": rows}


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
