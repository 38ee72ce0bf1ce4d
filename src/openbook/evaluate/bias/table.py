"""Results of an audit as a person reads them in a terminal; the same lines are the report's and the card's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openbook.words import NOTHING, count, figure, percent

SHOW: dict[str, Callable[[Any], str]] = {"share": percent, "points": lambda value: figure(value, 2), "nats": figure, "score": figure}

ENOUGH = 10
"""Texts that name a group, before its rate of false positives is worth a headline."""


def lines_of(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the summary says of one measure: all figures of its first group, and the first figure of each other group that is shown."""
    by_group = {row["group"]: row for row in result["rows"]}
    lines = []
    for place, group in enumerate(name for name in result["shown"] if name in by_group):
        named = [one for one in result["figures"] if one["name"] in by_group[group]["figures"]]
        lines += [_line(result, by_group[group], one) for one in (named if place == 0 else named[:1])]
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


def table(results: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> str:
    """A line for each figure that is shown, the quality of the toxicity scorer, and what was left out."""
    head = ("measure", "group", "figure", "value", "95 % interval", "unbiased", "items", "published")
    keys = ("measure", "group", "figure", "value", "interval", "unbiased", "count", "published")
    rows = [head, *(tuple(line[key] for key in keys) for result in results for line in lines_of(result))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    text = [
        "  ".join(f"{cell:{'>' if 3 <= column <= 6 else '<'}{widths[column]}}" for column, cell in enumerate(row)).rstrip() for row in rows
    ]
    quality = next((result["scorer_quality"] for result in results if "scorer_quality" in result), None)
    text += [f"scorer    {quality_line(quality)}"] if quality else []
    text += [f"absent    {result['measure']}: {', '.join(result['absent'])}" for result in results if result["absent"]]
    text += [f"note      {result['measure']}: {result['left_out']} left out. {result['note']}" for result in results if result["note"]]
    return "\n".join([*text, *(f"left out  {name}: {why}" for name, why in left_out.items())])


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
