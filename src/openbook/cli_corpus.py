"""`openbook corpus`: builds a corpus, and answers what is in it, what is not, and why."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from openbook.arguments import Json, RunArgument, show
from openbook.errors import InputError


class _StageByDefault(TyperGroup):
    """`openbook corpus RUN` carries out the stage, as `openbook tokenize RUN` does its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["stage", *args]
        return super().parse_args(ctx, args)


corpus = typer.Typer(cls=_StageByDefault, no_args_is_help=True, add_completion=False)


@corpus.command("stage")
def carry_out(
    run: RunArgument,
    again: Annotated[bool, typer.Option("--again", help="Do it again even if nothing has changed.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the corpus of a run up to date; `openbook corpus RUN` is short for it."""
    from openbook.run import Run

    _build(Run(run), again, as_json)


@corpus.command()
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/mini-pile.toml.")],
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/NAME by default.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe.")] = None,
    on: Annotated[str | None, typer.Option(metavar="PLACE", help="here, ray, or ray://HOST:PORT; the same bytes.")] = None,
    as_json: Json = False,
) -> None:
    """Gather, check, deduplicate and split the documents of a recipe, audit them, and write the data report and the datasheet."""
    from openbook.progress import say
    from openbook.recipe import load_recipe
    from openbook.run import open_run

    if on is not None and not (on in ("here", "ray") or on.startswith("ray://")):
        raise InputError(f"--on {on}: should be here, ray or ray://HOST:PORT")
    place = [f"corpus.engine.on={json.dumps(on)}"] if on is not None else []
    loaded, _ = load_recipe(recipe, [*(overrides or ()), *place])
    opened = open_run(out or Path("runs") / loaded.name, loaded, recipe)
    say(f"{recipe} -> {opened.path}")
    _build(opened, False, as_json, reports=True)


def _build(opened: Any, again: bool, as_json: bool, reports: bool = False) -> None:
    from openbook.pipeline import update
    from openbook.words import count, size

    (done,) = update(opened, ["corpus"], again)
    components = done.record["summary"]["components"]
    kept = [part[split] for part in components.values() for split in ("train", "valid")]
    documents, text = sum(figure["documents"] for figure in kept), sum(figure["bytes"] for figure in kept)
    left_out = sum(drop["documents"] for part in components.values() for drop in part["dropped"].values())
    result = {"run": str(opened.path), "stages": {"corpus": {"skipped": done.skipped, "seconds": done.seconds, **done.record["summary"]}}}
    words = "Nothing to do: the corpus is up to date." if done.skipped else f"corpus    done in {done.seconds:,.1f} s"
    counted = f"{count(documents)} documents, {size(text)} of text; {count(left_out)} texts were left out"
    written = _audited(opened, False) if reports else [str(opened.path / "corpus" / "DATASHEET.md")]
    show(result | {"written": written}, f"{words}\n{counted}\nread {' and '.join(written)}", as_json)


def _audited(opened: Any, again: bool) -> list[str]:
    """Brings the audit and what is rendered from it up to date; returns the paths of the data report and the datasheet."""
    from openbook.corpus.audit import STAGE
    from openbook.corpus.report import STAGE as REPORT

    with opened.locked():
        for stage in (STAGE, REPORT):
            if again or not opened.is_current(stage):
                opened.carry_out(stage)
    return [str(opened.path / name) for name in opened.stage_record(REPORT.name)["artifacts"]]


@corpus.command()
def audit(
    run: RunArgument,
    again: Annotated[bool, typer.Option("--again", help="Do it again even if nothing has changed.")] = False,
    as_json: Json = False,
) -> None:
    """Audit the corpus of a run (whom it is about, whom its filters remove), and write its data report and datasheet."""
    from openbook.corpus.audit import STAGE, lines
    from openbook.run import Run

    opened = Run(run)
    written = _audited(opened, again)
    found = json.loads(opened.verified(STAGE.name, "corpus/audit.json").read_bytes())
    show(found, "\n".join([*lines(found), f"wrote {' and '.join(written)}"]), as_json)


@corpus.command()
def why(
    run: RunArgument,
    document: Annotated[str, typer.Argument(metavar="ID", help="A document's id, the beginning of it, or its origin.")],
    original: Annotated[bool, typer.Option("--original", help="Print the text as it was before a decision rewrote it.")] = False,
    as_json: Json = False,
) -> None:
    """Why a document is in the corpus, out of it, or not as it was read."""
    from openbook.corpus.why import account, in_words
    from openbook.run import Run

    opened = Run(run)
    told = account(opened, document)
    if not original:
        show(told, in_words(told, opened.recipe.corpus.decisions), as_json)
    elif told["original"] is None:
        raise InputError(f"{document}: no decision has rewritten this document")
    else:
        show({"id": told["id"], "original": told["original"]}, told["original"], as_json)


@corpus.command("show")
def show_documents(
    run: RunArgument,
    component: Annotated[str | None, typer.Option(metavar="NAME", help="Only this component.")] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Those that were left out, with the reason.")] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="With --dropped: only reasons that begin so.")] = None,
    split: Annotated[str | None, typer.Option(metavar="SPLIT", help="Only train, or only valid.")] = None,
    grep: Annotated[str | None, typer.Option(metavar="EXPRESSION", help="Only texts in which this is found.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each document as one line of JSON.")] = False,
) -> None:
    """Page through documents; where there is no terminal, print them."""
    from openbook.corpus.browse import Choice, documents, in_words
    from openbook.run import Run

    found = islice(documents(Run(run), Choice(component, dropped, reason, split, grep)), limit)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" if as_json else in_words(row) for row in found)
    try:
        if sys.stdout.isatty() and not as_json:
            _page(lines)
        else:
            sys.stdout.writelines(lines)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _page(lines: Iterable[str]) -> None:
    """Shows text in the user's pager as it comes, or prints it where there is none."""
    pager = shlex.split(os.environ.get("PAGER") or "less")
    if shutil.which(pager[0]) is None:
        sys.stdout.writelines(lines)
        return
    process = subprocess.Popen(pager, stdin=subprocess.PIPE, text=True, encoding="utf-8")
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.writelines(lines)
    process.wait()


@corpus.command()
def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run directory.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one.")],
    as_json: Json = False,
) -> None:
    """Explain what makes two builds differ: the recipes, and why each document is in one only, or not the same."""
    from openbook.corpus.compare import compare, in_words
    from openbook.run import Run

    told = compare(Run(run_a), Run(run_b))
    show(told, in_words(told), as_json)
