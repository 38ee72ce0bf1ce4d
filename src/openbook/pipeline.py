"""The stages of a run, in order, and what it takes to bring a run up to date."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openbook.errors import InputError
from openbook.run import Run, Stage

if TYPE_CHECKING:
    from openbook.train.workers import Seat

STAGES = {
    "corpus": "openbook.corpus",
    "tokenize": "openbook.tokens",
    "mixture": "openbook.mixture",
    "train": "openbook.train",
    "evaluate": "openbook.evaluate",
    "export": "openbook.export",
    "report": "openbook.report",
}
"""Names of the stages and the modules that hold them; one is imported when its turn comes."""


@dataclass(frozen=True)
class Done:
    """One stage of an update: what the manifest now says, and whether there was anything to do."""

    stage: str
    skipped: bool
    seconds: float
    record: dict[str, Any]


def stage_named(name: str) -> Stage:
    stage: Stage = importlib.import_module(STAGES[name]).STAGE
    return stage


def up_to(until: str | None) -> list[str]:
    """Names of the stages up to and with `until`, or all of them. Raises InputError for a name that is none."""
    names = list(STAGES)
    if until is None:
        return names
    if until not in names:
        raise InputError(f"--until {until}: no such stage; stages are {', '.join(names)}")
    return names[: names.index(until) + 1]


def watched(run: Run) -> None:
    """Hands the evaluate stage's tasks to a training that wants them. Raises InputError for ones that cannot be asked."""
    if run.recipe.evaluate.tasks and run.watch is None:
        from openbook.evaluate.watch import watcher

        run.watch = watcher(run)


def update(run: Run, names: list[str], again: bool = False, workers: int = 1, spares: int | None = None) -> Iterator[Done]:
    """Carries out the named stages that are stale, in order; `again` takes all of them for stale. Yields each as it is done.

    `train` is carried out by `workers` processes; if `spares` is not None, by ones that replace each other without a restart, with so many
    standing by. Raises InputError, before anything is done, if there is not enough work for them.
    """
    for name in names:
        run.require_own_training(name)
    if "train" in names:
        watched(run)
    if (workers == 1 and spares is None) or "train" not in names:
        yield from _update(run, names, again)
        return
    from openbook.train import require_enough_work

    require_enough_work(workers, run.recipe.train)
    if spares is not None:
        from openbook.train.hot_launch import require_hot

        require_hot(run.recipe.train)
    at = names.index("train")
    yield from update(run, names[:at], again)
    yield _train(run, workers, again, spares)
    yield from update(run, names[at + 1 :], again)


def update_as_worker(run: Run, seat: Seat, again: bool = False) -> Iterator[Done]:
    """Takes a seat among the workers of the train stage. Only rank 0 locks the run, writes, and has something to yield."""
    from openbook.train import dismiss, follow, join_for, stage_with

    run.require_own_training("train")
    watched(run)
    workers = join_for(run, seat)
    try:
        if workers.rank == 0:
            for done in _update(run, ["train"], again, lambda _: stage_with(workers)):
                if done.skipped:
                    dismiss(workers)
                yield done
        else:
            follow(run, workers)
    finally:
        workers.leave()  # a process that ends in the group's threads is aborted by them


def _train(run: Run, workers: int, again: bool, spares: int | None) -> Done:
    """The train stage in processes of their own, the first of which locks the run; looked at here so that nothing is started in vain."""
    from openbook.train.hot_launch import supervise_hot
    from openbook.train.launch import supervise

    begin = time.monotonic()
    with run.locked():
        stage = stage_named("train")
        current = not again and run.is_current(stage)
        run.inputs(stage)
    if not current:
        accepted = ["--accept-change", run.accepted_change] if run.accepted_change is not None else []
        arguments, patience = [*(["--again"] if again else []), *accepted], run.recipe.train.hang_seconds
        if spares is None:
            supervise(run.path, workers, patience, arguments)
        else:
            supervise_hot(run.path, workers, spares, patience, arguments)
    with run.locked():
        record = run.stage_record("train")
    assert record is not None
    return Done("train", current, round(time.monotonic() - begin, 2), record)


def _update(run: Run, names: list[str], again: bool, stage_of: Callable[[str], Stage] = stage_named) -> Iterator[Done]:
    with run.locked():
        for name in names:
            stage = stage_of(name)
            begin = time.monotonic()
            current = not again and run.is_current(stage)
            record = run.stage_record(name) if current else run.carry_out(stage)
            assert record is not None
            yield Done(name, current, round(time.monotonic() - begin, 2), record)
