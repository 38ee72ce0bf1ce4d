"""The report stage: collects what the run's files say, as plain data, and renders one self-contained page from it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from openbook import words
from openbook.audited import digests
from openbook.files import sha256_file, write_text
from openbook.logbook import Account, attempts, check, readable
from openbook.logbook.bill import without_report
from openbook.page import fill, style
from openbook.report import sections
from openbook.report.bias import bias
from openbook.report.curves import AXES, charts, gaps, learning_table, marks, notes, validation_table
from openbook.report.scores import tasks
from openbook.run import Outcome, Run, Stage

STAGES = ("corpus", "tokenize", "mixture", "train", "evaluate", "export")
HERE = Path(__file__).parent


def build(run: Run) -> Outcome:
    page = render(run)
    write_text(run.path / "report.html", page)
    return Outcome(["report.html"], {"bytes": len(page.encode())})


def render(run: Run) -> str:
    """The page of a run in any state, as HTML. The same run gives the same bytes, before and after the report itself was written."""
    script = (HERE / "chart.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return fill(HERE, "page.html.jinja", **collect(run), style=style(), script=script, script_digest=digest)


def collect(run: Run) -> dict[str, Any]:
    """Everything that the template prints."""
    stages = {name: run.manifest["stages"][name] for name in STAGES if name in run.manifest["stages"]}
    summaries = {name: stages.get(name, {}).get("summary") for name in STAGES}
    events = without_report(readable(run.logbook_path))
    account, tries = Account(events, stages, run.recipe.energy), attempts(events)
    past = account.training
    components = list(run.recipe.corpus.components)
    scores, scores_problem = _scores(run, "bits_per_byte.json")
    samples, samples_problem = _scores(run, "samples.json")
    facts: dict[str, Any] = {
        "recipe": run.recipe,
        "recipe_text": words.printable(_text(run.path / "recipe.toml")),
        "recipe_sha256": run.manifest["recipe"].get("sha256", ""),
        "stages": stages,
        "stale": _stale(stages),
        "train": summaries["train"],
        "export": summaries["export"],
        "training": past,
        "corpus": sections.went_in(run.recipe, summaries["corpus"], summaries["tokenize"]),
        "scores": sections.scored(scores, components),
        "samples": sections.spoken(samples),
        "bias": bias(run.path),
        "tasks": tasks(run.path),
        "problems": {"scores": scores_problem, "samples": samples_problem},
        "cost": sections.cost_rows(account.costs),
        "rates": sections.rates(summaries["train"], past),
        "curves": {
            "axes": AXES,
            "marks": marks(past),
            "gaps": gaps(past),
            "notes": notes(past),
            "charts": charts(past, components),
        },
        "learning_table": learning_table(past),
        "validation_table": validation_table(past, components),
        "incidents": sections.incidents(past),
        "waterfall": sections.waterfall(past),
        "causes": sections.causes(past),
        "proven": sections.proven(account),
        "power": sections.power(account),
        "chronicle": sections.chronicle(events, tries),
        "environments": sections.environments(tries),
        "artifacts": _artifacts(stages),
        "logbook": _chain(run.logbook_path),
    }
    facts["lead"] = sections.lead(facts["scores"], run.recipe)
    return {**facts, "headline": sections.headline(facts)}


def _chain(path: Path) -> dict[str, Any] | None:
    """The last line that is not about the report, by number and hash, and whether the chain holds up to the end."""
    if not path.exists():
        return None
    broken = check(path)
    head = {"lines": 0, "sha256": "", "broken": f"line {broken.line} {broken.why}" if broken else None}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if b'"stage":"report"' not in line:
            head.update(lines=number, sha256=hashlib.sha256(line).hexdigest())
    return head


def _scores(run: Run, name: str) -> tuple[Any, str | None]:
    """A file of scores, or None and what is wrong with it."""
    path, record = run.path / "scores" / name, run.stage_record("evaluate") or {"artifacts": {}}
    entry = record["artifacts"].get(f"scores/{name}")
    if not path.is_file():
        return None, f"scores/{name} is missing" if entry else None
    if entry and sha256_file(path) != entry["sha256"]:
        return None, f"scores/{name}: its bytes are not those in the manifest; `openbook evaluate RUN --again` makes it anew"
    try:
        return json.loads(path.read_bytes()), None
    except ValueError as error:
        return None, f"scores/{name} is not JSON ({error})"


def _stale(stages: dict[str, Any]) -> list[str]:
    """Stages that read something which has been made anew since."""

    def is_stale(record: dict[str, Any]) -> bool:
        return any(name in stages and stages[name]["sha256"] != digest for name, digest in record.get("inputs", {}).items())

    return [name for name, record in stages.items() if is_stale(record)]


def _artifacts(stages: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"path": path, "stage": stage, **entry} for stage, record in stages.items() for path, entry in record["artifacts"].items()]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def parameters(run: Run) -> Any:
    """The page prints the whole recipe, and the scores of tasks and the audit, which come after the stages as well."""
    scores = {path.name: sha256_file(path) for path in sorted((run.path / "scores").glob("*.json"))}
    return {"recipe": run.manifest["recipe"].get("sha256"), "scores": scores, "audit": digests(run.path)}


STAGE = Stage("report", 1, STAGES, parameters, build)
