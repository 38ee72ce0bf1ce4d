"""A request that was let in, until it is over: what it took goes back to its key's quota, and into the ledger."""

from __future__ import annotations

import time

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from openbook.accounts.store import Usage
from openbook.serve.api.desk import Account
from openbook.serve.errors import ApiError
from openbook.serve.front.energy import SharedEnergy
from openbook.serve.front.ledger import Ledger
from openbook.serve.front.quota import Reservation
from openbook.serve.front.relay import Relay


class Admitted:
    """One request that was let in. Its row is on the disk before the last byte of its answer is sent."""

    def __init__(
        self, path: str, model: str, account: Account, reservation: Reservation | None, ledger: Ledger | None, energy: SharedEnergy | None
    ) -> None:
        self.path, self.model, self.account, self._reservation, self._ledger, self._energy = (
            path,
            model,
            account,
            reservation,
            ledger,
            energy,
        )
        self.relay: Relay | None = None
        self._mark = energy.begin() if energy else 0.0
        self._status = 499  # the client went before there was an answer
        self._over = False

    def counting(self, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
                if self._reservation:
                    MutableHeaders(scope=message).update(self._reservation.headers)
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                await self.over(None)
            await send(message)

        return counted

    def withdraw(self) -> None:
        """As if it had never been let in: it will be asked again."""
        self._over = True
        if self._reservation:
            self._reservation.undo()
        if self._energy:
            self._energy.end(self._mark)

    async def over(self, error: BaseException | None, status: int | None = None) -> None:
        """To be called once the request is; a second call does nothing. `status` is that of an answer which was not sent through here."""
        if self._over:
            return
        self._over = True
        if status is not None:
            self._status = status
        if isinstance(error, ApiError):
            self._status = error.status
        account = self.account
        if self._status >= 400 and not account.completion_tokens and self._status != 499:
            account.prompt_tokens = account.cached_tokens = 0  # refused: nothing was read
        if self._reservation:
            self._reservation.settle(account.prompt_tokens + account.completion_tokens)
        joules = self._energy.end(self._mark) if self._energy else None
        if self._ledger is None:
            return
        row = Usage(
            time.time(),
            account.key,
            self.model,
            self.path,
            self._status,
            account.prompt_tokens,
            account.cached_tokens,
            account.completion_tokens,
            round((time.monotonic() - account.began) * 1000, 3),
            None if joules is None else round(joules, 6),
            self._energy.source if self._energy and joules is not None else None,
            "estimated" if self.relay and not self.relay.exact and account.prompt_tokens else "exact",
        )
        await self._ledger.record(row)
