"""A store in a folder, keys in it, and a server behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai

from openbook.accounts.keys import Grants, Key, make
from openbook.accounts.store import Store
from openbook.serve.front import open_front
from serve.serving import NAME, Served, running


@dataclass
class Guarded:
    served: Served
    store: Store
    """A connection of its own, as the command line has."""

    @property
    def url(self) -> str:
        return self.served.url

    def key(self, name: str, admin: bool = False, **grants: object) -> tuple[Key, str]:
        key, text = make(name, Grants(**grants), admin)  # type: ignore[arg-type]
        self.store.add(key)
        return key, text

    def client(self, text: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=text, max_retries=0, timeout=20)


@contextmanager
def guarded(
    weights: Path, folder: Path, *upstreams: str, name: str = NAME, data: Path | None = None, adapters: Path | None = None
) -> Iterator[Guarded]:
    path = folder / "store.sqlite"
    store = Store(path, create=True)
    front = open_front(path, upstreams, None, folder)
    with running(weights, front=front, name=name, data=data, adapters=adapters) as served:
        yield Guarded(served, store)
