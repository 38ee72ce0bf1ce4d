"""GPT-2's original checkpoints (Radford et al. 2019): `hparams.json`, variables of TensorFlow, `encoder.json` with `vocab.bpe`."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from openbook.errors import InputError
from openbook.importer.bundle import Bundle
from openbook.importer.shapes import require_shapes
from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import read_facts
from openbook.model.exchange.family import layout
from openbook.model.exchange.gpt2 import GPT2
from openbook.model.exchange.shared import Sizes
from openbook.model.exchange.tensors import Entry, entries
from openbook.model.transformer import Transformer
from openbook.progress import track

SHAPE = "hparams.json"
SIZES = Sizes("n_ctx", "n_layer", "n_embd", "n_head", vocab_size="n_vocab")


def read_original(folder: Path, into: Path, allow_extra: bool) -> tuple[TransformerConfig, list[Entry], list[str]]:
    """The shape, the tensors under transformers' names in safetensors files that are made in `into`, and the names of superfluous
    variables. One layer is in memory at a time. Raises InputError for a checkpoint that is not GPT-2's, or not whole."""
    facts = read_facts(folder / SHAPE)
    config = SIZES.read(facts, positions="learned", qkv_bias=True, output_bias=True, activation="gelu-tanh", tied_head=True)
    bundle = Bundle(_index(folder))
    with torch.device("meta"):
        parameters = dict(Transformer(config).named_parameters())
    wanted = {_variable(name): (name, stored.shape(parameters)) for name, stored in layout(GPT2, config, parameters).items()}
    found = {name: _without_one(variable.shape) for name, variable in bundle.variables.items()}
    extra = require_shapes(bundle.index, {name: shape for name, (_, shape) in wanted.items()}, found, SHAPE, allow_extra)
    parts: dict[str, list[str]] = defaultdict(list)
    for name in wanted:
        parts[name.split("/")[1] if re.match(r"model/h\d", name) else "rest"].append(name)
    into.mkdir()
    paths = []
    with track("import: variables", len(parts)) as bar:
        for number, (part, names) in enumerate(parts.items(), 1):
            bar.update(number - 1, part)
            paths.append(into / f"model-{number:05}-of-{len(parts):05}.safetensors")
            tensors = {wanted[name][0]: bundle.tensor(name).view(wanted[name][1]) for name in names}
            save_file(tensors, paths[-1], metadata={"format": "pt"})
    return config, list(entries(paths).values()), extra


def _index(folder: Path) -> Path:
    """The index that `checkpoint` names, a file of one line for each step that was kept, the latest first."""
    path = folder / "checkpoint"
    latest = re.search(r'^model_checkpoint_path: "([^"]+)"', path.read_text(errors="replace")) if path.is_file() else None
    if latest is None:
        raise InputError(f'{path}: should be a file that names the checkpoint, as model_checkpoint_path: "model.ckpt"')
    return folder / f"{Path(latest[1]).name}.index"


def _variable(name: str) -> str:
    """TensorFlow's name of a tensor: `transformer.h.0.ln_1.weight` is `model/h0/ln_1/g`."""
    module, _, kind = re.sub(r"^transformer\.(h\.(?=\d))?", lambda found: "h" if found[1] else "", name).rpartition(".")
    path = f"model/{module.replace('.', '/')}"
    if module in ("wte", "wpe"):
        return path
    return f"{path}/{'b' if kind == 'bias' else 'g' if 'ln_' in module else 'w'}"


def _without_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """GPT-2's matrices are convolutions of width 1, whose first dimension this is."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
