"""Datasets of the Hugging Face hub: the files of one commit. An extra: pip install 'openbook[corpus-hf]'."""

from __future__ import annotations

import re
from pathlib import Path

from openbook.corpus.sources.licences import spdx
from openbook.errors import InputError, OpenbookError
from openbook.recipe_corpus import HubComponent

_CARD_LICENCE = re.compile(r"\A---\s*\n(?:.*\n)*?license:\s*(?:\n\s*-\s*)?[\"']?([\w.+-]+)", re.IGNORECASE)


def snapshot(component: HubComponent, where: str) -> Path:
    """The folder of the dataset at its commit, downloaded unless it is in the hub's cache. Raises InputError if it is not to be had."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise InputError(f"{where}: datasets of the hub need huggingface_hub; pip install 'openbook[corpus-hf]'") from None
    try:
        patterns = [*component.include, "README.md"]
        return Path(snapshot_download(component.dataset, repo_type="dataset", revision=component.revision, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise OpenbookError(f"{where}: {component.place} is not in the hub's cache, and the hub cannot be reached") from None
    except HfHubHTTPError as error:
        raise InputError(f"{where}: {component.place}: {str(error).splitlines()[0]}") from None


def card_licence(folder: Path) -> str | None:
    """The licence that the dataset's card states, as SPDX; None if it states none that is known."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    match = _CARD_LICENCE.match(card.read_text(encoding="utf-8", errors="replace")[:20_000])
    return spdx(match[1]) if match else None
