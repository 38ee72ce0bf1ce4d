"""What commands that carry out stages share: how a stage is brought up to date, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from openbook.arguments import show
from openbook.errors import InputError
from openbook.words import size

Again = Annotated[bool, typer.Option("--again", help="Do it again even if nothing has changed.")]


def tell(opened: Any, stages: Iterable[Any], as_json: bool) -> None:
    """Tells of stages as they are done, and shows what came of them."""
    from openbook.progress import say

    done = []
    for item in stages:
        say(f"{item.stage:9} {'unchanged' if item.skipped else f'done in {item.seconds:,.1f} s'}")
        done.append(item)
    result = {
        "run": str(opened.path),
        "stages": {item.stage: {"skipped": item.skipped, "seconds": item.seconds, **item.record["summary"]} for item in done},
    }
    show(result, _closing_words(opened.path, done), as_json)


def _closing_words(path: Path, done: list[Any]) -> str:
    lines = ["Nothing to do: every stage is up to date."] if all(item.skipped for item in done) else []
    for item in done:
        if item.stage == "mixture" and not item.skipped:
            lines += mixture_lines(item.record["summary"])
        if item.stage == "evaluate":
            lines += _score_lines(item.record["summary"])
        if item.stage == "export":
            lines += [
                f"weights   {path / 'weights'}",
                f'try       openbook generate {path} "def fibonacci(n):"',
                f"          openbook serve {path}",
            ]
        if item.stage == "report":
            lines.append(f"report    {path / 'report.html'}")
    return "\n".join(lines) or f"{path} is up to date."


def _score_lines(scores: dict[str, Any]) -> list[str]:
    columns = {"model": "model", "xz": "xz -9e", "zstd": "zstd -19", "ngram": "n-gram", "xz_archive": "xz archive"}
    width = max(len(name) for name in (*scores["components"], "bits per byte"))
    lines = [f"{'bits per byte':{width}}" + "".join(f"{title:>12}" for title in columns.values())]
    for name, row in [*scores["components"].items(), ("all", scores["all"])]:
        lines.append(f"{name:{width}}" + "".join(f"{row[column]:12.3f}" for column in columns))
    return lines


def one_stage(path: Path, name: str, again: bool, as_json: bool) -> None:
    """Brings one stage of a run up to date, and tells of it."""
    from openbook.pipeline import update
    from openbook.run import Run

    opened = Run(path)
    tell(opened, update(opened, [name], again), as_json)


def mixture_lines(found: Mapping[str, Any]) -> list[str]:
    """The Pile's table of a run's mixture, for people."""
    titles = ("raw size", "weight", "epochs", "effective", "mean document", "tokens read", "bytes/token")
    names = [*found["components"], "all"]
    width = max(map(len, names))
    lines = [f"{'component':{max(width, 9)}}" + "".join(f"{title:>15}" for title in titles)]
    total = found["all"]["tokens_read"]
    for name, part in [*found["components"].items(), ("all", found["all"])]:
        mean = part["bytes"] / part["documents"] if part["documents"] else 0
        per_token = f"{part['bytes'] / part['tokens']:.2f}" if part["tokens"] else ""
        share = f"{part['tokens_read'] / total:.2%}"
        epochs = f"{part['epochs']:.2f}" if "epochs" in part else ""
        cells = (size(part["bytes"]), share, epochs, size(part["effective_bytes"]), size(mean), f"{part['tokens_read']:,}", per_token)
        lines.append(f"{name:{max(width, 9)}}" + "".join(f"{cell:>15}" for cell in cells))
    for name, languages in found["languages"].items():
        told = ", ".join(f"{language} {figure['bytes_per_token']:.2f}" for language, figure in languages.items())
        lines.append(f"bytes/token of {name} by language: {told}")
    return lines + [f"note: {note}" for note in found["notes"]]


def weights_of(path: Path) -> Path:
    """The weights of a run. Raises InputError if there are none yet."""
    from openbook.run import Run

    weights = Run(path).path / "weights"
    for name, pattern, stage in (("model.safetensors", "model*.safetensors", "train"), ("tokenizer.json", "tokenizer.json", "export")):
        if not any(weights.glob(pattern)):
            raise InputError(f"{weights / name}: no such file; `openbook {stage} {path}` makes it")
    return weights
