"""The stages of a run, in order, and what it takes to bring a run up to date."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from openbook.errors import InputError
from openbook.run import Run, Stage

STAGES = {
    "corpus": "openbook.corpus",
    "tokenize": "openbook.tokens",
    "train": "openbook.train",
    "evaluate": "openbook.evaluate",
    "export": "openbook.export",
    "report": "openbook.report",
}
"""Names of the stages and the packages that hold them; a package is imported when its turn comes."""


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


def update(run: Run, names: list[str], again: bool = False) -> Iterator[Done]:
    """Carries out the named stages that are stale, in order; `again` takes all of them for stale. Yields each as it is done."""
    with run.locked():
        for name in names:
            stage = stage_named(name)
            begin = time.monotonic()
            current = not again and run.is_current(stage)
            record = run.stage_record(name) if current else run.carry_out(stage)
            assert record is not None
            yield Done(name, current, round(time.monotonic() - begin, 2), record)
