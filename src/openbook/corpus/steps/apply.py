"""Steps in order: annotate what has not been annotated, remove what breaks a rule, rewrite, and say what each step did.

A removed row stays in its shard and is only marked. So an annotation depends on the shard alone, and a threshold that changes leaves
every annotation as it is, those of later steps included.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openbook.corpus.engine import each
from openbook.corpus.sources.files import locate
from openbook.corpus.steps.decontaminate import folder_of, set_files
from openbook.corpus.steps.registry import STEPS
from openbook.corpus.steps.shards import about, batches, facts_of, shard_path, texts_of
from openbook.corpus.steps.step import Joined, Removal, Sketch, Step, Verdict, table_rules
from openbook.corpus.steps.trail import NAME as TRAIL
from openbook.corpus.steps.trail import Shard, write_trail
from openbook.corpus.steps.work import ANNOTATE, REWRITE
from openbook.documents import Document, Dropped, Split, Trace
from openbook.errors import InputError
from openbook.files import remove, sha256_json, write_json, write_text
from openbook.progress import track
from openbook.recipe_steps import AnyStep, DecontaminateStep, EngineSection

INDEX = "index.json"
"""Of the work folder: which annotation is of which shard."""
NOTHING_LEFT = "nothing left"


@dataclass(frozen=True)
class Told:
    """What one step did."""

    step: str
    removed: dict[str, dict[str, int]]
    """Documents by component and reason."""
    changed: int = 0
    """Documents whose text is another."""
    report: dict[str, Any] = field(default_factory=dict)


class Steps:
    """Applies steps to the shards in `folder`. `told` has a line for each step.

    `dropped` is told of every removal, `traced` of what else happened to a document of a component; `spared` is asked for the decision
    that keeps a document (component, id, bytes) which a step would remove.
    """

    def __init__(
        self,
        folder: Path,
        engine: EngineSection,
        dropped: Callable[[Dropped], None],
        traced: Callable[[str, Trace], None],
        spared: Callable[[str, str, int, str], int | None],
    ) -> None:
        self.folder, self.engine = folder, engine
        self.dropped, self.traced, self.spared = dropped, traced, spared
        self.told: list[Told] = []
        self.used: set[str] = set()
        self._measured: list[dict[str, Any]] = []

    def apply(self, steps: Sequence[AnyStep], shards: list[Shard], recipe_folder: Path) -> list[Shard]:
        """The shards as they are after all steps. Raises InputError if a step leaves nothing of a component."""
        steps = [_at_home(settings, recipe_folder) for settings in steps]
        done, trail = 0, [shards]
        with track("steps", len(steps)) as bar:
            while done < len(steps):
                together = _together(steps[done:])
                jobs = [_Job(STEPS[settings.step], settings, done + index + 1) for index, settings in enumerate(together)]
                bar.update(done, ", ".join(job.step.name for job in jobs))
                for job in jobs:
                    self._prepare(job, shards)
                self._annotate(jobs, shards)
                for job in jobs:
                    shards = self._carry_out(job, shards)
                    trail.append(shards)
                done += len(jobs)
        write_trail(self.folder, trail)
        self.used.add(TRAIL)
        return shards

    def tidy(self, shards: Sequence[Shard]) -> None:
        """Removes the files that this build did not look at, and writes down which annotation is whose."""
        used = self.used | {f"{shard.key}.parquet" for shard in shards} | {INDEX}
        text = json.dumps(self._measured)
        if not (self.folder / INDEX).exists() or (self.folder / INDEX).read_text() != text:
            write_text(self.folder / INDEX, text)
        for path in self.folder.iterdir():
            if path.name not in used:
                remove(path)

    def _prepare(self, job: _Job, shards: Sequence[Shard]) -> None:
        if not job.step.prepare:
            return
        prepared = job.step.prepare(_Rows(self.folder, shards), job.settings)
        job.context = sha256_json([job.step.name, job.step.version, job.settings.measured(), prepared.facts])
        model, report = self.folder / f"{job.context}.model", self.folder / f"{job.context}.json"
        if not (model.exists() and report.exists()):
            write_json(report, prepared.write(model))
        self.used |= {model.name, report.name}
        job.report = json.loads(report.read_bytes())

    def _annotate(self, jobs: Sequence[_Job], shards: Sequence[Shard]) -> None:
        tasks = []
        for shard in shards:
            wanted = []
            for job in jobs:
                if not job.step.annotate or not job.concerns(shard):
                    continue
                out = job.annotation(shard)
                self.used.add(f"{out}.parquet")
                told = {"number": job.number, "step": job.step.name, "component": shard.component}
                self._measured.append(told | {"shard": shard.key, "annotation": out})
                if not shard_path(self.folder, out).exists():
                    context = str(self.folder / f"{job.context}.model") if job.context else None
                    wanted.append({"settings": job.settings.model_dump(mode="json"), "context": context, "out": out})
            self.used.add(f"{shard.key}.parquet")
            if wanted:
                tasks.append(json.dumps({"folder": str(self.folder), "shard": shard.key, "jobs": wanted}))
        for _ in each(ANNOTATE, tasks, self.engine):
            pass

    def _carry_out(self, job: _Job, shards: list[Shard]) -> list[Shard]:
        concerned = [shard for shard in shards if job.concerns(shard)]
        joined = self._verdicts(job, concerned)
        removed = Counter[tuple[str, str]]()
        after, tasks = [], []
        for shard, verdict in zip(concerned, joined.verdicts, strict=True):
            alive = shard.alive.copy()
            for removal in self._removals(job, shard, verdict.removals):
                alive[removal.row] = False
                removed[shard.component, removal.reason] += 1
            shard = replace(shard, alive=alive)
            if job.step.rewrite and job.step.rewrites(job.settings):
                tasks.append((shard, *self._rewriting(job, shard, verdict)))
            after.append(shard)
        wanted = [task for _, out, task in tasks if not shard_path(self.folder, out).exists()]
        for _ in each(REWRITE, wanted, self.engine):
            pass
        changed = 0
        for index, (shard, out, _) in enumerate(tasks):
            after[index], number = self._rewritten(job, shard, out, removed)
            changed += number
        by_component: dict[str, dict[str, int]] = {}
        for (component, reason), count in sorted(removed.items()):
            by_component.setdefault(component, {})[reason] = count
        self.told.append(Told(job.step.name, by_component, changed, {**job.report, **(joined.report or {})}))
        _require_some(job, concerned, after, by_component)
        kept = iter(after)
        return [next(kept) if job.concerns(shard) else shard for shard in shards]

    def _verdicts(self, job: _Job, shards: Sequence[Shard]) -> Joined:
        if job.step.join:
            sketches = [
                Sketch(partial(self._annotation, job, shard), self._about(shard).column("id").to_pylist(), shard.alive) for shard in shards
            ]
            context = job.step.load(self.folder / f"{job.context}.model") if job.step.load and job.context else None
            return job.step.join(sketches, job.settings, context)
        verdicts = []
        for shard in shards:
            rows = self._about(shard)
            own = self._annotation(job, shard)
            columns = {table_column: table.column(table_column) for table in (rows, own) for table_column in table.column_names}
            verdicts.append(Verdict(table_rules(job.step, job.settings, columns, rows.column("id").to_pylist())))
        return Joined(verdicts)

    def _about(self, shard: Shard) -> pa.Table:
        return about(shard_path(self.folder, shard.key))

    def _annotation(self, job: _Job, shard: Shard) -> pa.Table:
        return pq.read_table(shard_path(self.folder, job.annotation(shard))) if job.step.annotate else pa.table({})

    def _removals(self, job: _Job, shard: Shard, removals: Sequence[Removal]) -> Iterator[Removal]:
        """Those that concern rows still in, each on record."""
        here = sorted((removal for removal in removals if shard.alive[removal.row]), key=lambda removal: removal.row)
        if not here:
            return
        places = [removal.row for removal in here]
        rows = self._about(shard).select(["id", "origin", "bytes", "licence", "meta"]).take(places).to_pylist()
        texts = texts_of(shard_path(self.folder, shard.key), places)
        for removal, row, text in zip(here, rows, texts, strict=True):
            kept = removal.reason != NOTHING_LEFT and self.spared(shard.component, row["id"], row["bytes"], job.step.name)
            if kept:
                against = f"step {job.step.name}: {removal.reason}: {removal.evidence}"
                self.traced(shard.component, Trace(row["id"], row["origin"], "decision", kept, "kept", against))
                continue
            why = (removal.reason, f"{removal.reason}: {removal.evidence}")
            known = (row["id"], job.step.name, row["licence"], row["meta"], text)
            self.dropped(Dropped(row["origin"], shard.component, row["bytes"], *why, *known))
            yield removal

    def _rewriting(self, job: _Job, shard: Shard, verdict: Verdict) -> tuple[str, str]:
        """The name and the task of a rewritten shard."""
        edits = None
        if verdict.edits is not None:
            text = json.dumps(sorted(verdict.edits.items()))
            edits = f"{hashlib.sha256(text.encode()).hexdigest()}.edits"
            if not (self.folder / edits).exists():
                write_text(self.folder / edits, text)
            self.used.add(edits)
        settings = job.settings.model_dump(mode="json", exclude={"components"})
        out = sha256_json([job.step.name, job.step.version, settings, shard.key, edits])
        self.used.add(f"{out}.parquet")
        return out, json.dumps({"folder": str(self.folder), "shard": shard.key, "settings": settings, "edits": edits, "out": out})

    def _rewritten(self, job: _Job, shard: Shard, out: str, removed: Counter[tuple[str, str]]) -> tuple[Shard, int]:
        path = shard_path(self.folder, out)
        parents = about(path).column("parent").to_numpy()
        lost = shard.alive.copy()
        lost[parents] = False
        nothing = [Removal(int(row), NOTHING_LEFT, "the step cut all of the text away") for row in np.flatnonzero(lost)]
        removed[shard.component, NOTHING_LEFT] += len(list(self._removals(job, shard, nothing)))
        if not removed[shard.component, NOTHING_LEFT]:
            del removed[shard.component, NOTHING_LEFT]
        changed = [row for row in facts_of(path)["changed"] if shard.alive[row] and not lost[row]]
        for row in self._about(shard).select(["id", "origin"]).take(pa.array(changed, pa.int64())).to_pylist():
            self.traced(shard.component, Trace(row["id"], row["origin"], job.step.name, job.number))
        return Shard(out, shard.component, shard.alive[parents]), len(changed)


@dataclass
class _Job:
    """A step at its place in the recipe, with its model, if it has one."""

    step: Step
    settings: AnyStep
    number: int
    context: str | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def concerns(self, shard: Shard) -> bool:
        return self.settings.components is None or shard.component in self.settings.components

    def annotation(self, shard: Shard) -> str:
        """The name of the step's annotation of a shard."""
        return sha256_json([self.step.name, self.step.version, self.settings.measured(), self.context, shard.key])


