"""`openbook corpus audit`: who a corpus is about, and whom its filters remove."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from openbook.arguments import Json, RunArgument, show


def audit(
    run: RunArgument,
    again: Annotated[bool, typer.Option("--again", help="Do it again even if nothing has changed.")] = False,
    as_json: Json = False,
) -> None:
    """Audit the corpus of a run (whom it is about, whom its filters remove), and write its data report and datasheet."""
    from openbook.corpus.audit import STAGE, lines
    from openbook.corpus.report import STAGE as REPORT
    from openbook.run import Run

    opened = Run(run)
    with opened.locked():
        for stage in (STAGE, REPORT):
            if again or not opened.is_current(stage):
                opened.carry_out(stage)
    found = json.loads(opened.verified(STAGE.name, "corpus/audit.json").read_bytes())
    written = [str(opened.path / name) for name in (opened.stage_record(REPORT.name) or {"artifacts": {}})["artifacts"]]
    show(found, "\n".join([*lines(found), f"wrote {' and '.join(written)}"]), as_json)
