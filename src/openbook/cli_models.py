"""`openbook models`: the published models as a table. `openbook inspect`: what is inside a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openbook import words
from openbook.arguments import Json, show
from openbook.errors import InputError

LONGEST = 256
"""Tokens of a prompt: every head's map of them is kept, 1.3 GB of a model of 70 billion parameters."""


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A published model, such as gpt3-175b; without it, all.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/models.md.")] = False,
    as_json: Json = False,
) -> None:
    """List the published models: parameters, FLOPs a token, bytes of weights, and where each number is from."""
    from openbook.model.presets import preset, presets
    from openbook.model.published import facts, table

    if name is not None:
        found = facts(preset(name))
        show(found, "\n".join(_one(found)), as_json)
        return
    rows = [facts(found) for found in presets().values()]
    show({"models": rows}, table(rows) if markdown else "\n".join(_list(rows)), as_json)


def _list(rows: list[dict[str, Any]]) -> list[str]:
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'preset':{width}}{'parameters':>20}{'active':>18}{'printed':>16}{'FLOPs a token':>15}{'bf16':>9}"]
    for row in rows:
        active = words.count(row["active"]) if row["active"] != row["parameters"] else ""
        lines.append(
            f"{row['name']:{width}}{row['parameters']:>20,}{active:>18}{row['printed']:>16}{row['flops_per_token']:>15.3g}"
            f"{words.size(row['weight_bytes']['bf16']):>9}"
        )
    sources = {row["family"]: f"{row['family']}: {row['paper']}; {row['source']}" for row in rows}
    return [*lines, "", *sources.values(), "", 'openbook models NAME tells all of one; [model] preset = "NAME" in a recipe takes its shape']


def _one(row: dict[str, Any]) -> list[str]:
    active = f", of which a token passes {row['active']:,}" if row["active"] != row["parameters"] else ""
    heads = f"{row['heads']} heads" + (f", {row['kv_heads']} for keys" if row["kv_heads"] != row["heads"] else "")
    weights = ", ".join(f"{words.size(bytes)} {precision}" for precision, bytes in row["weight_bytes"].items())
    training = ", ".join(
        f"{key} = {value}" if isinstance(value, str) else f"{key} = {value:,.10g}" for key, value in row["training"].items()
    )
    lines = [
        f"{row['name']}  {row['family']}, {row['parameters']:,} parameters{active}; printed: {row['printed']}",
        f"shape     {row['layers']} layers of {row['width']:,}, {heads}; context {row['context']:,}, vocabulary {row['vocab_size']:,}",
        f"a token   {row['flops_per_token']:.3g} FLOPs in training; {words.size(row['cache_bytes_per_token'])} of key-value cache in bf16",
        f"weights   {weights}",
        f"training  {training or 'not published'}",
        f"paper     {row['paper']}",
        f"source    {row['source']}",
    ]
    return lines + [f"note      {note}" for note in row["notes"]]


def inspect(
    model: Annotated[Path, typer.Argument(metavar="RUN|FOLDER", help="A run directory, or a folder of weights.")],
    prompt: Annotated[str | None, typer.Option(help="Also look at what happens inside while this text is read.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page: with a prompt, with attention maps and logit lens.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is inside a model: parameters by part, FLOPs, memory, spectral norms, outliers, and what a prompt does in it."""
    from openbook.files import write_text
    from openbook.model.anatomy import anatomy
    from openbook.model.exchange import load_weights
    from openbook.model.tokenizer import load_tokenizer
    from openbook.model.trace import lens, trace

    folder = _weights(model)
    loaded = load_weights(folder)
    found: dict[str, Any] = {"weights": str(folder), **anatomy(loaded)}
    seen = None
    if prompt is not None:
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        ids = [tokenizer.end_of_document, *tokenizer.encode(prompt)]
        room = min(loaded.config.context, LONGEST)
        if len(ids) > room:
            raise InputError(f"--prompt: has {len(ids) - 1} tokens, of which at most {room - 1} can be looked at; shorten it")
        seen = trace(loaded, ids)
        found["prompt"] = lens(loaded, seen, tokenizer)
    if html is not None:
        from openbook.report.inspection import page

        write_text(html, page(model.resolve().name, found, seen))
        found["html"] = str(html)
    show(found, "\n".join(_inside(found)), as_json)


def _weights(path: Path) -> Path:
    """The folder of weights of a run, or the folder itself. Raises InputError if it is neither."""
    for folder in (path, path / "weights"):
        if (folder / "config.json").is_file():
            return folder
    from openbook.run import Run

    raise InputError(f"{Run(path).path / 'weights'}: has no weights yet; `openbook train {path}` makes them")


def _inside(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{found['parameters']:,} parameters, {found['active']:,} active; {found['flops_per_token']['training']:.3g} FLOPs a token to train"
    ]
    lines += [f"  {name:12}{part['total']:>18,}{part['share']:>8.1%}" for name, part in found["parts"].items()]
    contexts = list(found["memory"]["fp32"])
    lines += [
        "",
        "memory at inference, weights and cache of one sequence",
        f"  {'context':10}" + "".join(f"{text:>12}" for text in contexts),
    ]
    lines += [f"  {name:10}" + "".join(f"{words.size(row[text]):>12}" for text in contexts) for name, row in found["memory"].items()]
    longest = max(len(row["name"]) for row in found["matrices"])
    lines += ["", f"{'matrix':{longest}}{'shape':>16}{'spectral norm':>15}{'stable rank':>13}{'max / std':>11}"]
    for row in found["matrices"]:
        shape = " x ".join(str(size) for size in row["shape"])
        lines.append(f"{row['name']:{longest}}{shape:>16}{row['spectral_norm']:>15.3f}{row['stable_rank']:>13.1f}{row['outlier']:>11.1f}")
    if "prompt" in found:
        lines += ["", f"{'layer':>6}{'max / std':>11}  {'channel':>8}{'first token':>13}{'entropy':>9}  next token, by this layer"]
        for row in found["prompt"]["layers"]:
            heads = row["heads"] or [{"first": None, "entropy": None}]
            first, entropy = (
                words.figure(sum(head[key] for head in heads) / len(heads), 2) if row["heads"] else words.NOTHING
                for key in ("first", "entropy")
            )
            last = row["lens"][-1]
            guess = f"{last['token']!r} {last['probability']:.2f}"
            lines.append(f"{row['layer']:>6}{row['outlier']:>11.1f}  {row['channel']:>8}{first:>13}{entropy:>9}  {guess}")
    if "html" in found:
        lines += ["", f"page      {found['html']}"]
    return lines
