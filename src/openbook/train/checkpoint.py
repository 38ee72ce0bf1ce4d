"""Checkpoints that survive anything: written aside, hashed, flushed, renamed; checked byte by byte before they are trusted.

A checkpoint is a folder `step-00001000` of torch.distributed.checkpoint files (which reshard on load), `state.json` and
`hashes.json`. A folder of that name is always whole; whether the disk kept it so is what the hashes tell.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from openbook.errors import OpenbookError
from openbook.files import ASIDE, aside_name, remove, sha256_file, write_json, written_aside
from openbook.train.contract import Contract
from openbook.train.policy import Memory
from openbook.train.workers import LostWorker, exchange

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
    memory: Memory = field(default_factory=Memory)


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def save(
    root: Path,
    state: State,
    tensors: Mapping[str, Tensor],
    keep: int,
    permanent_every: int | None = None,
    anchor_every: int | None = None,
    group: dist.ProcessGroup | None = None,
    guard: Callable[[], None] = lambda: None,
) -> Path:
    """Writes a checkpoint and removes the oldest ones beyond `keep`, except at multiples of `permanent_every`, and the newest two at
    multiples of `anchor_every`, to which a training may go back.

    `tensors` are stored under their names. Where they are cut over the workers of a group, all of these call it, each writes its parts,
    and the first makes the whole of them, once `guard` has not raised.
    """
    final = root / folder_name(state.step)
    if group is not None and dist.get_rank(group):
        _write_tensors(aside_name(final), tensors, group)
        return final
    with written_aside(final, guard) as aside:
        _write_tensors(aside, tensors, group)
        write_json(aside / "state.json", asdict(state))
        hashes = {file.name: sha256_file(file) for file in sorted(aside.iterdir())}
        write_json(aside / "hashes.json", hashes)
    folders = newest_first(root)
    anchors = [folder for folder in folders if anchor_every and step_of(folder) % anchor_every == 0]
    for old in folders[keep:]:
        if old not in anchors[:2] and (permanent_every is None or step_of(old) % permanent_every):
            remove(old)
    return final


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Raises OSError if the file system is what fails; torch wraps that twice, in what is not even an Exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that it saves without a process group, which is meant
            writer = FileSystemWriter(folder, sync_files=group is not None)  # only who has written a file can flush it everywhere
            with exchange() if group is not None else nullcontext():
                dcp_save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as wrapped:
        if group is not None and dist.get_rank(group):
            raise LostWorker("worker 0 says why the checkpoint could not be written") from None
        error: BaseException | None = next(iter(wrapped.failures.values()))[0]
        while error is not None and not isinstance(error, OSError):
            error = error.__cause__ or error.__context__
        raise error or OpenbookError(f"{folder}: cannot be written: {wrapped}") from None


@dataclass(frozen=True)
class Saved:
    """A save that is done. `blocking` are the seconds for which it held up the training, of the `seconds` it took."""

    state: State
    folder: Path
    fingerprint: str
    seconds: float
    blocking: float


class Saver:
    """Saves in a thread of its own, one checkpoint at a time, from copies: the training goes on with the tensors themselves."""

    def __init__(self, save: Callable[[State, Mapping[str, Tensor]], Path], host: DeviceMesh | None = None) -> None:
        self._save, self._host = save, host
        self._thread = ThreadPoolExecutor(1, "openbook-save")
        self._pending: Future[Saved] | None = None

    def begin(self, state: State, tensors: Mapping[str, Tensor], mark: str, since: float) -> None:
        """Begins to save; the save before must have been collected. `since`: when it began to hold up the training (perf_counter)."""
        staged = {name: _on_host(tensor, self._host) for name, tensor in tensors.items()}
        blocking = time.perf_counter() - since

        def work() -> Saved:
            folder = self._save(state, staged)
            return Saved(state, folder, mark, time.perf_counter() - since, blocking)

        self._pending = self._thread.submit(work)

    def collect(self, wait: bool = False) -> Saved | None:
        """The save that is done, once; None if there is none, or none yet. Raises what it failed with."""
        if self._pending is None or not (wait or self._pending.done()):
            return None
        pending, self._pending = self._pending, None
        return pending.result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)


def _on_host(tensor: Tensor, host: DeviceMesh | None) -> Tensor:
    """A copy in the memory of the machine, with its place in the whole if it is a part."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    rows = tensor.to_local().to("cpu", copy=True)
    return DTensor.from_local(rows, host, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def whole(root: Path) -> list[Path]:
    """Folders of whole checkpoints, the newest first."""
    return sorted((path for path in root.glob("*") if _NAME.fullmatch(path.name)), reverse=True)


def newest_first(root: Path) -> list[Path]:
    """Folders of whole checkpoints; leftovers of a save that was cut short are removed."""
    for leftover in root.glob(f"*{ASIDE}"):
        remove(leftover)
    return whole(root)


def read_state(folder: Path) -> State:
    facts = json.loads((folder / "state.json").read_bytes())
    return State(**{**facts, "memory": Memory.of(facts["memory"])})


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
