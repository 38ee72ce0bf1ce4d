"""A run on disk: its folder, its lock, its manifest, and which stage is stale.

A stage is described by data (`Stage`) and carried out by `Run.carry_out`. Its key is the digest of its name, its version, its
parameters and its inputs; a stage whose key stands in the manifest with all its artifacts in place is skipped.
"""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openbook import written
from openbook.errors import InputError, OpenbookError, Stopped
from openbook.files import sha256_file, sha256_json, write_json, write_text
from openbook.lease import Lease, Overtaken
from openbook.logbook import Logbook, Meter, environment, read, spent
from openbook.recipe import Recipe

IMPORT = "import"
"""The record of a run whose weights were trained elsewhere; it stands for those of corpus, tokenize and train."""
_IMPORTED = ("corpus", "tokenize", "train")


@dataclass(frozen=True)
class Outcome:
    """What a stage made: files or folders, relative to the run, and a few figures for people."""

    artifacts: Sequence[str]
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    `version` rises when the stage's code gives another result for the same inputs. `reads` names the stages whose artifacts it
    needs. `parameters` gives what else it depends on: its part of the recipe, as a rule.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    parameters: Callable[[Run], Any]
    carry_out: Callable[[Run], Outcome]


class Run:
    """A run directory that exists. `recipe` is the resolved one; relative paths in it start at `recipe_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise InputError(f"{path}: no such run directory; `openbook run RECIPE --out {path}` makes one")
        if not (path / "recipe.resolved.json").is_file():
            raise InputError(f"{path}: not a run directory (it has no recipe.resolved.json)")
        try:
            self.recipe = Recipe.model_validate_json((path / "recipe.resolved.json").read_bytes())
            self.manifest = self._read_manifest()
        except (ValueError, FileNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: recipe.resolved.json or manifest.json is damaged or of another version ({reason})") from None
        self._logbook: Logbook | None = None
        self._lease: Lease | None = None
        self.meter: Meter | None = None
        """Of the stage that is being carried out."""
        self.accepted_change: str | None = None
        """Why training may go on under another numerics contract, in the user's words."""
        self.watch: Callable[[Any, str, int], dict[str, Any]] | None = None
        """Puts the recipe's tasks to a model that is being trained (openbook.evaluate.watch): stages do not import each other."""

    def _read_manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.path / "manifest.json").read_bytes())
        return manifest

    @property
    def recipe_folder(self) -> Path:
        return Path(self.manifest["recipe"]["folder"])

    @property
    def logbook_path(self) -> Path:
        return self.path / "logbook.jsonl"

    @property
    def logbook(self) -> Logbook:
        """The logbook, for writing; only inside `locked`."""
        if self._logbook is None:
            raise RuntimeError("the run is not locked")
        return self._logbook

    @contextmanager
    def locked(self, patience: float = 0.0) -> Iterator[None]:
        """Makes this process the run's only writer; the operating system frees the lock when the process ends, however it ends.

        Raises InputError if another process has the lock, and does not free it within `patience` seconds.
        """
        with _lock(self.path, patience) as lease, Logbook(self.logbook_path, guard=lease.require) as book:
            self._logbook, self._lease = book, lease
            self.manifest = self._read_manifest()  # another process may have carried out a stage since
            try:
                yield
            finally:
                self._logbook = self._lease = None

    def require_lease(self) -> None:
        """Raises Overtaken if another process has made itself the run's writer; does nothing for a process that never was."""
        if self._lease:
            self._lease.require()

    def stage_record(self, name: str) -> dict[str, Any] | None:
        record: dict[str, Any] | None = self.manifest["stages"].get(name)
        return record

    @property
    def imported(self) -> bool:
        """Whether the weights were trained elsewhere."""
        return IMPORT in self.manifest["stages"]

    def require_own_training(self, stage: str) -> None:
        """Raises InputError if a stage would make what was imported."""
        if self.imported and stage in _IMPORTED:
            source = self.manifest["stages"][IMPORT]["summary"]["source"]
            raise InputError(f"{self.path}: imported from {source}, so there is nothing to {stage}; use a recipe and another --out")

    def _maker(self, stage: str) -> str:
        return IMPORT if self.imported and stage in _IMPORTED else stage

    def inputs(self, stage: Stage) -> dict[str, str]:
        """The digest of every stage that a stage reads. Raises InputError if one has not been made; an imported model may be without any
        but the import."""
        inputs: dict[str, str] = {}
        for name in map(self._maker, stage.reads):
            record = self.stage_record(name)
            if record is None and self.imported:
                continue
            if record is None:
                raise InputError(f"{self.path}: {stage.name} needs {name} first; `openbook {name} {self.path}` makes it")
            inputs[name] = record["sha256"]
        return inputs

    def key(self, stage: Stage) -> str:
        """What a stage's result is a function of, as a digest."""
        facts = {"stage": stage.name, "version": stage.version, "parameters": stage.parameters(self), "inputs": self.inputs(stage)}
        return sha256_json(facts)

    def is_current(self, stage: Stage) -> bool:
        """Whether the stage's artifacts are those that its recipe and inputs call for, and lie there with their sizes."""
        record = self.stage_record(stage.name)
        if record is None or record["key"] != self.key(stage):
            return False
        return all(_size(self.path / name) == entry["bytes"] for name, entry in record["artifacts"].items())

    def carry_out(self, stage: Stage) -> dict[str, Any]:
        """Runs a stage and records it; returns its record. The run must be locked."""
        with self.attempt(stage) as finish:
            return finish(stage.carry_out(self))

    @contextmanager
    def attempt(self, stage: Stage) -> Iterator[Callable[[Outcome], dict[str, Any]]]:
        """An attempt at a stage, from its begin in the logbook to its end there, whichever it is. Gives the function that records what
        the stage has made, and returns the record. The run must be locked."""
        key, inputs = self.key(stage), self.inputs(stage)
        self.logbook.append("stage.begin", stage=stage.name, key=key, environment=environment())
        with Meter() as meter:
            self.meter = meter
            try:
                yield lambda outcome: self._record(stage, key, inputs, meter, outcome)
            except BaseException as error:
                self._farewell(stage, meter, error)
                raise

    def _record(self, stage: Stage, key: str, inputs: dict[str, str], meter: Meter, outcome: Outcome) -> dict[str, Any]:
        artifacts = dict(sorted(self._digests(outcome.artifacts)))
        record = {
            "key": key,
            "version": stage.version,
            "inputs": inputs,
            "sha256": sha256_json({name: entry["sha256"] for name, entry in artifacts.items()}),
            "artifacts": artifacts,
            "summary": dict(outcome.summary),
        }
        self.logbook.append("stage.end", stage=stage.name, key=key, sha256=record["sha256"], summary=record["summary"], cost=meter.cost())
        self.logbook.sync()
        record["cost"] = spent(read(self.logbook_path), stage.name, key).as_cost()
        self.manifest["stages"][stage.name] = record
        self.require_lease()
        write_json(self.path / "manifest.json", self.manifest)
        return record

    def _farewell(self, stage: Stage, meter: Meter, error: BaseException) -> None:
        """Records why a stage stopped, unless the disk is what failed, or the run is no longer this process's."""
        if isinstance(error, Overtaken):
            return
        cause = error.cause if isinstance(error, Stopped) else f"{type(error).__name__}: {error}"
        try:
            self.logbook.append("stage.stopped", stage=stage.name, cause=cause, cost=meter.cost())
        except OSError as problem:
            if problem.errno != errno.ENOSPC:
                raise

    def _digests(self, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in names:
            path = self.path / name
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    yield str(file.relative_to(self.path)), {"sha256": sha256_file(file), "bytes": file.stat().st_size}

    def weights(self) -> list[str]:
        """The files of the weights: what the manifest records in weights/ of the stage that made them."""
        record = self.stage_record(self._maker("train")) or {"artifacts": {}}
        return [name for name in record["artifacts"] if name.startswith("weights/")]

    def verified(self, stage: str, name: str) -> Path:
        """The path of an artifact whose bytes are those the manifest records. Raises OpenbookError that names the file otherwise."""
        record = self.stage_record(self._maker(stage))
        entry = record["artifacts"].get(name) if record else None
        path = self.path / name
        again = f"import it again, or put {name} back" if self.imported else f"`openbook {stage} {self.path} --again` makes it anew"
        if entry is None:
            raise OpenbookError(f"{path}: the manifest does not know this file; {again}")
        if not path.is_file() or sha256_file(path) != entry["sha256"]:
            problem = "its bytes are not those in the manifest" if path.is_file() else "is missing"
            raise OpenbookError(f"{path}: {problem}; {again}")
        return path


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


class Busy(InputError):
    """Another process holds the run's lock."""


@contextmanager
def _lock(path: Path, patience: float = 0.0) -> Iterator[Lease]:
    deadline = time.monotonic() + patience
    with (path / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(f"{path}: another openbook command is writing this run; wait for it, or use another --out") from None
                time.sleep(0.02)
        yield Lease(path)


def open_run(path: Path, recipe: Recipe, source: Path, fresh: bool = False) -> Run:
    """Makes or updates the run directory for a recipe read from `source`.

    Raises InputError if the directory holds the training of another recipe, unless `fresh`, which discards that training.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / "recipe.resolved.json").exists():
        raise InputError(f"{path}: is a folder that holds something else; choose another --out")
    path.mkdir(parents=True, exist_ok=True)
    with _lock(path) as lease:
        known = (path / "recipe.resolved.json").exists() and (path / "manifest.json").exists()
        old = Run(path).recipe if known else recipe
        if known:
            Run(path).require_own_training("train")
        changed, reshaped = differences(old, recipe), _changes(old.shaping(), recipe.shaping())
        trained = [folder for folder in ("checkpoints", "weights") if (path / folder).exists()]
        if trained and fresh:
            for folder in trained:
                shutil.rmtree(path / folder)
        elif trained and reshaped:
            raise InputError(
                f"{path}: was trained with another recipe ({reshaped[0]}); choose another --out, or add --fresh to discard its training"
            )
        if not known:
            write_json(path / "manifest.json", {"recipe": {}, "stages": {}})
        if changed or not known:
            manifest = json.loads((path / "manifest.json").read_bytes())
            manifest["recipe"] = {"sha256": recipe.sha256(), "folder": str(source.resolve().parent)}
            write_text(path / "recipe.toml", written.read(source).text)
            write_text(path / "recipe.resolved.json", recipe.model_dump_json(indent=2) + "\n")
            write_json(path / "manifest.json", manifest)
            with Logbook(path / "logbook.jsonl", guard=lease.require) as book:
                book.append("recipe", sha256=recipe.sha256(), changed=changed)
    return Run(path)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What changed between two recipes, as "key: old -> new"."""
    return _changes(old.model_dump(mode="json"), new.model_dump(mode="json"))


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flatten(inner, f"{prefix}.{key}" if prefix else key)
        else:
            yield prefix, value

    before, after = dict(flatten(old)), dict(flatten(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]
