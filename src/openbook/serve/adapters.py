"""LoRA adapters as models of their own: named in requests, loaded and unloaded while the server runs."""

from __future__ import annotations

import itertools
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from openbook.errors import InputError
from openbook.serve.served import Served

if TYPE_CHECKING:
    from openbook.serve.api.app import Front
    from openbook.serve.api.desk import Desk

NAME = re.compile(r"[A-Za-z0-9][\w.:-]*(?:/[A-Za-z0-9][\w.:-]*)*", re.ASCII)
LONGEST_NAME = 200
MOST = 100
"""Adapters of one server: each is in memory."""


class Adapters:
    """Loads and unloads the adapters of a desk's models; may be used from any thread.

    folder: below which an adapter that is asked for over HTTP must lie; None lets none be loaded or unloaded so. front: has names that are
    taken, and is told of changes. Raises InputError for a folder that is none.
    """

    def __init__(self, desk: Desk, folder: Path | None, front: Front | None) -> None:
        if folder is not None and not folder.is_dir():
            raise InputError(f"--adapters {folder}: is not a folder")
        self.folder = None if folder is None else folder.resolve()
        self._desk, self._front = desk, front
        self._numbers, self._lock = itertools.count(), threading.Lock()

    def load(self, name: str, folder: Path, base: str | None) -> Served:
        """From now on the name is a model: `base`, or the only model for None, with the folder's adapter. Raises InputError."""
        with self._lock:
            models = self._desk.models
            self._check_name(name)
            if sum(served.parent is not None for served in models.values()) >= MOST:
                raise InputError(f"adapter {name!r}: {MOST} are loaded, and no more may be; unload one first")
            parent = self._parent(base)
            handle = f"{name} {next(self._numbers)}"  # so that who began with an adapter of this name never goes on with the next
            parent.engine.load_adapter(handle, folder)
            served = parent.adapted(name, handle)
            self._desk.models = {**models, name: served}
            self._told()
        return served

    def unload(self, name: str) -> None:
        """Requests may not name it any more; those under way go on. Raises InputError if it is not the name of an adapter."""
        with self._lock:
            served = self._desk.models.get(name)
            if served is None or served.adapter is None:
                raise InputError(f"no adapter {name[:100]!r} is loaded")
            self._desk.models = {other: model for other, model in self._desk.models.items() if other != name}
            served.engine.unload_adapter(served.adapter)
            self._told()

    def _check_name(self, name: str) -> None:
        if len(name) > LONGEST_NAME or not NAME.fullmatch(name):
            raise InputError(
                f"adapter {name[:100]!r}: a name has letters, digits and . : _ - in parts between slashes that begin with a letter or a "
                f"digit, at most {LONGEST_NAME} in all"
            )
        if name in self._desk.models or (self._front is not None and name in self._front.taken()):
            raise InputError(f"adapter {name!r}: a model or an alias has this name")

    def _parent(self, base: str | None) -> Served:
        parents = {name: served for name, served in self._desk.models.items() if served.parent is None}
        names = ", ".join(map(repr, parents)) or "none"
        if base is None and len(parents) != 1:
            raise InputError(f"say which model the adapter is for; there are {names}")
        found = parents.get(base) if base is not None else next(iter(parents.values()))
        if found is None:
            raise InputError(f"{str(base)[:100]!r} is not a model that can have an adapter; there are {names}")
        return found

    def _told(self) -> None:
        if self._front is not None:
            self._front.tell(self._desk)
