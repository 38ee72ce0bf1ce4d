"""The report's section on bias, from audit/*.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openbook.audited import SHOW, audit_of, lines_of, quality_line
from openbook.words import NOTHING, count


def bias(run: Path) -> dict[str, Any] | None:
    """What the template prints; None for a run that was never audited."""
    results, problems = audit_of(run)
    if not results and not problems:
        return None
    scorer = next((quality_line(result["scorer_quality"]) for result in results if "scorer_quality" in result), None)
    return {"measures": [_measure(result) for result in results], "problems": problems, "scorer": scorer}


def _measure(result: Mapping[str, Any]) -> dict[str, Any]:
    described = {one["name"]: one for one in result["figures"]}
    groups = [
        {
            "group": row["group"],
            "count": count(row["count"]),
            "cells": [_cell(row["figures"].get(name), one["unit"]) for name, one in described.items()],
        }
        for row in result["rows"]
    ]
    return {
        **{name: result[name] for name in ("title", "version", "form", "source", "absent", "note")},
        "lines": lines_of(result),
        "columns": list(described),
        "groups": groups,
        "asked": count(result["count"]),
        "of": count(result["of"]),
        "favoured": [
            (group, ", ".join(entry["word"] for entry in entries))
            for group, entries in result["details"].get("favoured", {}).items()
            if entries
        ],
        "published": [
            {
                "group": reference["group"],
                "figure": reference["figure"],
                "values": ", ".join(
                    f"{model} {SHOW[described[reference['figure']]['unit']](value)}" for model, value in reference["values"].items()
                ),
                "source": reference["source"],
            }
            for reference in result["references"]
        ],
    }


def _cell(found: Mapping[str, Any] | None, unit: str) -> tuple[str, str]:
    """A value and its interval."""
    if found is None:
        return NOTHING, ""
    show = SHOW[unit]
    return show(found["value"]), "" if found["low"] is None else f"{show(found['low'])} … {show(found['high'])}"
