"""Where a model comes from: a folder or file on this machine, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from openbook.errors import InputError, OpenbookError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*|[\w-][\w.-]*")
CHECKPOINT = "ckpt.pt"
"""nanoGPT's name."""


@dataclass(frozen=True)
class Source:
    """`path` is a Hugging Face folder, or a checkpoint file. `name` and `place` are for people; `revision` is the hub's commit."""

    path: Path
    name: str
    place: str
    revision: str | None = None


def find(place: str, revision: str | None) -> Source:
    """Raises InputError if there is no such folder and no such repository; OpenbookError if the hub cannot be reached."""
    path = Path(place)
    if path.exists():
        if revision is not None:
            raise InputError(f"--revision {revision}: {place} is a folder of this machine, which has no revisions")
        path = path.resolve()
        if path.is_dir() and not (path / "config.json").is_file() and (path / CHECKPOINT).is_file():
            path = path / CHECKPOINT
        name = path.parent.name if path.name == CHECKPOINT else path.stem if path.is_file() else path.name
        return Source(path, name, str(path))
    if not _HUB_ID.fullmatch(place):
        raise InputError(f"{place}: no such folder, and not a name on the Hugging Face hub such as EleutherAI/pythia-70m")
    folder = _snapshot(place, revision)
    return Source(folder, place.rpartition("/")[2], place, folder.name)


def _snapshot(identifier: str, revision: str | None) -> Path:
    """The files of a repository, downloaded unless they are in the hub's cache: safetensors, or pickles where there are none."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise InputError(f"{identifier}: no such folder; models of the hub need pip install 'openbook[corpus-hf]'") from None
    try:
        for weights in ("*.safetensors", "*.bin"):
            patterns = ["*.json", "merges.txt", "tokenizer.model", weights]
            folder = Path(snapshot_download(identifier, revision=revision, allow_patterns=patterns))
            if any(folder.glob(weights)):
                break
    except LocalEntryNotFoundError:
        raise OpenbookError(f"{identifier}: no such folder, not in the hub's cache, and the hub cannot be reached") from None
    except HfHubHTTPError as error:
        raise InputError(f"{identifier}: {str(error).splitlines()[0]}") from None
    return folder
