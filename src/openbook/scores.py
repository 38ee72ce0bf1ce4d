"""What a run's scores say, for whoever tells of them: the report, the model card. Reads files only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from openbook.page.plot import Line, chart

SHOWN = ("task", "title", "kind", "metric", "shots", "count", "chance", "model")


def task_files(folder: Path) -> Iterator[dict[str, Any]]:
    """The whole result of every task below a folder of scores, by name; what is no result of a task is passed over."""
    for path in sorted(folder.glob("*.json")):
        try:
            whole = json.loads(path.read_bytes())
        except ValueError:
            continue
        if isinstance(whole, dict) and {"items", "metrics", *SHOWN} <= set(whole):
            yield whole


def summary(run: Path) -> list[dict[str, Any]]:
    """A row for each task in RUN/scores: task, title, kind, metric, value, low, high, shots, count, chance, model (a digest),
    contamination (as the file has it, or None)."""
    rows = []
    for whole in task_files(run / "scores"):
        found = whole["metrics"].get(whole["metric"], {})
        figures = {name: found.get(name) for name in ("value", "low", "high")}
        rows.append({**{name: whole[name] for name in SHOWN}, **figures, "contamination": whole.get("contamination")})
    return rows


def curve(run: Path) -> dict[str, Any] | None:
    """What `openbook curve` left in RUN/scores, or None."""
    path = run / "scores" / "curve.json"
    return json.loads(path.read_bytes()) if path.is_file() else None


def means(found: dict[str, Any], series: dict[str, Any]) -> list[dict[str, Any]]:
    """The mean over tasks for each K, as in figure 1.2; no interval, for tasks are not drawn at random."""
    return [{"k": k, "value": fmean(p["value"] for p in series["points"] if p["k"] == k), "low": None, "high": None} for k in found["ks"]]


def drawings(found: dict[str, Any], alone: bool = False) -> dict[str, str]:
    """SVG by name: each task, and all of them together where there are several; a line for each model; K on a logarithmic axis."""
    ticks = [(math.log2(k + 1), str(k)) for k in found["ks"]]
    made = {}
    groups = {task: [[p for p in series["points"] if p["task"] == task] for series in found["series"]] for task in found["tasks"]}
    if len(found["tasks"]) > 1:
        groups = {"all": [means(found, series) for series in found["series"]], **groups}
    for name, columns in groups.items():
        lines = [
            Line(series["name"], [(math.log2(p["k"] + 1), p["value"], p["low"], p["high"]) for p in points])
            for series, points in zip(found["series"], columns, strict=True)
        ]
        chance = columns[0][0].get("chance")
        made[name] = chart(lines, ticks, "demonstrations in the context (K)", "accuracy", chance, alone)
    return made
