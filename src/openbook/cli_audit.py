"""`openbook audit`: measures of bias on any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openbook.arguments import Json, show
from openbook.cli_evaluate import Data
from openbook.errors import InputError


def audit(
    target: Annotated[str, typer.Argument(metavar="RUN|FOLDER|URL", help="A run, a Hugging Face folder, or an endpoint.")],
    measure: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One measure; any number of times. All by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="So many items of each measure, drawn by the seed.")] = None,
    generations: Annotated[int, typer.Option(min=1, help="Continuations of each prompt of RealToxicityPrompts; 25 as published.")] = 25,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each of GPT-3's prompts; 800 in its paper.")] = 100,
    scorer: Annotated[str | None, typer.Option(metavar="URL", help="An external toxicity scorer instead of our classifier.")] = None,
    seed: Annotated[int, typer.Option(help="Draws items and samples.")] = 0,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go; RUN/audit by default.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows in one forward pass; scores do not depend on it.")] = 16,
    model: Annotated[str | None, typer.Option(help="Which of an endpoint's models.")] = None,
    transformers: Annotated[bool, typer.Option("--transformers", help="Open a folder with transformers even if our engine could.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what a model has taken in about groups of people, with intervals and published values (docs/bias.md)."""
    from openbook.evaluate.bias import Options, audit_all, measures, table
    from openbook.evaluate.data import data_folder
    from openbook.evaluate.models import open_model

    wanted = measures(measure or [])
    if out is None:
        if target.startswith(("http://", "https://")):
            raise InputError(f"{target}: say with --out DIR where an endpoint's results go")
        out = Path(target) / "audit"
    opened = open_model(target, batch=batch, model=model, foreign=transformers)
    results, left_out = audit_all(opened, wanted, Options(limit, seed, generations, samples), data_folder(data), out, scorer)
    brief = [{key: value for key, value in result.items() if key != "items"} for result in results]
    show({"audit": str(out), "measures": brief, "left_out": left_out}, f"{table(results, left_out)}\naudit     {out}", as_json)
