"""The tensors of a folder of weights: which there are and how large, before one is read; then one file after the other.

safetensors, whole or in shards, or torch's own files, which are pickles and read with nothing but tensors allowed in them.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openbook.errors import InputError
from openbook.model.exchange.facts import LARGEST_FILE

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
READ = {"F32", "F16", "BF16"}
_TORCH_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Entry:
    """A tensor that lies in a file. `dtype` is safetensors' word for its type."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


class File:
    """An open file of tensors."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[tuple[int, ...], str]], tensor: Callable[[str], Tensor]) -> None:
        self.path, self.shapes, self.tensor = path, shapes, tensor

    def entries(self) -> Iterator[Entry]:
        for name, (shape, dtype) in self.shapes.items():
            yield Entry(self.path, name, shape, dtype)


@contextmanager
def opened(path: Path) -> Iterator[File]:
    """Raises InputError that names the file if it is missing, damaged, or holds anything but tensors."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; the weights are not whole without it")
    if path.suffix == ".safetensors":
        with _opened_safetensors(path) as file:
            yield file
    else:
        yield _unpickled(path)


@contextmanager
def _opened_safetensors(path: Path) -> Iterator[File]:
    try:
        with safe_open(path, "pt") as file:  # checks that the header's offsets, shapes and types agree with each other and with the file
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            yield File(path, {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}, file.get_tensor)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def _unpickled(path: Path) -> File:
    tensors = {name: value for name, value in unpickle(path).items() if isinstance(value, Tensor)}
    shapes = {name: (tuple(tensor.shape), _TORCH_NAMES.get(tensor.dtype, str(tensor.dtype))) for name, tensor in tensors.items()}
    return File(path, shapes, tensors.__getitem__)


def unpickle(path: Path) -> dict[str, Any]:
    """The content of a torch file that holds tensors, numbers, text and tables of them; raises InputError for any other pickle."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = str(error).partition("GLOBAL ")[2].split(" ")[0]
        what = f" ({found})" if found else ""
        raise InputError(f"{path}: a pickle with more than tensors in it{what}, which could run code; use safetensors instead") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise InputError(f"{path}: not a file of torch ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__} rather than tensors by name")
    return content


def files_of(folder: Path) -> list[Path]:
    """The files with the weights of a folder, safetensors rather than pickles. Raises InputError if there are none."""
    for name in WHOLE:
        if (folder / (name + INDEX)).is_file():
            return [folder / shard for shard in _shards(folder / (name + INDEX))]
        if (folder / name).is_file():
            return [folder / name]
    raise InputError(f"{folder}: no weights; there should be {WHOLE[0]}, {WHOLE[0]}{INDEX} with its shards, or {WHOLE[1]}")


def _shards(index: Path) -> list[str]:
    """Names of the shards, each once. Raises InputError for a name outside the folder."""
    try:
        if index.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{index.stat().st_size:,} bytes")
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        if odd := [shard for shard in shards if Path(shard).name != shard]:
            raise InputError(f"{index}: shard {odd[0]!r} is not in this folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index}: not an index of weights ({type(error).__name__}: {error})") from None
    return shards


def entries(files: list[Path]) -> dict[str, Entry]:
    """All tensors of the files by name; only headers are read. Raises InputError for one that is in two files."""
    found: dict[str, Entry] = {}
    for path in files:
        with opened(path) as file:
            for entry in file.entries():
                if entry.name in found:
                    raise InputError(f"{path}: tensor {entry.name} is in {found[entry.name].path.name}, too")
                found[entry.name] = entry
    return found
