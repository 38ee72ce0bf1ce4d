"""What stands before the models: keys and quotas, usage and energy, aliases, and engines elsewhere."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp

from openbook.accounts.store import Store
from openbook.logbook.meter import POWERCAP, counters
from openbook.serve.api.batches import Begin
from openbook.serve.api.desk import Desk
from openbook.serve.front.capabilities import load_capabilities
from openbook.serve.front.door import Door
from openbook.serve.front.energy import SharedEnergy
from openbook.serve.front.ledger import Ledger
from openbook.serve.front.lines import Lines
from openbook.serve.front.pool import Pool, parse_upstream
from openbook.serve.front.quota import Quotas
from openbook.serve.front.register import Register

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Front:
    """Without a store: no keys, no aliases, no usage. Without a pool: no models but the server's own."""

    store: Store | None
    pool: Pool | None
    ledger: Ledger | None
    energy: SharedEnergy
    quotas: Quotas

    @property
    def has_keys(self) -> bool:
        return self.store is not None and bool(self.store.keys())

    def door(self, app: ASGIApp, desk: Desk, log_text: bool) -> ASGIApp:
        register = Register(desk, self.store, self.pool)
        return Door(app, desk, register, self.quotas, self.pool, self.ledger, self.energy, log_text)

    def lines(self, desk: Desk, begins: Mapping[str, Begin]) -> dict[str, Begin]:
        lines = Lines(desk, Register(desk, self.store, self.pool), self.quotas, self.pool, self.ledger, self.energy)
        return {path: lines.through(path, begin) for path, begin in begins.items()}

    @asynccontextmanager
    async def running(self, desk: Desk) -> AsyncIterator[None]:
        """To be entered on the server's event loop."""
        if self.pool is not None:
            await self.pool.start(partial(self.tell, desk))
        self.tell(desk)
        try:
            yield
        finally:
            if self.pool is not None:
                await self.pool.stop()

    def taken(self) -> set[str]:
        """Names of aliases, and of models of engines elsewhere."""
        return {*(self.store.aliases() if self.store else ()), *(self.pool.cards() if self.pool else ())}

    def tell(self, desk: Desk) -> None:
        """Writes the names of all models into the store, where `openbook alias` looks them up."""
        if self.store is not None:
            try:
                self.store.set_models({*desk.models, *(self.pool.cards() if self.pool else ())})
            except sqlite3.Error:
                log.exception("the names of the models could not be written")


def open_front(store: Path | None, upstreams: Sequence[str], capabilities: Path | None, powercap: Path = POWERCAP) -> Front:
    """Raises InputError for a file or an address that cannot be used."""
    kinds = load_capabilities(capabilities)
    pool = Pool([parse_upstream(text, kinds) for text in upstreams], kinds) if upstreams else None
    opened = None if store is None else Store(store)
    energy = SharedEnergy(counters(powercap) if opened else [])
    quotas = Quotas(opened.spent if opened else lambda since: {})
    return Front(opened, pool, Ledger(opened) if opened else None, energy, quotas)
