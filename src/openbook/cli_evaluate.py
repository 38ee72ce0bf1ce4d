"""`openbook evaluate`: a run's weights on held-out text, or any model on tasks; `openbook data`: the sets that tasks need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openbook.arguments import Json, show
from openbook.errors import InputError

Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the evaluation sets lie; $OPENBOOK_DATA or shared/data by default.")]


def evaluate_tasks(
    target: str,
    suite: str | None,
    tasks: list[str],
    data: Path | None,
    out: Path | None,
    options: dict[str, Any],
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """Puts tasks to a model; options are those of `open_model`, settings those of `Settings`."""
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
    results, left_out = evaluate_all(open_model(target, **options), wanted, Settings(**settings), folder, out)
    brief = [{key: value for key, value in result.items() if key != "items"} for result in results]
    show({"scores": str(out), "tasks": brief, "left_out": left_out}, f"{table(results, left_out)}\nscores    {out}", as_json)


def data(
    folder: Data = None,
    download: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Download a task's set from the Hugging Face hub.")] = None,
    as_json: Json = False,
) -> None:
    """List the evaluation sets: which are there, which are absent, and where they come from."""
    from openbook.evaluate.data import data_folder
    from openbook.evaluate.fetching import download as fetch
    from openbook.evaluate.suite import sources
    from openbook.evaluate.task import task_named

    where = data_folder(folder)
    for name in download or []:
        fetch(task_named(name), where)
    found = sources(where)
    lines = [f"{'absent' if source['absent'] else 'there':7} {source['task']:26} {_wherefrom(source)}" for source in found]
    missing = sum(bool(source["absent"]) for source in found)
    show({"folder": str(where), "tasks": found}, "\n".join([*lines, f"{where}: {missing} of {len(found)} tasks lack data"]), as_json)


def _wherefrom(source: dict[str, Any]) -> str:
    if not source["absent"]:
        return ", ".join(source["files"])
    ways = [f"from {source['origin']} to {', '.join(source['absent'])}"]
    ways += [f"or --download {source['task']} (hub: {source['hub']})"] if source["hub"] else []
    ways += ["or evaluate --generated"] if source["generator"] else []
    return "; ".join(ways)
