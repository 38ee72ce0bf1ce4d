"""The audit of a corpus: looks at every text as it was read and at every version a step made of it, once, and sums up by filter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from openbook.corpus.audit import lexicons
from openbook.corpus.audit.scan import SCAN, VERSION, read
from openbook.corpus.audit.summary import summary
from openbook.corpus.audit.tally import Looked, Part, Removed, Tally, beside
from openbook.corpus.audit.terms import BUNDLED, Terms, load
from openbook.corpus.engine import each
from openbook.corpus.sources.files import locate
from openbook.corpus.steps import Shard, language
from openbook.corpus.steps.step import Prepared
from openbook.corpus.steps.trail import NAME as TRAIL
from openbook.corpus.steps.trail import Trail, read_trail
from openbook.errors import InputError
from openbook.files import remove, sha256_json, write_text, written_aside
from openbook.parts import Bools
from openbook.progress import track
from openbook.recipe_steps import LanguageStep
from openbook.run import Outcome, Run, Stage

WORK = "audit.work"
AUDIT = "corpus/audit.json"


def terms_of(run: Run) -> Path:
    wanted = run.recipe.corpus.audit.terms
    return locate(wanted, run.recipe_folder, "corpus.audit.terms") if wanted else BUNDLED


def parameters(run: Run) -> Any:
    """The terms, the lexicons of other packages, and what languages are learnt from."""
    return {
        "scan": VERSION,
        "terms": load(terms_of(run)).sha256,
        "window": run.recipe.corpus.audit.window,
        "lexicons": lexicons.facts(),
        "languages": _languages(run)[0],
    }


def build(run: Run) -> Outcome:
    terms, work = load(terms_of(run)), run.path / WORK
    model, why_not = _model(run)
    trail, paths = _lineage(run)
    findings = _scan(run, trail, paths, model)
    parts = _sums(run, trail, paths, findings, len(terms.groups))
    steps = [settings.step for settings in run.recipe.corpus.steps]
    audit = summary(parts, steps, terms, {**parameters(run), "languages": why_not})
    write_text(run.path / AUDIT, json.dumps(audit, ensure_ascii=False, separators=(",", ":")) + "\n")
    used = {path.name for path in findings.values()} | ({model.name} if model else set())
    for path in work.iterdir() if work.is_dir() else ():
        if path.name not in used:
            remove(path)
    return Outcome([AUDIT], {"documents": audit["all"]["states"][0]["documents"], "findings": _headline(audit, terms)})


def _headline(audit: dict[str, Any], terms: Terms) -> dict[str, int]:
    return {
        "groups": len(terms.groups),
        "comparisons": audit["comparisons"],
        "disparities": sum(row["q"] < 0.05 for row in audit["disparity"]),
    }


def _languages(run: Run) -> tuple[str, Prepared]:
    """The name of the model of the step `language`, and what makes it."""
    settings = LanguageStep(step="language", keep=["en"], catalogues=run.recipe.corpus.audit.catalogues)
    prepared = language.prepare(None, settings)  # type: ignore[arg-type]  # it learns from catalogues, not from the corpus
    return sha256_json([language.STEP.name, language.STEP.version, settings.measured(), prepared.facts]), prepared


def _model(run: Run) -> tuple[Path | None, str | None]:
    """The model, which the corpus may have made already, or why there is none."""
    name, prepared = _languages(run)
    for folder in (run.path / "corpus.work", run.path / WORK):
        if (folder / f"{name}.model").exists():
            return folder / f"{name}.model", None
    try:
        with written_aside(run.path / WORK / f"{name}.model") as aside:
            prepared.write(aside)
    except InputError as error:
        return None, str(error)
    return run.path / WORK / f"{name}.model", None


def _lineage(run: Run) -> tuple[Trail, dict[str, Path]]:
    """The shards after each step, and the file of each. Without steps, the corpus is its only state."""
    if run.recipe.corpus.steps:
        folder = run.path / "corpus.work"
        try:
            trail = read_trail(folder)
        except (OSError, ValueError):
            raise InputError(f"{folder / TRAIL}: cannot be read; `openbook corpus {run.path} --again` makes it anew") from None
        return trail, {shard.key: folder / f"{shard.key}.parquet" for state in trail for shard in state}
    artifacts = (run.stage_record("corpus") or {"artifacts": {}})["artifacts"]
    shards, paths = [], {}
    for component in run.recipe.corpus.components:
        for split in ("train", "valid"):
            name = f"corpus/{component}/{split}.parquet"
            key = sha256_json([name, artifacts[name]["sha256"]])
            paths[key] = run.path / name
            shards.append(Shard(key, component, np.ones(pq.read_metadata(paths[key]).num_rows, bool)))
    return [shards], paths


def _scan(run: Run, trail: Trail, paths: dict[str, Path], model: Path | None) -> dict[str, Path]:
    """The folder of findings of each shard, made where it is missing."""
    settings = run.recipe.corpus.audit
    facts = [VERSION, load(terms_of(run)).sha256, settings.window, lexicons.facts(), model.name if model else None]
    folders = {key: run.path / WORK / sha256_json([*facts, key]) for key in paths}
    with track("audit", len(paths)) as bar:
        done = 0
        for number, state in enumerate(trail):
            tasks = {}
            for index, shard in enumerate(state):
                before = trail[number - 1][index].key if number else None
                if before == shard.key or folders[shard.key].is_dir():
                    continue
                if not paths[shard.key].is_file():
                    raise InputError(f"{paths[shard.key]}: is missing; `openbook corpus {run.path} --again` makes it anew")
                parent = {"path": str(paths[before]), "findings": str(folders[before])} if before else None
                task = {"path": str(paths[shard.key]), "parent": parent, "out": str(folders[shard.key]), "terms": str(terms_of(run))}
                tasks[shard.key] = json.dumps(task | {"window": settings.window, "model": str(model) if model else None})
            for _ in each(SCAN, list(tasks.values()), run.recipe.corpus.engine):
                done += 1
                bar.update(done)
    return folders


def _sums(run: Run, trail: Trail, paths: dict[str, Path], findings: dict[str, Path], groups: int) -> dict[str, Part]:
    """By component."""
    parts: dict[str, Part] = {}
    steps = run.recipe.corpus.steps
    for index, first in enumerate(trail[0]):
        name = first.component
        part = parts.setdefault(name, Part())
        before, looked = first, _looked(first, paths, findings, groups)
        tally = Tally.of(looked, first.alive)
        part.add(0, tally, beside(looked, first.alive))
        for number, (settings, state) in enumerate(zip(steps, trail[1:], strict=True), 1):
            shard = state[index]
            if settings.components is None or name in settings.components:
                part.remove(number, Removed.of(looked, before.alive, _gone(before, shard, paths)))
            if shard.key != before.key:
                looked = _looked(shard, paths, findings, groups)
            if shard.key != before.key or not np.array_equal(shard.alive, before.alive):
                tally = Tally.of(looked, shard.alive)
            part.add(number, tally, beside(looked, shard.alive) if number == len(steps) else None)
            before = shard
    return parts


def _looked(shard: Shard, paths: dict[str, Path], findings: dict[str, Path], groups: int) -> Looked:
    licences = pq.read_table(paths[shard.key], columns=["licence"]).column("licence").fill_null("unknown").to_pylist()
    return Looked(read(findings[shard.key]), licences, groups)


def _gone(before: Shard, after: Shard, paths: dict[str, Path]) -> Bools:
    """Which rows a step removed: of a rewritten shard, those from which no row that is in was made."""
    if before.key == after.key:
        return before.alive & ~after.alive
    left = np.zeros(len(before.alive), bool)
    left[pq.read_table(paths[after.key], columns=["parent"]).column("parent").to_numpy()[after.alive]] = True
    return before.alive & ~left


STAGE = Stage("corpus-audit", 1, ("corpus",), parameters, build)
