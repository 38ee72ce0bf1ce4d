"""In-context learning curves: accuracy against K, for one model or a series of them (Brown et al. 2020, figures 1.2, 3.8 and 3.10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.data import REMEDY
from openbook.evaluate.models import LanguageModel
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.suite import PERCENT, absent
from openbook.evaluate.task import Task
from openbook.files import write_json, write_text
from openbook.page import fill, style
from openbook.scores import drawings, means
from openbook.words import percent

HERE = Path(__file__).parent


def shots_of(text: str) -> list[int]:
    """From "0,1,2,4". Raises InputError for what is not a list of different whole numbers."""
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        ks = []
    if not ks or ks[0] < 0:
        raise InputError(f"--curve {text}: should be numbers of demonstrations, such as 0,1,2,4,8")
    return ks


def measure(
    models: dict[str, LanguageModel], tasks: Sequence[Task], ks: Sequence[int], settings: Settings, data: Path, out: Path
) -> dict[str, Any]:
    """Every model on every task with each K. Each cell keeps its items below `out`, so that an interrupted call goes on. Returns what
    curve.json holds. Raises InputError for a task without data, or whose metric is no share of 1."""
    for task in tasks:
        if not task.metric.startswith(PERCENT):
            raise InputError(f"{task.name}: metric = {task.metric} is no share of 1, which a curve needs; leave it out")
        if missing := absent(task, data, settings.generated):
            raise InputError(f"{missing[0]}: no such file, which the task {task.name} needs; {REMEDY}")
    series: list[dict[str, Any]] = []
    for name, model in models.items():
        points = []
        for task in tasks:
            for k in ks:
                result = evaluate(model, task, replace(settings, shots=k), data, out / "curve" / name.replace("/", "_") / f"{k}-shot")
                cut = result["truncated"]["prompts"]
                points.append({"task": task.name, "k": k, **result["metrics"][task.metric], "chance": result["chance"], "cut": cut})
        series.append({"name": name, "model": model.identity, "points": points})
    found = {"ks": list(ks), "tasks": [task.name for task in tasks], "series": series}
    write_json(out / "curve.json", found)
    write_text(out / "curve.html", page(found))
    for name, drawing in drawings(found, alone=True).items():
        write_text(out / f"curve-{name}.svg", drawing + "\n")
    return found


def table(found: dict[str, Any]) -> list[list[str]]:
    """Head, then a row for each model and task."""
    rows = [["model", "task", *(f"K = {k}" for k in found["ks"])]]
    for series in found["series"]:
        rows += [[series["name"], task, *(percent(p["value"]) for p in series["points"] if p["task"] == task)] for task in found["tasks"]]
        if len(found["tasks"]) > 1:
            rows.append([series["name"], "all", *(percent(point["value"]) for point in means(found, series))])
    return rows


def page(found: dict[str, Any]) -> str:
    return fill(HERE, "curve.html.jinja", drawings=drawings(found), table=table(found), style=style())
