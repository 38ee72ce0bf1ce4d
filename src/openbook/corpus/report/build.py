"""Renders the data report and the datasheet of a corpus that was built and audited; the mixture and decisions where there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openbook.corpus.report import sections
from openbook.corpus.report.datasheet import datasheet
from openbook.files import sha256_file, write_text
from openbook.page import fill, style
from openbook.run import Outcome, Run, Stage
from openbook.words import count, size

HERE = Path(__file__).parent
PAGE, SHEET = "data-report.html", "DATASHEET.md"
MIXTURE = "tokens/mixture.json"


def parameters(run: Run) -> Any:
    """The page prints parts of the recipe, and the mixture if one was drawn up."""
    mixture = run.path / MIXTURE
    return {"recipe": run.manifest["recipe"].get("sha256"), "mixture": sha256_file(mixture) if mixture.is_file() else None}


def build(run: Run) -> Outcome:
    facts = collect(run)
    looks = style() + (HERE / "data.css").read_text(encoding="utf-8")
    write_text(run.path / PAGE, fill(HERE, "data.html.jinja", **facts, style=looks))
    write_text(run.path / SHEET, datasheet(facts))
    return Outcome([PAGE, SHEET])


def collect(run: Run) -> dict[str, Any]:
    """Everything that the templates print."""
    record = run.stage_record("corpus")
    assert record is not None  # the stage reads it
    audit = json.loads(run.verified("corpus-audit", "corpus/audit.json").read_bytes())
    figures = record["summary"]["components"]
    steps = _json(run.path / "corpus" / "steps.json") or []
    first, last = audit["all"]["states"][0], audit["all"]["states"][-1]
    plot = sections.forest(audit)
    removed = sections.removals(audit, steps)
    headline = [
        ("documents", count(last["documents"]), f"of {count(first['documents'])} read"),
        ("text", size(last["bytes"]), f"{count(last['words'])} words"),
        ("steps", count(len(steps)), f"removed {count(sum(row['removed'] for row in removed))} documents"),
        ("disparities", count(len(plot["rows"]) + plot["more"]), "pairs of a step and a group beyond chance"),
        ("components", count(sum(bool(part["train"]["documents"]) for part in figures.values())), f"{len(figures)} in the recipe"),
    ]
    return {
        "recipe": run.recipe,
        "headline": headline,
        "audit": audit,
        "components": sections.pile(run.recipe, figures, _json(run.path / MIXTURE)),
        "mixture": _json(run.path / MIXTURE),
        "steps": removed,
        "bars": {key: sections.bars(audit, key) for key in ("languages", "licences", "decades")},
        "representation": sections.representation(audit),
        "forest": plot,
        "associations": sections.associations(audit),
        "counted": sections.counted(audit),
        "decisions": _json(run.path / "corpus" / "decisions.json") or [],
        "sha256": record["sha256"],
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.is_file() else None


STAGE = Stage("corpus-report", 1, ("corpus", "corpus-audit"), parameters, build)
