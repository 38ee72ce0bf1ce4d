"""Tasks put to a model while it is trained, by the recipe's schedule. No bit of the weights depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.data import data_folder
from openbook.evaluate.models.engine import Engine
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.suite import absent
from openbook.evaluate.task import task_named
from openbook.model.tokenizer import load_tokenizer
from openbook.model.transformer import Transformer
from openbook.run import Run

FOLDER = "training"
"""Below scores/: a folder for each evaluation, with every item."""


def watcher(run: Run) -> Callable[[Transformer, str, int], dict[str, Any]]:
    """(model, digest of the training's key and branch, step) -> by task its metric, value, interval and K. What was finished before an
    interruption is read from its file. Raises InputError, before any step, for a task that cannot be asked."""
    section = run.recipe.evaluate
    tasks, data = [task_named(name) for name in section.tasks], data_folder(None)
    for task in tasks:
        if missing := absent(task, data, section.generated):
            raise InputError(f"{missing[0]}: no such file, which evaluate.tasks needs for {task.name}; or set evaluate.generated = true")
    settings = Settings(section.shots, section.limit, run.recipe.seed, generated=section.generated)

    def look(model: Transformer, origin: str, step: int) -> dict[str, Any]:
        engine = Engine(model, load_tokenizer(run.path / "tokenizer" / "tokenizer.json"), f"{origin} step {step}")
        out = run.path / "scores" / FOLDER / f"step-{step:08d}"
        found = {}
        for task in tasks:
            result = evaluate(engine, task, settings, data, out)
            found[task.name] = {"metric": task.metric, "shots": result["shots"], **result["metrics"][task.metric]}
        return found

    return look
