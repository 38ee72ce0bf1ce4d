"""Evaluation sets from the Hugging Face hub, as the files below the data folder have them. An extra: 'openbook[corpus-hf]'."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from openbook.errors import InputError, OpenbookError
from openbook.evaluate.task import Hub, Task
from openbook.evaluate.templates import evaluated
from openbook.files import written_aside

PARTS = "{config}/{split}/"
"""Where the hub keeps the parquet files that it makes of every dataset, on its branch refs/convert/parquet."""


def from_hub(hub: Hub) -> list[Path]:
    """The parquet files of a split, downloaded unless they are in the hub's cache. Raises InputError if they are not to be had."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise InputError("datasets of the hub need huggingface_hub; pip install 'openbook[corpus-hf]'") from None
    folder = PARTS.format(config=hub.config, split=hub.split)
    try:
        root = Path(snapshot_download(hub.dataset, repo_type="dataset", revision=hub.revision, allow_patterns=[folder + "*.parquet"]))
    except LocalEntryNotFoundError:
        raise OpenbookError(f"{hub.dataset}: is not in the hub's cache, and the hub cannot be reached") from None
    except HfHubHTTPError as error:
        raise InputError(f"{hub.dataset}: {str(error).splitlines()[0]}") from None
    return sorted((root / folder).glob("*.parquet"))


def download(task: Task, folder: Path, fetch: Callable[[Hub], list[Path]] = from_hub) -> Path:
    """Writes the task's file below the data folder. Raises InputError if the task names no dataset of the hub, or it has no rows."""
    hub = task.data.hub
    if hub is None:
        raise InputError(f"{task.name}: the hub has no such set that we know of; it comes from {task.data.origin or 'its user'}")
    path = folder / task.data.file
    lines = [
        _line(hub, row, f"{file}: row {number}") for file in fetch(hub) for number, row in enumerate(pq.read_table(file).to_pylist(), 1)
    ]
    if not lines:
        raise InputError(f"{hub.dataset}: has no file in {PARTS.format(config=hub.config, split=hub.split)}")
    text = "".join(lines).encode()
    with written_aside(path) as aside:
        aside.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def _line(hub: Hub, row: dict[str, object], where: str) -> str:
    item = {name: evaluated(expression, row, where) for name, expression in hub.fields.items()} if hub.fields else row
    return json.dumps(item, ensure_ascii=False) + "\n"
