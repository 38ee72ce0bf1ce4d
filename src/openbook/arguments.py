"""What the commands share: the arguments that several of them take, and how a result is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, such as runs/pocket.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def show(value: Any, text: str, as_json: bool) -> None:
    """Prints a result for machines or for people."""
    print(json.dumps(value, ensure_ascii=False) if as_json else text, flush=True)
