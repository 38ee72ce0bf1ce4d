"""Results of an audit as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openbook.audited import lines_of, quality_line


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
