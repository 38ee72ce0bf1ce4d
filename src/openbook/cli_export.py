"""`openbook export`: the weights as other tools want them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openbook import words
from openbook.arguments import Json, RunArgument, show
from openbook.cli_stages import Again, one_stage, weights_of
from openbook.errors import InputError

ENDINGS = {"gguf": ".gguf", "onnx": "-onnx"}


def export(
    run: RunArgument,
    target: Annotated[str, typer.Option("--as", metavar="FORM", help="hf, gguf (llama.cpp) or onnx.")] = "hf",
    kind: Annotated[str | None, typer.Option("--type", help="Of gguf: f32, f16 (default), q8_0 or q4_0.")] = None,
    out: Annotated[Path | None, typer.Option(help="Of gguf and onnx: where to; RUN/exports by default.")] = None,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Complete the weights to a Hugging Face folder with tokenizer and model card; or write them for llama.cpp or as ONNX."""
    if target == "hf":
        if kind is not None or out is not None:
            raise InputError("--type and --out are for --as gguf and --as onnx; a Hugging Face folder is RUN/weights, in float32")
        one_stage(run, "export", again, as_json)
        return
    if target not in ENDINGS:
        raise InputError(f"--as {target}: should be hf, gguf or onnx")
    if kind is not None and target != "gguf":
        raise InputError(f"--type {kind}: is for --as gguf; ONNX is written in float32")
    from openbook.export import write_gguf, write_onnx
    from openbook.files import make_folder

    folder, name, kind = weights_of(run), run.resolve().name, kind or "f16"
    path = out or run / "exports" / (name + (f"-{kind}" if target == "gguf" else "") + ENDINGS[target])
    make_folder(path.absolute().parent)
    found = write_gguf(folder, path, name, kind) if target == "gguf" else write_onnx(folder, path)
    lines = [f"{found['file']}  {words.size(found['bytes'])}, {found['type']}"] + [f"note  {note}" for note in found.get("notes", [])]
    show(found, "\n".join(lines), as_json)
