"""Many tasks for one model: what is evaluated, what had to be left out, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.data import REMEDY, path_of
from openbook.evaluate.models import CannotScore, DoesNotFit, LanguageModel
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.task import DataSection, Examples, Task, builtin, suites, task_named
from openbook.words import count, figure, percent

PERCENT = ("accuracy", "exact", "f1", "number_match", "pass@", "content_overlap", "change")
"""Beginnings of the names of metrics that are shares of 1."""

GUARDED = (
    "this system allows no namespaces: Python's audit hooks guarded it from what the model wrote, which keeps out accidents, not attackers"
)


def chosen(suite: str | None, names: Sequence[str]) -> list[Task]:
    """The tasks of a suite, then those named. A suite may also be one task's name. Raises InputError for what there is none of."""
    known = suites()
    listed = [] if suite is None else known.get(suite, [suite])
    try:
        return [task_named(name) for name in dict.fromkeys([*listed, *names])]
    except InputError as error:
        if suite in known or suite is None:
            raise
        raise InputError(f"--suite {suite}: should be one of {', '.join(known)}, or a task: {error}") from None


def absent(task: Task, folder: Path, generated: bool = False) -> list[Path]:
    """The files that a task needs and the data folder lacks."""
    made = not task.data.file or (generated and task.data.generator)
    sections: list[DataSection | Examples] = [] if made else [task.data, *([task.examples] if task.examples else [])]
    paths = [path for section in sections for path in (path_of(section, folder), folder / (section.labels or section.file))]
    paths += [folder / name for section in sections for name in section.beside.values()]
    return [path for path in dict.fromkeys(paths) if not path.is_file()]


def evaluate_all(
    model: LanguageModel, tasks: Sequence[Task], settings: Settings, data: Path, out: Path, corpus: Sequence[Path] | None = None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Results of tasks, and why others of several were left out: no data, an endpoint that cannot score, or a
    window that is too short.

    Raises InputError for one task alone that cannot be evaluated, and if none of several can.
    """
    results, left_out = [], {}
    for task in tasks:
        missing = absent(task, data, settings.generated)
        if missing and len(tasks) > 1:
            left_out[task.name] = f"{missing[0]}: no such file; {REMEDY}"
            continue
        own = settings
        if len(tasks) > 1:  # what the flags mean for the others
            own = replace(own, generated=own.generated and task.data.generator is not None)
            own = replace(own, shots=0, draws=1) if task.kind == "rolling" else own
        try:
            results.append(evaluate(model, task, own, data, out, corpus))
        except (CannotScore, DoesNotFit) as error:
            if len(tasks) == 1:
                raise
            left_out[task.name] = str(error)
    if not results:
        name, why = next(iter(left_out.items()))
        raise InputError(f"none of {len(tasks)} tasks could be evaluated; {name}: {why}")
    return results, left_out


def table(results: Sequence[dict[str, Any]], left_out: dict[str, str]) -> str:
    """A line for each task: its metric, the 95 % interval, chance where one can guess, items, K, prompts that were cut."""
    head = ("task", "metric", "value", "95 % interval", "chance", "items", "K", "cut", "bits/byte")
    rows = [head, *(_cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(f"{cell:{'<' if column < 2 else '>'}{widths[column]}}" for column, cell in enumerate(row)) for row in rows]
    lines += [_split_line(result) for result in results if result.get("contamination")]
    lines += [f"note      {result['task']}: {GUARDED}" for result in results if _guarded(result)]
    return "\n".join([*lines, *(f"left out  {name}: {why}" for name, why in left_out.items())])


def _guarded(result: dict[str, Any]) -> bool:
    return any(not sample.get("apart", True) for item in result["items"] for sample in item.get("samples", ()))


def _split_line(result: dict[str, Any]) -> str:
    found, show = result["contamination"], percent if result["metric"].startswith(PERCENT) else figure
    parts = [f"{part} {show(own['value'])} ({count(own['count'])} items)" for part in ("all", "clean", "dirty") if (own := found[part])]
    return f"overlap   {result['task']}: {', '.join(parts)}; runs of {found['ngram']} words; {len(found['short_items'])} items too short"


def _cells(result: dict[str, Any]) -> tuple[str, ...]:
    name = result["metric"]
    show = percent if name.startswith(PERCENT) else figure
    found = result["metrics"][name]
    spread = "–" if found["low"] is None else f"{show(found['low'])} … {show(found['high'])}"
    bits = result["metrics"].get("bits_per_byte", {}).get("value")
    counts = (count(result["count"]), count(result["shots"]), count(result["truncated"]["prompts"]))
    return (result["task"], name, show(found["value"]), spread, percent(result["chance"]), *counts, figure(bits))


def sources(folder: Path) -> list[dict[str, Any]]:
    """For each built-in task: the files it needs, which of them are absent, and where the set comes from."""
    found = []
    for name in builtin():
        task = task_named(name)
        files = [task.data.file, *([task.data.labels] if task.data.labels else []), *task.data.beside.values()]
        files = [name for name in (*files, *([task.examples.file] if task.examples else [])) if name]
        missing = [str(path) for path in absent(task, folder)]
        hub = task.data.hub.dataset if task.data.hub else None
        found.append(
            {"task": name, "files": files, "absent": missing, "origin": task.data.origin, "hub": hub, "generator": task.data.generator}
        )
    return found
