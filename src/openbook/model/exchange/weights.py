"""A folder's weights into a model and out of it.

Everything that can be wrong with a folder is found from its configuration and the headers of its files, before memory is taken. Tensors
are then read one by one, so that loading takes the model's own memory and at most one file's pages besides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from openbook.errors import InputError, OpenbookError
from openbook.files import write_json, written_aside
from openbook.model.config import TransformerConfig
from openbook.model.exchange.configuration import kept_family, load_family, written_config
from openbook.model.exchange.family import Family, Stored, layout
from openbook.model.exchange.tensors import READ, Entry, entries, files_of, opened
from openbook.model.transformer import Transformer


def save_weights(model: Transformer, folder: Path, end_of_document: int) -> None:
    """Writes `config.json` and `model.safetensors` (fp32), each whole or not at all: in the form of a stock architecture if one has the
    shape, else in our own."""
    family, tensors_of = kept_family(model.config), _tensors(model)
    write_json(folder / "config.json", written_config(family, model.config, end_of_document))
    tensors = {name: stored.write(tensors_of) for name, stored in layout(family, model.config, tensors_of).items()}
    path = folder / "model.safetensors"
    with written_aside(path) as aside:
        try:
            save_file(tensors, aside, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OpenbookError(f"{path}: cannot be written ({error}); nothing finished was lost") from None


def load_weights(folder: Path, device: str | torch.device = "cpu", allow_extra: bool = False) -> Transformer:
    """A model ready for inference, in fp32. Raises InputError if a tensor is missing, superfluous (unless `allow_extra`), of the wrong
    shape, or of a type other than float32, float16 and bfloat16."""
    config, wanted, _ = require_weights(folder, allow_extra)
    model = Transformer(config)
    parameters = _tensors(model)
    by_file: dict[Path, list[tuple[Entry, Stored]]] = {}
    for entry, stored in wanted:
        by_file.setdefault(entry.path, []).append((entry, stored))
    with torch.no_grad():
        for path, members in by_file.items():
            with opened(path) as file:
                for entry, stored in members:
                    stored.read(file.tensor(entry.name), parameters)
    return model.eval().to(device)


def require_weights(folder: Path, allow_extra: bool = False) -> tuple[TransformerConfig, list[tuple[Entry, Stored]], list[str]]:
    """Checks a folder from its configuration and headers alone. Returns the shape, what fills the parameters of a model of it, and the
    names of superfluous tensors. Raises InputError as `load_weights` does."""
    family, config = load_family(folder)
    files = files_of(folder)
    found = entries(files)
    where = files[0] if len(files) == 1 else folder
    _require_plausible(config, len(found), folder)
    try:
        with torch.device("meta"):
            parameters = _tensors(Transformer(config))
    except ValueError as error:  # a shape that no model can have
        raise InputError(f"{folder / 'config.json'}: {error}") from None
    stored = layout(family, config, parameters)
    theirs = _named(family, found, stored)
    if missing := [name for name in stored if name not in theirs]:
        raise InputError(f"{where}: tensor {missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else ""))
    for name, how in stored.items():
        if list(theirs[name].shape) != (shape := how.shape(parameters)):
            entry = theirs[name]
            raise InputError(f"{entry.path}: tensor {entry.name} has shape {list(entry.shape)}; config.json calls for {shape}")
        if theirs[name].dtype not in READ:
            raise InputError(f"{theirs[name].path}: tensor {name} is stored as {theirs[name].dtype}; {', '.join(sorted(READ))} are read")
    extra = [name for name in theirs if name not in stored and not _is_repeated_head(family, config, name, theirs)]
    if extra and not allow_extra:
        more = f", and {len(extra) - 1} more" if extra[1:] else ""
        raise InputError(f"{where}: tensor {extra[0]}{more} is unknown to this architecture; --allow-extra leaves such tensors out")
    return config, [(theirs[name], how) for name, how in stored.items()], extra


def _require_plausible(config: TransformerConfig, tensors: int, folder: Path) -> None:
    """Before a model is built, if only without memory: a shape of more parts than there are tensors is not that of these weights."""
    for count, what in ((config.layers, "layers"), (config.experts.count if config.experts else 0, "experts")):
        if count > tensors:
            raise InputError(f"{folder / 'config.json'}: {count:,} {what} need more tensors than the {tensors:,} that the weights have")


def _named(family: Family, found: Mapping[str, Entry], stored: Mapping[str, Stored]) -> dict[str, Entry]:
    """The tensors of the files under the names that the architecture has for them: without buffers, and with the prefix that files of the
    bare model lack."""
    bare = not any(name.startswith(family.prefix) for name in found)
    named = {}
    for name, entry in found.items():
        full = family.prefix + name if bare and family.prefix + name in stored else name
        if full in stored or not re.search(family.buffers, "." + name):
            named[full] = entry
    return named


def _is_repeated_head(family: Family, config: TransformerConfig, name: str, theirs: Mapping[str, Entry]) -> bool:
    """Whether a tensor is the head of a model whose embedding is its head. Raises InputError if it has other values."""
    head, embedding = (f"{family.names[module]}.weight" for module in ("head", "embedding"))
    if not config.tied_head or name != head:
        return False
    if not torch.equal(_tensor(theirs[head]), _tensor(theirs[embedding])):
        raise InputError(
            f"{theirs[head].path}: tensor {head} is not {embedding}, though config.json has tie_word_embeddings; "
            "set that to false if the head is its own"
        )
    return True


def _tensors(model: Transformer) -> dict[str, Tensor]:
    """What a model is made of: its parameters, a tied one once, and the biases that balance experts."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _tensor(entry: Entry) -> Tensor:
    with opened(entry.path) as file:
        return file.tensor(entry.name)
