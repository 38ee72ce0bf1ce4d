"""ONNX: the model as a graph of standard operators, from token ids to logits, for onnxruntime and what else reads such files."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openbook.errors import InputError
from openbook.files import written_aside
from openbook.model.exchange import load_weights
from openbook.model.transformer import Transformer
from openbook.progress import say

BESIDE = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
WHOLE = 2**30
"""Bytes of weights beyond which they lie in a file of their own: protobuf holds at most 2 GiB."""


class _Logits(nn.Module):
    """input_ids: (batch, time) -> logits: (batch, time, vocabulary)."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model.logits(self.model(input_ids))


def write_onnx(folder: Path, path: Path) -> dict[str, Any]:
    """Writes a folder of weights as a folder with `model.onnx` and the tokenizer: input_ids (batch, time) to logits, in float32, without a
    cache. Both sizes are free, time up to the context. Raises InputError for a mixture of experts."""
    _require_packages()
    model = load_weights(folder)
    if model.config.experts is not None:
        raise InputError(
            "ONNX has no operator for the grouped products of a mixture of experts; GGUF and the Hugging Face folder hold them"
        )
    say("export: onnx, which takes a minute or more")
    program = _program(model)
    size = sum(parameter.nbytes for parameter in model.parameters())
    with written_aside(path) as aside:
        aside.mkdir(parents=True)
        program.save(str(aside / "model.onnx"), external_data=size > WHOLE)
        for name in BESIDE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, aside / name)
    return {"file": str(path / "model.onnx"), "bytes": sum(file.stat().st_size for file in path.glob("model.onnx*")), "type": "f32"}


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("ONNX files need the packages onnx and onnxscript; pip install openbook[onnx]") from None


def _program(model: Transformer) -> Any:
    """torch's program for it, made without its remarks."""
    config = model.config
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", max=config.context)}
    windows = [window.width for layer in range(config.layers) if (window := config.window(layer))]
    example = min(
        max([2, *(width for width in windows if width < config.context)]) + 1, config.context
    )  # where every window hides something
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            _Logits(model).eval(),
            (torch.zeros(2, example, dtype=torch.long),),
            dynamo=True,
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": free},
            verbose=False,
        )
