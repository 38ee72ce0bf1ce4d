"""Models beside each other on the same items: differences with intervals, and tests that know that the items are the same.

The paired bootstrap draws items (Efron and Tibshirani 1993; Koehn 2004): the interval is that of the difference, its p-value twice the
share of differences beyond zero. McNemar's exact test (1947) asks of items that one model gets right and the other wrong whether they
fall to either side as a coin does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openbook.errors import InputError
from openbook.evaluate.interval import ends
from openbook.model.initialise import generator
from openbook.words import figure, percent

RESAMPLES = 2_000
SAME = ("version", "task_sha256", "data_sha256", "examples_sha256", "shots", "seed")
"""What has to be equal for items to be the same questions."""


def scores_folder(target: Path) -> Path:
    """A folder of scores: the path itself, or a run's. Raises InputError if there are none."""
    found = next((folder for folder in (target / "scores", target) if any(_tasks(folder))), None)
    if found is None:
        raise InputError(f"{target}: has no scores of tasks; `openbook evaluate {target} --task NAME` makes some")
    return found


def _tasks(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        whole = json.loads(path.read_bytes())
        if isinstance(whole, dict) and "items" in whole and "metrics" in whole:
            found[path.stem] = whole
    return found


def compare(targets: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The first against each other one: a row for each task and metric, and the tasks that cannot be compared with why."""
    folders = [scores_folder(target) for target in targets]
    first, *others = [_tasks(folder) for folder in folders]
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for target, theirs in zip(targets[1:], others, strict=True):
        for name in sorted(first.keys() | theirs.keys()):
            if name not in first or name not in theirs:
                left_out[f"{name} ({target})"] = "only one of them has it"
            elif different := [key for key in SAME if first[name][key] != theirs[name][key]]:
                left_out[f"{name} ({target})"] = f"{different[0]} differs: these are not the same questions"
            else:
                rows += [{"task": name, "a": str(targets[0]), "b": str(target), **row} for row in paired(first[name], theirs[name])]
    if not rows:
        why = next(iter(left_out.items()), ("", "no tasks"))
        raise InputError(f"nothing to compare: {why[0]}: {why[1]}")
    return sorted(rows, key=lambda row: (row["task"], row["b"])), left_out


def paired(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the items that both have: the task's metric where items have it, else every score of an item, and the right answer's bits."""
    mine, theirs = ({(item["item"], item["draw"]): item for item in whole["items"]} for whole in (a, b))
    keys = sorted(mine.keys() & theirs.keys())
    names = [a["metric"]] if keys and a["metric"] in mine[keys[0]]["scores"] else list(mine[keys[0]]["scores"]) if keys else []
    rows = []
    for name in names:
        values = [(float(mine[key]["scores"][name]), float(theirs[key]["scores"][name])) for key in keys]
        own, other = np.array(values).T
        ones = np.ones(len(keys))
        rows.append({"metric": name, **_difference(_by_item(keys, own, ones), _by_item(keys, other, ones)), "mcnemar": mcnemar(own, other)})
    if keys and all(item["logprobs"] for whole in (mine, theirs) for item in (whole[key] for key in keys)):
        (tops, bottoms), (other_tops, other_bottoms) = (_bits([whole[key] for key in keys]) for whole in (mine, theirs))
        rows.append(
            {
                "metric": "bits_per_byte",
                **_difference(_by_item(keys, tops, bottoms), _by_item(keys, other_tops, other_bottoms)),
                "mcnemar": None,
            }
        )
    return rows


def _bits(items: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    places = [item.get("gold", 0) for item in items]
    bits = [-item["logprobs"][place] / math.log(2) for item, place in zip(items, places, strict=True)]
    return np.array(bits), np.array([float(item["bytes"][place]) for item, place in zip(items, places, strict=True)])


def _by_item(keys: Sequence[tuple[int, int]], tops: Any, bottoms: Any) -> Any:
    """Sums over the draws of an item: (items, 2)."""
    numbers, places = np.unique([item for item, _ in keys], return_inverse=True)
    return np.stack([np.bincount(places, values, len(numbers)) for values in (tops, bottoms)], 1)


def _difference(a: Any, b: Any) -> dict[str, Any]:
    """b less a, each a sum over a sum, with the paired bootstrap."""
    dice = generator(0, "paired bootstrap")
    count = len(a)
    value = {"value_a": _ratio(a), "value_b": _ratio(b), "difference": _ratio(b) - _ratio(a), "items": count}
    if count == 1:
        return {**value, "low": None, "high": None, "p": None}
    drawn = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        places = dice.integers(0, count, count)
        drawn[index] = _ratio(b[places]) - _ratio(a[places])
    low, high = ends(drawn)
    beyond = min((drawn <= 0).mean(), (drawn >= 0).mean())
    return {**value, "low": low, "high": high, "p": min(1.0, max(2 * float(beyond), 1 / RESAMPLES))}


def _ratio(parts: Any) -> float:
    return float(parts[:, 0].sum() / parts[:, 1].sum())


def mcnemar(a: Any, b: Any) -> dict[str, Any] | None:
    """Of scores that are 0 or 1: how many only one model gets right, and the two-sided exact p-value; None for other scores."""
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        return None
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    apart, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(apart, k) for k in range(fewer + 1)) / 2**apart
    return {"only_a": only_a, "only_b": only_b, "p": min(1.0, 2 * tail)}


def told(rows: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> str:
    """A table for each B: a line for each task and metric."""
    head = ("task", "metric", "A", "B", "B − A", "95 % interval", "p (bootstrap)", "p (McNemar)", "items")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(f"{cell:{'<' if column < 2 else '>'}{widths[column]}}" for column, cell in enumerate(row))

    lines = []
    for other in dict.fromkeys(row["b"] for row in rows):
        lines += [f"A = {rows[0]['a']}, B = {other}", line(head), *(line(_cells(row)) for row in rows if row["b"] == other)]
    return "\n".join([*lines, *(f"left out  {name}: {why}" for name, why in left_out.items())])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    show = figure if row["metric"] == "bits_per_byte" else percent
    spread = "–" if row["low"] is None else f"{show(row['low'])} … {show(row['high'])}"
    exact = row["mcnemar"]["p"] if row["mcnemar"] else None
    values = (show(row["value_a"]), show(row["value_b"]), show(row["difference"]), spread)
    return (row["task"], row["metric"], *values, figure(row["p"], 4), figure(exact, 4), str(row["items"]))
