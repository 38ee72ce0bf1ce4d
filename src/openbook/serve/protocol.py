"""uvicorn's HTTP/1.1 with patience that ends: a connection that does not bring a whole request head in time is closed (slow-loris)."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0


class PatientProtocol(H11Protocol):
    """Gives each connection HEAD_SECONDS from its opening, and from the first byte after an answer, to bring a request's head."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._patience = self._wait()

    def data_received(self, data: bytes) -> None:
        if self._patience is None and (self.cycle is None or self.cycle.response_complete):
            self._patience = self._wait()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._calm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def _wait(self) -> asyncio.TimerHandle | None:
        return self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
