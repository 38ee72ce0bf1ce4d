"""The import of a model: its weights, its tokenizer and a recipe that says what is known, in a run directory that is whole or absent."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from openbook.errors import InputError
from openbook.files import write_json, written_aside
from openbook.importer.describe import recipe_text
from openbook.importer.nanogpt import read_checkpoint
from openbook.importer.native import as_folder
from openbook.importer.original import SHAPE, read_original
from openbook.importer.source import Source, find
from openbook.importer.tokenizers import prepare
from openbook.model.config import TransformerConfig
from openbook.model.exchange import architecture, exported_config, require_weights, save_weights
from openbook.model.exchange.facts import read_facts
from openbook.model.exchange.tensors import Entry, opened
from openbook.model.transformer import Transformer
from openbook.progress import track
from openbook.recipe import load_recipe
from openbook.run import IMPORT, Outcome, Run, Stage, open_run

BESIDE = ("generation_config.json", "special_tokens_map.json")
"""Files that other tools read beside the weights, taken along as they are."""


@dataclass(frozen=True)
class Found:
    """A model that has been checked: its shape and `config.json`, and the tensors that fill it, or the model itself."""

    config: TransformerConfig
    content: Mapping[str, Any]
    tensors: list[Entry]
    left_out: list[str]
    model: Transformer | None = None


def import_model(
    place: str, revision: str | None = None, out: Path | None = None, allow_extra: bool = False, tokenizer: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Makes a run directory from a folder, a checkpoint of nanoGPT or a repository of the hub; returns it with what was imported.

    tokenizer: a folder with the tokenizer's files, where they do not lie beside the weights. Raises InputError for everything that is
    wrong with the model, and then leaves nothing behind.
    """
    source = find(place, revision)
    name = re.sub(r"[^a-z0-9_-]+", "-", source.name.lower()).strip("-_")[:64] or "imported"
    path = out or Path("runs") / name
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already; choose another --out")
    with tempfile.TemporaryDirectory() as scratch, written_aside(path) as aside:
        found = _found(source.path, Path(scratch) / "model", allow_extra)
        folder = Path(scratch) / "tokenizer"
        beside = source.path.parent if source.path.is_file() else source.path
        encoder = prepare(tokenizer or beside, folder, found.content, found.config.vocab_size)
        content = dict(found.content)
        if found.content.get("eos_token_id") is None:
            content |= {"bos_token_id": encoder.begin_of_document, "eos_token_id": encoder.end_of_document}
        recipe_path = Path(scratch) / "recipe.toml"
        description = f"Imported from {source.place}" + (f" at revision {source.revision}" if source.revision else "")
        recipe_path.write_text(recipe_text(name, description, content["model_type"], found.config), encoding="utf-8")
        run = open_run(aside, load_recipe(recipe_path)[0], recipe_path)
        stage = Stage(IMPORT, 1, (), lambda _: [source.place, source.revision], lambda _: _keep(run, source, found, content, folder))
        with run.locked():
            record = run.carry_out(stage)
        run.manifest["recipe"]["folder"] = str(path.resolve())
        write_json(aside / "manifest.json", run.manifest)
    return path, record["summary"]


def _found(path: Path, scratch: Path, allow_extra: bool) -> Found:
    """The model of a folder or file; `scratch` is a folder for what has to be written anew, which is made if it has to be."""
    if path.is_file():
        model, extra = read_checkpoint(path, allow_extra)
        return Found(model.config, _without_ends(model.config), [], extra, model)
    if (path / SHAPE).is_file() and not (path / "config.json").is_file():
        config, tensors, extra = read_original(path, scratch, allow_extra)
        return Found(config, _without_ends(config), tensors, extra)
    folder = as_folder(path, scratch)
    config, wanted, extra = require_weights(folder, allow_extra)
    return Found(config, read_facts(folder / "config.json").content, [entry for entry, _ in wanted], extra)


def _without_ends(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a model that does not say which tokens begin and end a document: its tokenizer has to."""
    return exported_config(config, 0) | {"bos_token_id": None, "eos_token_id": None}


def _keep(run: Run, source: Source, found: Found, content: Mapping[str, Any], tokenizer: Path) -> Outcome:
    """Writes weights and tokenizer into the run."""
    weights = run.path / "weights"
    weights.mkdir()
    if found.model is not None:
        save_weights(found.model, weights, content["eos_token_id"])
        count = sum(parameter.numel() for parameter in found.model.parameters())
    else:
        _copy_weights(found, source.path, weights)
        count = sum(math.prod(entry.shape) for entry in found.tensors)
        for name in BESIDE:
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, weights / name)
    write_json(weights / "config.json", content)
    shutil.copytree(tokenizer, run.path / "tokenizer")
    shutil.copytree(tokenizer, weights, dirs_exist_ok=True)
    summary = {
        "source": source.place,
        "revision": source.revision,
        "architecture": architecture(found.config),
        "parameters": count,
        "vocab_size": found.config.vocab_size,
        "context": found.config.context,
        "left_out": found.left_out,
    }
    return Outcome(["weights", "tokenizer"], summary)


def _copy_weights(found: Found, source: Path, weights: Path) -> None:
    """File by file. A safetensors file with nothing to leave out is copied as it is; any other is written anew, types unchanged."""
    by_file: dict[Path, list[str]] = {}
    for entry in found.tensors:
        by_file.setdefault(entry.path, []).append(entry.name)
    left_out = set(found.left_out)
    index: dict[str, str] = {}
    with track("import: weights", len(by_file)) as bar:
        for done, (path, names) in enumerate(sorted(by_file.items())):
            bar.update(done, path.name)
            kept = path.with_suffix(".safetensors").name.replace("pytorch_model", "model")
            with opened(path) as file:
                whole = path.suffix == ".safetensors" and not left_out & set(file.shapes)
                if not whole:
                    save_file({name: _own(file.tensor(name)) for name in names}, weights / kept, metadata={"format": "pt"})
            if whole:
                shutil.copyfile(path, weights / kept)
            index |= dict.fromkeys(names, kept)
    if len(by_file) > 1:
        size = sum((weights / name).stat().st_size for name in set(index.values()))
        write_json(weights / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in memory that no other one shares, as safetensors wants it."""
    shared = tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.contiguous().clone() if shared else tensor.contiguous()
