"""The results that `openbook audit` leaves, as the terminal, the report and the model card tell them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openbook.files import sha256_file
from openbook.words import NOTHING, count, figure, percent

FOLDER = "audit"
"""Below a run."""
OVERALL = "overall"
"""The group of a measure that is the whole of the others."""
SHOW: dict[str, Callable[[Any], str]] = {"share": percent, "points": lambda value: figure(value, 2), "nats": figure, "score": figure}

ENOUGH = 10
"""Texts that name a group, before its rate of false positives is worth a headline."""


def lines_of(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the summary says of one measure: all figures of the whole, and the first of each of its parts; where there is no whole, all."""
    by_group = {row["group"]: row for row in result["rows"]}
    lines = []
    for group in (name for name in result["shown"] if name in by_group):
        named = [one for one in result["figures"] if one["name"] in by_group[group]["figures"]]
        is_part = OVERALL in by_group and group != OVERALL
        lines += [_line(result, by_group[group], one) for one in (named[:1] if is_part else named)]
    return lines


def _line(result: Mapping[str, Any], row: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, str]:
    show, found = SHOW[described["unit"]], row["figures"][described["name"]]
    published = [
        f"{model} {show(value)}"
        for reference in result["references"]
        if (reference["group"], reference["figure"]) == (row["group"], described["name"])
        for model, value in reference["values"].items()
    ]
    return {
        "measure": result["measure"],
        "group": row["group"],
        "figure": described["name"],
        "value": show(found["value"]),
        "interval": NOTHING if found["low"] is None else f"{show(found['low'])} … {show(found['high'])}",
        "unbiased": show(described["unbiased"]),
        "count": count(row["count"]),
        "published": ", ".join(published),
        "meaning": described["meaning"],
    }


def quality_line(quality: Mapping[str, Any]) -> str:
    """How far toxicity scores can be trusted."""
    if "external" in quality:
        return f"{quality['external']}: external, its quality is not known here"
    rates = quality["false_positive_rates"]
    worst = max((name for name in rates if rates[name]["texts"] >= ENOUGH), key=lambda name: rates[name]["value"], default="all")
    auc, f1, error = (figure(quality[name]) for name in ("auc", "f1", "calibration_error"))
    everywhere, unnamed, named = (percent(rates[name]["value"]) for name in ("all", "no group named", worst))
    return (
        f"our classifier on {count(quality['held_out'])} held-out texts: AUC {auc}, F1 {f1}, calibration error {error}; false positives "
        f"{everywhere}, where no group is named {unnamed}, worst where {worst}: {named} of {count(rates[worst]['texts'])}"
    )


def audit_of(run: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """A run's results, by name, without their items; and what is wrong with files that are no results."""
    results, problems = [], []
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            result: dict[str, Any] = json.loads(path.read_bytes())
            _told(result)
            results.append({key: value for key, value in result.items() if key != "items"})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{FOLDER}/{path.name} is no result of an audit ({type(error).__name__}); `openbook audit RUN` makes it anew")
    return results, problems


def _told(result: dict[str, Any]) -> None:
    """Raises KeyError or TypeError for what the sections could not tell."""
    lines_of(result)
    for name in ("title", "version", "form", "source", "absent", "note", "count", "of", "details"):
        _ = result[name]


def digests(run: Path) -> dict[str, str]:
    """What the report and the card depend on."""
    return {path.name: sha256_file(path) for path in sorted((run / FOLDER).glob("*.json"))}
