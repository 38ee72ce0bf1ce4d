"""From what a user names to a model that can be asked: a run, a folder of weights, or a URL."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from openbook.errors import InputError
from openbook.evaluate.models.endpoint import Endpoint
from openbook.evaluate.models.engine import Engine
from openbook.evaluate.models.folder import Folder
from openbook.evaluate.models.interface import LanguageModel
from openbook.evaluate.models.spelled import SpelledEndpoint
from openbook.files import sha256_file, sha256_json
from openbook.model.exchange import load_weights
from openbook.model.tokenizer import load_tokenizer
from openbook.progress import say

KEY = "OPENAI_API_KEY"
"""The environment variable that holds an endpoint's key."""
FOREIGN = "transformers"


def open_model(target: str, batch: int = 16, stride: int | None = None, model: str | None = None, foreign: bool = False) -> LanguageModel:
    """target: a run directory, a Hugging Face folder, or the base URL of an OpenAI-compatible API.

    A folder is opened by our engine where it knows architecture and tokenizer, else, or with `foreign`, by transformers. model: which of an
    endpoint's. Raises InputError that says what is missing.
    """
    if target.startswith(("http://", "https://")):
        return open_endpoint(Endpoint(target, model, os.environ.get(KEY)), stride)
    folder = weights_folder(Path(target))
    identity = _identity(folder)
    if foreign:
        return Folder(folder, f"{FOREIGN} {identity}", batch, stride)
    try:
        return open_engine(folder, identity, batch, stride)
    except InputError as error:
        if not any(part in str(error) for part in ("architecture", "tokenizer.json")):
            raise
        say(f"opened by transformers instead of our engine: {error}")
    return Folder(folder, f"{FOREIGN} {identity}", batch, stride)


def open_endpoint(endpoint: Endpoint, stride: int | None = None) -> LanguageModel:
    """By tokens, if the endpoint says how it makes them; else by texts alone."""
    try:
        return SpelledEndpoint(endpoint, stride)
    except InputError:
        return endpoint


def weights_folder(path: Path) -> Path:
    """The folder that has config.json: the path itself, or a run's weights. Raises InputError if neither has one."""
    for folder in (path, path / "weights"):
        if (folder / "config.json").is_file():
            for name, command in (("tokenizer.json", "export"), ("model.safetensors", "train")):
                if folder != path and not (folder / name).is_file():
                    raise InputError(f"{folder / name}: no such file; `openbook {command} {path}` makes it")
            return folder
    raise InputError(f"{path}: no run directory with weights, and no folder with config.json; give one, or a URL that begins with http")


def open_engine(folder: Path, identity: str, batch: int = 16, stride: int | None = None) -> Engine:
    """Raises InputError if a file is missing or damaged, or of an architecture that our engine does not know."""
    network = load_weights(folder, "cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    if not tokenizer.special_tokens:
        raise InputError(f"{folder / 'tokenizer.json'}: has no special token to begin a document with")
    if tokenizer.vocab_size > network.config.vocab_size:
        raise InputError(f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, config.json only {network.config.vocab_size}")
    return Engine(network.eval(), tokenizer, identity, batch, stride)


def _identity(folder: Path) -> str:
    """A digest of everything that decides a folder's scores."""
    files = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("tokenizer*")), folder / "config.json"]
    hashes = {file.name: sha256_file(file) for file in files if file.name != "config.json"}
    return sha256_json({**hashes, "config": json.loads((folder / "config.json").read_bytes())})
