"""`openbook evaluate`: a run's weights on held-out text, or any model on tasks; `openbook data`: the sets that tasks need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openbook.arguments import Json, show
from openbook.cli_stages import Again, one_stage
from openbook.errors import InputError

Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the evaluation sets lie; $OPENBOOK_DATA or shared/data by default.")]


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN|FOLDER|URL", help="A run; with tasks also a Hugging Face folder or an endpoint.")],
    suite: Annotated[
        str | None, typer.Option(help="all, code, gpt3, hidden, quick, style, translation, or a task's name; else held-out text is scored.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="A task's name or its .toml file; any number of times.")] = None,
    text: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Score text files instead, each as one document.")] = None,
    shots: Annotated[int | None, typer.Option(min=0, metavar="K", help="Demonstrations; each task's own number by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="So many items of each task, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Draws items and demonstrations.")] = 0,
    draws: Annotated[int, typer.Option(min=1, help="Sets of demonstrations for each item, to see how much they matter.")] = 1,
    generated: Annotated[bool, typer.Option("--generated", help="Make items from the seed where a task can.")] = False,
    samples: Annotated[int | None, typer.Option(min=1, metavar="N", help="Programs written for each item, for pass@k.")] = None,
    contamination: Annotated[bool, typer.Option("--contamination", help="Tell items that stand in the run's corpus.")] = False,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where scores go; RUN/scores by default.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows in one forward pass; scores do not depend on it.")] = 16,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens by which windows over a long text move; the whole window by default.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which of an endpoint's models.")] = None,
    transformers: Annotated[bool, typer.Option("--transformers", help="Open a folder with transformers even if our engine could.")] = False,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Score the weights on held-out text, beside compressors and an n-gram model; with --suite or --task, put tasks to any model."""
    if text:
        _files(Path(run), text, as_json)
        return
    if suite is None and not task:
        one_stage(Path(run), "evaluate", again, as_json)
        return
    options = {"batch": batch, "stride": stride, "model": model, "foreign": transformers}
    settings = {"shots": shots, "limit": limit, "seed": seed, "draws": draws, "generated": generated, "samples": samples}
    evaluate_tasks(run, suite, task or [], data, out, options, settings, as_json, contamination)


def _files(run: Path, paths: list[Path], as_json: bool) -> None:
    from openbook.evaluate.files import score_files
    from openbook.run import Run

    rows = score_files(Run(run), paths)
    show(rows, "\n".join(f"{row['bits_per_byte']:8.3f} bits per byte  {name}" for name, row in rows.items()), as_json)


def evaluate_tasks(
    target: str,
    suite: str | None,
    tasks: list[str],
    data: Path | None,
    out: Path | None,
    options: dict[str, Any],
    settings: dict[str, Any],
    as_json: bool,
    contamination: bool = False,
) -> None:
    """Puts tasks to a model; options are those of `open_model`, settings those of `Settings`."""
    from openbook.evaluate.contamination import corpus_files
    from openbook.evaluate.data import data_folder
    from openbook.evaluate.models import open_model
    from openbook.evaluate.runner import Settings
    from openbook.evaluate.suite import chosen, evaluate_all, table

    wanted = chosen(suite, tasks)
    folder = data_folder(data)
    if out is None:
        if target.startswith(("http://", "https://")):
            raise InputError(f"{target}: say with --out DIR where an endpoint's scores go")
        out = Path(target) / "scores"
    corpus = corpus_files(Path(target)) if contamination else None
    results, left_out = evaluate_all(open_model(target, **options), wanted, Settings(**settings), folder, out, corpus)
    brief = [{key: value for key, value in result.items() if key != "items"} for result in results]
    show({"scores": str(out), "tasks": brief, "left_out": left_out}, f"{table(results, left_out)}\nscores    {out}", as_json)


def data(
    folder: Data = None,
    download: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Download a task's set from the Hugging Face hub.")] = None,
    as_json: Json = False,
) -> None:
    """List the sets of evaluation and audit: which are there, which are absent, and where they come from."""
    from openbook.evaluate.bias.audit import sources as audited
    from openbook.evaluate.data import data_folder
    from openbook.evaluate.fetching import download as fetch
    from openbook.evaluate.suite import sources
    from openbook.evaluate.task import task_named

    where = data_folder(folder)
    for name in download or []:
        fetch(task_named(name), where)
    tasks, measures = sources(where), audited(where)
    lines = [f"{'absent' if source['absent'] else 'there':7} {source['task']:26} {_wherefrom(source)}" for source in tasks]
    lines += [
        f"{'absent' if source['absent'] else 'there':7} {'audit: ' + source['measure']:26} {_audit_from(source)}" for source in measures
    ]
    missing, without = (sum(bool(source["absent"]) for source in found) for found in (tasks, measures))
    lines += [f"{where}: {missing} of {len(tasks)} tasks and {without} of {len(measures)} measures lack data"]
    show({"folder": str(where), "tasks": tasks, "measures": measures}, "\n".join(lines), as_json)


def _wherefrom(source: dict[str, Any]) -> str:
    if not source["absent"]:
        return ", ".join(source["files"]) or "made from a seed, needs no file"
    ways = [f"from {source['origin']} to {', '.join(source['absent'])}"]
    ways += [f"or --download {source['task']} (hub: {source['hub']})"] if source["hub"] else []
    ways += ["or evaluate --generated"] if source["generator"] else []
    return "; ".join(ways)


def _audit_from(source: dict[str, Any]) -> str:
    if not source["absent"]:
        return ", ".join(source["files"])
    there = len(source["files"])
    partly = f"; goes on with the {there} that are there" if there and source["needed"] == "some" else ""
    return f"from {source['origin']} to {', '.join(source['absent'])}{partly}"
