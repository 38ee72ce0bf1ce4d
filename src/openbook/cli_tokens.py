"""Commands about tokens: where those of a training row come from, and files of other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openbook.arguments import Json, RunArgument, show

tokens = typer.Typer(no_args_is_help=True, add_completion=False)

As = Annotated[Literal["megatron", "nanogpt", "datatrove"], typer.Option("--as", help="Whose files; nanogpt reads llm.c's header, too.")]
Out = Annotated[Path, typer.Option(help="A new folder.")]


@tokens.command("trace")
def trace_row(
    run: RunArgument,
    step: Annotated[int, typer.Option(help="The step, from 1, as in the logbook.")],
    row: Annotated[int, typer.Option(help="The row of the step, from 0.")],
    position: Annotated[int | None, typer.Option(help="One token of the row, from 0.")] = None,
    as_json: Json = False,
) -> None:
    """Say which documents the tokens of a training row come from: component, licence, origin, text."""
    from openbook.logbook import readable
    from openbook.model.tokenizer import load_tokenizer
    from openbook.run import Run
    from openbook.tokens import Rows
    from openbook.tokens.trace import passed_over, pointed_at, trace

    opened = Run(run)
    tokenizer = load_tokenizer(opened.verified("tokenize", "tokenizer/tokenizer.json"))
    skipped, done = passed_over(readable(opened.logbook_path), step)
    found = trace(Rows.open(opened), tokenizer, step, row, skipped)
    if position is not None:
        found = pointed_at(found, tokenizer, position)
    lines = [f"step {step}, row {row} of {found['component']}" + ("" if done else ", which training has not come to yet")]
    if position is not None:
        lines.append(f"position {position}: token {found['token']['id']} {found['token']['text']!r}")
    for part in found["stretches"]:
        (first, last), (begin, end) = part["positions"], part["tokens"]
        document = f"{part['id']}  {part['licence'] or 'licence unknown'}  {part['origin']}"
        lines.append(f"{first}-{last}: {document}  tokens {begin}-{end - 1} of {part['of']}")
        lines.append(f"    {part['text']!r}")
    show({"run": str(run), "done": done, **found}, "\n".join(lines), as_json)


@tokens.command("export")
def export_tokens(run: RunArgument, layout: As, out: Out, as_json: Json = False) -> None:
    """Write a run's tokens for Megatron, nanoGPT or datatrove, with the tokenizer."""
    from openbook.run import Run
    from openbook.tokens.exchange import give
    from openbook.tokens.shards import opened_shards

    opened = Run(run)
    files = give(opened_shards(opened), layout, opened.verified("tokenize", "tokenizer/tokenizer.json"), out)
    show({"out": str(out), "files": files}, "\n".join(str(out / name) for name in files), as_json)


@tokens.command("import")
def import_tokens(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .bin (megatron: with its .idx beside it) or .ds file.")],
    layout: As,
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer.json that made the tokens.")],
    out: Out,
    name: Annotated[str, typer.Option(help="What the component is called.")] = "imported",
    licence: Annotated[str | None, typer.Option(help="Of all its documents, an SPDX expression.")] = None,
    as_json: Json = False,
) -> None:
    """Turn token files of Megatron, nanoGPT, llm.c or datatrove into documents that a recipe can name."""
    from openbook.model.tokenizer import load_tokenizer
    from openbook.tokens.exchange import take

    loaded = load_tokenizer(tokenizer)
    taken = take(path, layout, loaded, name, licence, out)
    lines = [
        f"{taken.documents:,} documents, {taken.tokens:,} tokens, {_size(taken.bytes)}",
        f"{taken.differ:,} of them are encoded to other ids than the file has" if taken.differ else "all are encoded to the same ids again",
        *([f"{taken.no_text:,} documents are no text under this tokenizer, and were left out"] if taken.no_text else []),
        "in a recipe:",
        f"  [corpus.components.{name}]",
        f'  source = "files"\n  path = "{out}/{name}.parquet"\n  format = "parquet"',
        "  [tokenizer]",
        f'  file = "{out}/tokenizer.json"\n  vocab_size = {loaded.vocab_size}',
    ]
    show({"out": str(out), "component": name, "vocab_size": loaded.vocab_size, **vars(taken)}, "\n".join(lines), as_json)


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
        cells = (_size(part["bytes"]), share, epochs, _size(part["effective_bytes"]), _size(mean), f"{part['tokens_read']:,}", per_token)
        lines.append(f"{name:{max(width, 9)}}" + "".join(f"{cell:>15}" for cell in cells))
    for name, languages in found["languages"].items():
        told = ", ".join(f"{language} {figure['bytes_per_token']:.2f}" for language, figure in languages.items())
        lines.append(f"bytes/token of {name} by language: {told}")
    return lines + [f"note: {note}" for note in found["notes"]]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
