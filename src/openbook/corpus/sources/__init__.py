"""Where the texts of a corpus come from: one module for each kind of place, one for each format of files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from openbook.corpus.raw import RawText
from openbook.corpus.sources.files import Part, find_files, fingerprint, locate, read_part
from openbook.corpus.sources.machine import SELECTIONS
from openbook.recipe_corpus import AnyComponent, FilesComponent, GitComponent, HubComponent, MachineComponent, ReadComponent, UrlComponent

__all__ = ["Part", "facts", "parts", "read", "read_part"]


def read(component: AnyComponent, folder: Path, where: str, limit: int) -> Iterator[RawText]:
    """Every text of a component, in an order that is the same everywhere, and every problem with one. Nothing of a component that is
    not available.

    `folder` is the recipe's, `where` the component's place in the recipe, for messages, and `limit` the most bytes of a text. Raises
    InputError if there is nothing to read, OpenbookError if the network fails.
    """
    if not component.available:
        return
    if isinstance(component, MachineComponent):
        yield from SELECTIONS[component.select](limit)
    elif isinstance(component, GitComponent):
        from openbook.corpus.sources.git import read_repository

        yield from read_repository(component, folder, where, limit)
    else:
        found, assumed = parts(component, folder, where)
        for part in found:
            for raw in read_part(part, component, limit):
                yield raw if raw.problem or raw.licence or not assumed else replace(raw, licence=assumed)


def parts(component: ReadComponent, folder: Path, where: str) -> tuple[list[Part], str | None]:
    """The files of a component, downloaded if need be, and the licence of texts that state none. Each part can be read on its own."""
    if isinstance(component, UrlComponent):
        from openbook.corpus.sources.web import download_all

        return [Part(url, path) for url, path in download_all(component, where)], None
    if isinstance(component, HubComponent):
        from openbook.corpus.sources.hub import card_licence, snapshot

        root = snapshot(component, where).resolve()
        found = find_files(root, component, where, within=root.parents[1])  # the hub's snapshots are links to blobs beside them
        return [part for part in found if part.origin != "README.md"], card_licence(root)
    assert isinstance(component, FilesComponent)
    return find_files(locate(component.path, folder, f"{where}.path"), component, f"{where}.path = {component.path!r}"), None


def facts(component: AnyComponent, folder: Path, where: str) -> list[list[object]]:
    """What tells whether a component changed, beside the recipe: name, size and time of the user's files. The others are named by
    digests and commits, or taken once."""
    if not isinstance(component, FilesComponent) or not component.available:
        return []
    return fingerprint(parts(component, folder, where)[0])
