"""Where tasks on shards are carried out: here, in one process or several, or on a Ray cluster. The only module that knows Daft.

A task is a line of text that says it all, and its result is another: with files named by what they hold, it does not matter where, in
which order or how often a task is carried out.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from openbook.errors import InputError
from openbook.recipe_steps import EngineSection


def each(function: str, tasks: Sequence[str], engine: EngineSection) -> Iterator[tuple[str, str]]:
    """(task, result) for every task, in the order in which they are done. `function` is "module:name", of str -> str."""
    if len(tasks) == 0:
        return
    if engine.on == "here" and (engine.workers == 1 or len(tasks) == 1):
        work = _named(function)
        for task in tasks:
            yield task, work(task)
        return
    yield from _with_daft(function, tasks, engine)


def _named(function: str) -> Any:
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def _with_daft(function: str, tasks: Sequence[str], engine: EngineSection) -> Iterator[tuple[str, str]]:
    daft = _daft(engine.on)

    @daft.cls(max_concurrency=min(engine.workers, len(tasks)), use_process=engine.on == "here")
    class Worker:
        def __init__(self) -> None:
            self.work = _named(function)

        @daft.method(return_dtype=daft.DataType.string())  # type: ignore[untyped-decorator]
        def __call__(self, task: str) -> str:
            return str(self.work(task))

    frame = daft.from_pydict({"task": list(tasks)})
    frame = frame.into_batches(1) if engine.on == "here" else frame.into_partitions(len(tasks))
    task = daft.col("task")
    for row in frame.select(task, Worker()(task).alias("result")).iter_rows():
        yield row["task"], row["result"]


def _daft(on: str) -> Any:
    """Daft, with the runner that the recipe asks for, and without its reports to its makers, nor Ray's."""
    os.environ.update(DO_NOT_TRACK="1", DAFT_ANALYTICS_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", DAFT_PROGRESS_BAR="0")
    os.environ["DAFT_RUNNER"] = "native" if on == "here" else "ray"
    try:
        import daft

        if on != "here":
            importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise InputError(
            f"corpus.engine needs the package {error.name}; `pip install 'openbook[cluster]'` brings it, or leave workers = 1"
        ) from None
    if on != "here":
        daft.set_runner_ray(address=None if on == "ray" else on, noop_if_initialized=True)
    return daft
