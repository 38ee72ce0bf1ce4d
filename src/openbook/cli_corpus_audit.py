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
    """Audit the corpus of a run: groups of people, associations, profanity, personal data, and whom each filter removes."""
    from openbook.corpus.audit import STAGE, lines
    from openbook.run import Run

    opened = Run(run)
    with opened.locked():
        if again or not opened.is_current(STAGE):
            opened.carry_out(STAGE)
    found = json.loads(opened.verified(STAGE.name, "corpus/audit.json").read_bytes())
    show(found, "\n".join(lines(found)), as_json)
