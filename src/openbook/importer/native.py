"""The checkpoints of the programs that trained OPT and GPT-NeoX, as Hugging Face folders.

Neither says its shape in a form that is safe to read, so transformers' `config.json` of the model has to lie beside them. metaseq's
consolidated file holds all tensors under "model"; GPT-NeoX's pipeline stores a file for each layer and tensor-parallel rank.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from openbook.errors import InputError
from openbook.files import write_json
from openbook.model.exchange.tensors import unpickle

METASEQ = ("restored.pt", "reshard.pt", "consolidated.pt")
"""Names that metaseq's documents give to a file with all shards in it."""
_LAYER = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
BEFORE = 2
"""GPT-NeoX's files before that of the first layer: embeddings, and a step without tensors."""


def as_folder(source: Path, into: Path) -> Path:
    """The folder with safetensors: `source` itself, or one made in `into` if it holds a native checkpoint. Raises InputError if that is
    not whole."""
    layers = sorted(path for path in source.iterdir() if _LAYER.fullmatch(path.name))
    metaseq = next((source / name for name in METASEQ if (source / name).is_file()), None)
    if not layers and metaseq is None:
        return source
    if not (source / "config.json").is_file():
        raise InputError(f"{source / 'config.json'}: no such file; a native checkpoint needs the one that transformers has of the model")
    into.mkdir()
    shutil.copyfile(source / "config.json", into / "config.json")
    if metaseq is not None:
        save_file(_metaseq(metaseq), into / "model.safetensors", metadata={"format": "pt"})
    else:
        _neox(layers, into)
    return into


def _metaseq(path: Path) -> dict[str, Tensor]:
    """transformers' names. metaseq joins key, value and query, in this order, under the name of another (its
    sequence_parallel_transformer_layer.py)."""
    content = unpickle(path).get("model")
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a consolidated checkpoint of metaseq, which holds its tensors under model")
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor) or name in ("decoder.version", "decoder.output_projection.weight"):  # the latter is the embedding
            continue
        theirs = "model." + re.sub(r"^decoder\.layer_norm\.", "decoder.final_layer_norm.", name)
        theirs = re.sub(r"\.project_(in|out)_dim\.", r".project_\1.", theirs)
        if ".qkv_proj." not in theirs:
            tensors[theirs] = tensor.contiguous().clone()
            continue
        if len(tensor) % 3:
            raise InputError(f"{path}: tensor {name} has {len(tensor)} rows, which are not keys, values and queries")
        for kind, part in zip("kvq", tensor.chunk(3), strict=True):
            tensors[theirs.replace(".qkv_proj.", f".{kind}_proj.")] = part.contiguous().clone()
    return tensors


def _neox(paths: list[Path], into: Path) -> None:
    """A safetensors file for each layer. Layers are counted by their files; the last two are the final norm and the head."""
    ranks: dict[int, list[Path]] = {}
    for path in paths:
        matched = _LAYER.fullmatch(path.name)
        assert matched is not None
        ranks.setdefault(int(matched[1]), []).append(path)
    head = max(ranks)
    count = len(ranks[head])
    index: dict[str, str] = {}
    for number, members in sorted(ranks.items()):
        if len(members) != count:
            raise InputError(f"{members[0]}: this layer has {len(members)} files, others have {count}; the checkpoint is not whole")
        merged = _merged(members)
        if number == 0:
            prefix = {"word_embeddings.": "gpt_neox.embed_in."}
        elif number == head:
            prefix = {"final_linear.": "embed_out."}
        elif number == head - 1:
            prefix = {"norm.": "gpt_neox.final_layer_norm."}
        else:
            prefix = {"": f"gpt_neox.layers.{number - BEFORE}."}
        [(old, new)] = prefix.items()
        named = {new + name.removeprefix(old): tensor for name, tensor in merged.items()}
        if named:
            save_file(named, into / f"layer-{number:03}.safetensors", metadata={"format": "pt"})
            index |= dict.fromkeys(named, f"layer-{number:03}.safetensors")
    write_json(into / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def _merged(paths: list[Path]) -> dict[str, Tensor]:
    """One layer of all tensor-parallel ranks, as GPT-NeoX's convert_neox_to_hf.py puts it together: what each rank adds to the sum is
    added, norms are averaged."""
    parts: list[Mapping[str, Tensor]] = [
        {name: value for name, value in unpickle(path).items() if isinstance(value, Tensor)} for path in paths
    ]
    if any(set(part) != set(parts[0]) for part in parts):
        raise InputError(f"{paths[0]}: ranks of a layer hold other tensors than each other")
    merged: dict[str, Tensor] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if len(values) == 1 or name.endswith("inv_freq"):
            whole = values[0]
        elif re.search(r"norm\.(weight|bias)$", name):
            whole = torch.stack(values).mean(0)
        elif name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
            whole = torch.stack(values).sum(0)
        else:
            whole = torch.cat(values, 1 if name in ("attention.dense.weight", "mlp.dense_4h_to_h.weight") else 0)
        merged[name] = whole.contiguous().clone()
    return merged