def _together(steps: Sequence[AnyStep]) -> list[AnyStep]:
    """The steps from the first one on that can look at the same shards: up to one that rewrites, or that learns from what is left."""
    found: list[AnyStep] = []
    for settings in steps:
        step = STEPS[settings.step]
        if found and step.prepare:
            break
        found.append(settings)
        if step.rewrite and step.rewrites(settings):
            break
    return found


def _require_some(job: _Job, before: Sequence[Shard], after: Sequence[Shard], removed: dict[str, dict[str, int]]) -> None:
    left: Counter[str] = Counter()
    for shard in after:
        left[shard.component] += int(shard.alive.sum())
    had: Counter[str] = Counter()
    for shard in before:
        had[shard.component] += int(shard.alive.sum())
    for component, count in had.items():
        if count and not left[component]:
            reasons = sorted(removed.get(component, {}).items(), key=lambda item: -item[1])
            listed = ", ".join(f"{number} {reason}" for reason, number in reasons)
            raise InputError(
                f"corpus.steps, number {job.number} ({job.step.name}) leaves nothing of component {component!r}: {count} texts, of which "
                f"{listed}; change its thresholds, or name other components for it"
            )


def _at_home(settings: AnyStep, recipe_folder: Path) -> AnyStep:
    """With the paths that the recipe gives, from its own folder."""
    given = {key: value for key in ("data", "model", "word_list") if (value := getattr(settings, key, None))}
    where = f"corpus.steps: step {settings.step}: "
    return settings.model_copy(update={key: str(locate(value, recipe_folder, where + key)) for key, value in given.items()})


