"""The tasks that a model was put to, as plain data: the table, bars, the curves while training, and items to read one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openbook.scores import curve, drawings, summary, task_files
from openbook.words import count, figure, is_number, percent, printable

ITEMS = 20
"""Items of a task that the page holds: some that were wrong, some that were right."""
LONGEST = 1200
"""Characters of a prompt or an answer; of a longer one the beginning and the end."""
PERCENT = ("accuracy", "exact", "f1", "number_match", "pass@", "content_overlap")


def tasks(run: Path) -> dict[str, Any]:
    """The rows of the table and bars, curves against the number of demonstrations as SVG, and each task's items."""
    rows, drawn = [_row(row) for row in summary(run)], curve(run)
    return {"rows": rows, "curves": drawings(drawn) if drawn else {}, "items": [_items(whole) for whole in task_files(run / "scores")]}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    share = row["metric"].startswith(PERCENT)
    show = percent if share else figure
    interval = f"{show(row['low'])} to {show(row['high'])}" if is_number(row["low"]) else ""
    places = {name: round(100 * row[key], 2) if share and is_number(row[key]) else None for name, key in PLACES.items()}
    split = row["contamination"]
    parts = {part: show((split[part] or {}).get("value")) for part in ("clean", "dirty")} if split else None
    return {
        "task": row["task"],
        "title": printable(row["title"]),
        "metric": row["metric"],
        "shots": count(row["shots"]),
        "count": count(row["count"]),
        "chance_text": percent(row["chance"]) if share else "–",
        "text": show(row["value"]),
        "interval": interval,
        "split": parts,
        **places,
    }


PLACES = {"width": "value", "left": "low", "right": "high", "chance": "chance"}
"""Of a bar's parts, in hundredths of its track."""


def _items(whole: Mapping[str, Any]) -> dict[str, Any]:
    metric = whole["metric"]
    ordered = sorted(whole["items"], key=lambda item: (item["draw"], item["item"]))
    wrong = [item for item in ordered if item["scores"].get(metric, 0.0) < 1]
    right = [item for item in ordered if item["scores"].get(metric, 0.0) >= 1]
    half = ITEMS // 2
    kept = wrong[: max(half, ITEMS - len(right))]
    chosen = sorted([*kept, *right[: ITEMS - len(kept)]], key=lambda item: (item["draw"], item["item"]))
    return {"task": whole["task"], "shown": len(chosen), "all": len(ordered), "items": [_item(item, metric) for item in chosen]}


def _item(item: Mapping[str, Any], metric: str) -> dict[str, Any]:
    score = item["scores"].get(metric)
    samples = item.get("samples")
    return {
        "number": item["item"],
        "mark": "right" if score is not None and score >= 1 else "wrong" if score == 0 else "scored" if score is None else figure(score, 2),
        "contexts": [_short(text) for text in dict.fromkeys(item["contexts"]) if text],
        "choices": _choices(item),
        "written": _short(item["written"]) if "written" in item else None,
        "wanted": _short(_wanted(item)),
        "verdict": printable(samples[0]["why"]) if samples else "",
    }


def _wanted(item: Mapping[str, Any]) -> str:
    answers = item.get("answers")
    if answers:
        return str(answers[0] if isinstance(answers[0], str) else ", ".join(answers[0]))
    return str(item["continuations"][0]) if "gold" not in item else ""


def _choices(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "gold" not in item:
        return []
    texts = item["contexts"] if len(set(item["contexts"])) > 1 else item["continuations"]
    return [
        {"text": _short(text), "gold": place == item["gold"], "chosen": place == item["prediction"], "probability": percent(probability)}
        for place, (text, probability) in enumerate(zip(texts, item["probabilities"], strict=True))
    ]


def _short(text: Any) -> str:
    whole = printable(str(text))
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST // 2]} […] {whole[-LONGEST // 2 :]}"


def looks(evaluations: Mapping[int, dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[float | None]]]:
    """The evaluations while training, in order, and the values of each task that is a share of 1."""
    events = [evaluations[step] for step in sorted(evaluations)]
    names = sorted({name for event in events for name, row in event["tasks"].items() if row["metric"].startswith(PERCENT)})
    return events, {name: [event["tasks"].get(name, {}).get("value") for event in events] for name in names}
