"""What a run's scores say, for whoever tells of them: the report, the model card. Reads files only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """A row for each task in RUN/scores: task, title, kind, metric, value, low, high, shots, count, chance, model (a digest of the weights),
    contamination (as the file has it, or None)."""
    rows = []
    for whole in task_files(run / "scores"):
        found = whole["metrics"].get(whole["metric"], {})
        figures = {name: found.get(name) for name in ("value", "low", "high")}
        rows.append({**{name: whole[name] for name in SHOWN}, **figures, "contamination": whole.get("contamination")})
    return rows