def outside_files(steps: Sequence[AnyStep], recipe_folder: Path) -> list[list[object]]:
    """What a later run compares to see whether evaluation sets, models or lists changed: name, size and time of each."""
    found: list[Path] = []
    for step in (_at_home(step, recipe_folder) for step in steps):
        found += set_files(folder_of(step)) if isinstance(step, DecontaminateStep) else []
        found += [Path(value) for key in ("model", "word_list") if (value := getattr(step, key, None))]
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in found]


def versions(steps: Sequence[AnyStep]) -> dict[str, int]:
    return {settings.step: STEPS[settings.step].version for settings in steps}


def first_shards(folder: Path, component: str, keys: Sequence[str]) -> list[Shard]:
    """Shards as they were read, with every row in."""
    rows = [pq.read_metadata(shard_path(folder, key)).num_rows for key in keys]
    return [Shard(key, component, np.ones(count, bool)) for key, count in zip(keys, rows, strict=True)]


class _Rows:
    """The rows that are still in, as a `Source` for models."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, shards

    def _of(self, components: Sequence[str]) -> list[Shard]:
        found = [shard for shard in self.shards if shard.component in components]
        for name in components:
            if not any(shard.component == name and shard.alive.any() for shard in found):
                raise InputError(f"corpus.steps: component {name!r} is to be learnt from, but holds no text")
        return found

    def digest(self, components: Sequence[str]) -> str:
        return sha256_json([[shard.key, hashlib.sha256(np.packbits(shard.alive).tobytes()).hexdigest()] for shard in self._of(components)])

    def texts(self, components: Sequence[str], limit: int, source: random.Random) -> list[str]:
        """At most `limit` texts, drawn without regard to their order."""
        found = self._of(components)
        places = [(index, int(row)) for index, shard in enumerate(found) for row in np.flatnonzero(shard.alive)]
        chosen = sorted(source.sample(places, min(limit, len(places))))
        texts: list[str] = []
        for index, shard in enumerate(found):
            texts += texts_of(shard_path(self.folder, shard.key), [row for where, row in chosen if where == index])
        return texts


def survivors(folder: Path, shards: Sequence[Shard]) -> Iterator[tuple[Document, Split]]:
    """The documents that all steps left in, in order."""
    for shard in shards:
        place = 0
        for table in batches(shard_path(folder, shard.key)):
            kept = table.filter(pa.array(shard.alive[place : place + len(table)]))
            place += len(table)
            for row in kept.to_pylist():
                yield Document(row["id"], row["text"], shard.component, row["licence"], row["origin"], row["meta"]), row["split"]
