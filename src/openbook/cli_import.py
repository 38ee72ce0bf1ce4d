"""`openbook import`: a model from elsewhere becomes a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openbook.arguments import Json, show


def import_command(
    place: Annotated[
        str, typer.Argument(metavar="PATH|HUB-ID", help="A Hugging Face folder, a checkpoint of GPT-2 or nanoGPT, or a name on the hub.")
    ],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of the hub.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/NAME by default.")] = None,
    allow_extra: Annotated[bool, typer.Option("--allow-extra", help="Leave out tensors that the architecture does not have.")] = False,
    tokenizer: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The tokenizer's files, if not beside the weights.")] = None,
    as_json: Json = False,
) -> None:
    """Make a run of a model that was trained elsewhere: evaluate, serve, generate and export take it like one trained here."""
    from openbook.importer import import_model

    path, summary = import_model(place, revision, out, allow_extra, tokenizer)
    left_out = f"\nleft out  {', '.join(summary['left_out'])}" if summary["left_out"] else ""
    show(
        {"run": str(path), **summary},
        f"{summary['architecture']} of {summary['parameters']:,} parameters -> {path}{left_out}\n"
        f'try       openbook generate {path} "Once upon a time"\n          openbook serve {path}',
        as_json,
    )
