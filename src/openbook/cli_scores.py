"""`openbook compare`: models beside each other; `openbook curve`: accuracy against the number of demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openbook.arguments import Json, show
from openbook.cli_evaluate import Data
from openbook.errors import InputError

if TYPE_CHECKING:
    from openbook.evaluate.models import LanguageModel


def compare(
    targets: Annotated[list[Path], typer.Argument(metavar="A B …", help="Runs, or folders of scores; A is compared with each other one.")],
    as_json: Json = False,
) -> None:
    """Paired tests on the tasks, K and items that two models have in common: differences with intervals, bootstrap and McNemar."""
    from openbook.evaluate.compare import compare as compared
    from openbook.evaluate.compare import told

    if len(targets) < 2:
        raise InputError(f"compare {targets[0]}: needs at least two runs or folders of scores")
    rows, left_out = compared(targets)
    show({"comparisons": rows, "left_out": left_out}, told(rows, left_out), as_json)


def curve(
    targets: Annotated[list[str], typer.Argument(metavar="TARGET…", help="Runs, folders, URLs, or RUN@STEP for a checkpoint.")],
    suite: Annotated[str | None, typer.Option(help="A suite of tasks, or one task's name.")] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="A task's name or its .toml file; any number of times.")] = None,
    curve: Annotated[str, typer.Option(metavar="K,K,…", help="Numbers of demonstrations.")] = "0,1,2,4,8",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="So many items of each task, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Draws items and demonstrations.")] = 0,
    generated: Annotated[bool, typer.Option("--generated", help="Make items from the seed where a task can.")] = False,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where scores go; scores/ of the first run by default.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows in one forward pass.")] = 16,
    as_json: Json = False,
) -> None:
    """In-context learning curves of one model or a series, as tables, curve.json, curve.html and SVG."""
    from openbook.evaluate.curve import measure, shots_of, table
    from openbook.evaluate.data import data_folder
    from openbook.evaluate.runner import Settings
    from openbook.evaluate.suite import chosen

    ks = shots_of(curve)
    wanted = chosen(suite, task or [])
    if not wanted:
        raise InputError("curve: name tasks with --suite or --task")
    folder = out or Path(targets[0].partition("@")[0]) / "scores"
    models = {target.rstrip("/").rpartition("/")[2]: _opened(target, batch) for target in targets}
    if len(models) < len(targets):
        raise InputError("curve: two targets have the same last name; say where each lies by another name")
    found = measure(models, wanted, ks, Settings(limit=limit, seed=seed, generated=generated), data_folder(data), folder)
    rows = table(found)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{'<' if column < 2 else '>'}{widths[column]}}" for column, cell in enumerate(row)) for row in rows]
    show({**found, "page": str(folder / "curve.html")}, "\n".join([*lines, f"page      {folder / 'curve.html'}"]), as_json)


def _opened(target: str, batch: int) -> LanguageModel:
    from openbook.evaluate.models import open_model

    path, _, step = target.partition("@")
    if step.isdigit() and not path.startswith("http"):
        return open_checkpoint(Path(path), int(step), batch)
    return open_model(target, batch)


def open_checkpoint(path: Path, step: int, batch: int) -> LanguageModel:
    """The model as it was after a step, from a checkpoint. Raises InputError if there is none, or it is damaged."""
    from openbook.evaluate.models.engine import Engine
    from openbook.files import sha256_file
    from openbook.integrity import damage
    from openbook.model.tokenizer import load_tokenizer
    from openbook.model.transformer import Transformer
    from openbook.recipe_model import config_of
    from openbook.run import Run
    from openbook.train.checkpoint import folder_name, load, whole

    run = Run(path)
    folder = run.path / "checkpoints" / folder_name(step)
    if not folder.is_dir():
        kept = ", ".join(str(int(other.name.rpartition("-")[2])) for other in reversed(whole(folder.parent)))
        raise InputError(f"{path}@{step}: no checkpoint of that step; there are {kept or 'none'}; train.permanent_every keeps some")
    if problem := damage(folder):
        raise InputError(f"{folder}: {problem}")
    tokenizer = load_tokenizer(run.path / "tokenizer" / "tokenizer.json")
    model = Transformer(config_of(run.recipe.model, tokenizer.vocab_size))
    tensors = {f"parameters.{name}": tensor.data for name, tensor in model.named_parameters()}
    load(folder, tensors | {f"buffers.{name}": tensor for name, tensor in model.named_buffers()})
    return Engine(model.eval(), tokenizer, sha256_file(folder / "hashes.json"), batch)
