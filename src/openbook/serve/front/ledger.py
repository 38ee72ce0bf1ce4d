"""Rows on their way to the disk. Those that end during one write share the next: a slow disk delays each once, and no more."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

from starlette.concurrency import run_in_threadpool

from openbook.accounts.store import Store, Usage

log = logging.getLogger(__name__)


class Ledger:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Usage, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, row: Usage) -> None:
        """Returns once the row is on the disk, or could not be written, which is logged: a full disk costs the row, not the answer."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((row, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                await run_in_threadpool(self._store.record, [row for row, _ in waiting])
            except sqlite3.Error:
                log.exception("the usage of %d requests could not be written", len(waiting))
            for _, written in waiting:
                if not written.done():
                    written.set_result(None)
