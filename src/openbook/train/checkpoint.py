"""Checkpoints that survive anything: written aside, hashed, flushed, renamed; checked byte by byte before they are trusted.

A checkpoint is a folder `step-00001000` of torch.distributed.checkpoint files (which reshard on load), `state.json` and
`hashes.json`. A folder of that name is always whole; whether the disk kept it so is what the hashes tell.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from openbook.errors import OpenbookError
from openbook.files import ASIDE, remove, sha256_file, write_json, written_aside

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class State:
    """All that a run's future depends on besides its tensors. `key` names the recipe, data and code it belongs to."""

    key: str
    step: int
    tokens: int
    seconds: float


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def save(root: Path, state: State, tensors: dict[str, Tensor], keep: int) -> Path:
    """Writes a checkpoint and removes the oldest ones beyond `keep`. `tensors` are stored under their names."""
    final = root / folder_name(state.step)
    with written_aside(final) as aside:
        _write_tensors(aside, tensors)
        write_json(aside / "state.json", asdict(state))
        hashes = {file.name: sha256_file(file) for file in sorted(aside.iterdir())}
        write_json(aside / "hashes.json", hashes)
    for old in newest_first(root)[keep:]:
        remove(old)
    return final


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Raises OSError if the file system is what fails; torch wraps that twice, in what is not even an Exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that it saves without a process group, which is meant
            dcp_save(dict(tensors), storage_writer=FileSystemWriter(folder, sync_files=False), no_dist=True)
    except CheckpointException as wrapped:
        error: BaseException | None = next(iter(wrapped.failures.values()))[0]
        while error is not None and not isinstance(error, OSError):
            error = error.__cause__ or error.__context__
        raise error or OpenbookError(f"{folder}: cannot be written: {wrapped}") from None


def newest_first(root: Path) -> list[Path]:
    """Folders of whole checkpoints; leftovers of a save that was cut short are removed."""
    if not root.is_dir():
        return []
    for leftover in root.glob(f"*{ASIDE}"):
        remove(leftover)
    return sorted((path for path in root.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, naming the file; None if every byte is as it was written."""
    try:
        hashes = json.loads((folder / "hashes.json").read_bytes())
    except (OSError, ValueError):
        return "hashes.json is missing or unreadable"
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_file(folder / name) != expected:
            return f"{name} has other bytes than were written"
    return None


def read_state(folder: Path) -> State:
    return State(**json.loads((folder / "state.json").read_bytes()))


def load(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills the tensors in place from a checkpoint that `damage` found nothing wrong with."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        dcp_load(dict(tensors), storage_reader=FileSystemReader(folder), no_dist=True)
