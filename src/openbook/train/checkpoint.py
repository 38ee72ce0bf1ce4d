"""Checkpoints that survive anything: written aside, hashed, flushed, renamed; checked byte by byte before they are trusted.

A checkpoint is a folder `step-00001000` of torch.distributed.checkpoint files (which reshard on load), `state.json` and
`hashes.json`. A folder of that name is always whole; whether the disk kept it so is what the hashes tell.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from openbook.errors import OpenbookError
from openbook.files import ASIDE, remove, sha256_file, write_json, written_aside
from openbook.train.contract import Contract

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class State:
    """All that a run's future depends on besides its tensors. `key` names the recipe, data and code it belongs to, `contract` the
    numerics under which it was computed; an empty one says nothing."""

    key: str
    step: int
    tokens: int
    seconds: float
    contract: Contract = field(default_factory=dict)


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def save(root: Path, state: State, tensors: dict[str, Tensor], keep: int, permanent_every: int | None = None) -> Path:
    """Writes a checkpoint and removes the oldest ones beyond `keep`, except at multiples of `permanent_every`.

    `tensors` are stored under their names.
    """
    final = root / folder_name(state.step)
    with written_aside(final) as aside:
        _write_tensors(aside, tensors)
        write_json(aside / "state.json", asdict(state))
        hashes = {file.name: sha256_file(file) for file in sorted(aside.iterdir())}
        write_json(aside / "hashes.json", hashes)
    for old in newest_first(root)[keep:]:
        if permanent_every is None or step_of(old) % permanent_every:
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


def whole(root: Path) -> list[Path]:
    """Folders of whole checkpoints, the newest first."""
    return sorted((path for path in root.glob("*") if _NAME.fullmatch(path.name)), reverse=True)


def newest_first(root: Path) -> list[Path]:
    """Folders of whole checkpoints; leftovers of a save that was cut short are removed."""
    for leftover in root.glob(f"*{ASIDE}"):
        remove(leftover)
    return whole(root)


def read_state(folder: Path) -> State:
    return State(**json.loads((folder / "state.json").read_bytes()))


def load(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills the tensors in place from a checkpoint that `damage` found nothing wrong with.

    Raises OpenbookError if the checkpoint holds other names or shapes.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            dcp_load(dict(tensors), storage_reader=FileSystemReader(folder), no_dist=True)
    except CheckpointException as wrapped:
        reason = str(next(iter(wrapped.failures.values()))[0]).splitlines()[0]
        raise OpenbookError(f"{folder}: cannot be loaded into this recipe's model: {reason}") from None
