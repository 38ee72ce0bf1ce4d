"""The lines of batches, which come through no door: the same keys, models, quotas, engines and rows as requests that somebody sends.

Two things differ. A line does not count among a key's requests at a time, of which a batch has its own few; and one that its key has no
room for, or no engine, waits and is asked again.
"""

from __future__ import annotations

import json
import uuid
from contextlib import nullcontext
from typing import Any

from openbook.serve.api.answers import Answer
from openbook.serve.api.batches import Begin
from openbook.serve.api.desk import Account, Desk
from openbook.serve.api.sse import in_time
from openbook.serve.api.wire import read_json
from openbook.serve.errors import ApiError
from openbook.serve.front.admitted import Admitted
from openbook.serve.front.energy import SharedEnergy
from openbook.serve.front.ledger import Ledger
from openbook.serve.front.pool import Pool
from openbook.serve.front.quota import Quotas, at_most
from openbook.serve.front.register import Register
from openbook.serve.front.relay import Relay


class Lines:
    """`begin` is asked for models of this machine."""

    def __init__(
        self, desk: Desk, register: Register, quotas: Quotas, pool: Pool | None, ledger: Ledger | None, energy: SharedEnergy
    ) -> None:
        self._desk, self._register, self._quotas, self._pool, self._ledger, self._energy = desk, register, quotas, pool, ledger, energy

    def through(self, path: str, begin: Begin) -> Begin:
        """The same for the lines to an endpoint."""

        async def begun(content: bytes, account: Account) -> Answer:
            return await self._begin(path, begin, read_json(content), account)

        return begun

    async def _begin(self, path: str, begin: Begin, body: dict[str, Any], account: Account) -> Answer:
        self._register.reload()
        key = self._register.owner(account)
        body["model"] = name = self._register.resolve(body, key, uuid.uuid4().hex)
        read, drawn = at_most(path, body)
        reservation = self._quotas.reserve(key, read + drawn, in_person=False) if key else None
        here = name in self._desk.models
        job = Admitted(path, name, account, reservation, self._ledger, self._energy if here else None)
        try:
            if here:
                return Counted(await begin(json.dumps(body).encode(), account), job, None)
            assert self._pool is not None
            job.relay = relay = Relay(self._pool, path, body, read, account)
            try:
                async with in_time(self._desk.limits.seconds):
                    await relay.connect()
            except BaseException:
                await relay.close()
                raise
            return Counted(relay, job, self._desk.limits.seconds)
        except BaseException as error:
            if isinstance(error, ApiError) and (error.for_later or error.code == "stopping"):
                job.withdraw()
            else:
                await job.over(error)
            raise


class Counted(Answer):
    """A whole answer that nobody asked for in person."""

    def __init__(self, answer: Answer, admitted: Admitted, seconds: float | None) -> None:
        """An engine elsewhere has so many seconds; one here always comes to an end."""
        self._answer, self._admitted, self._seconds = answer, admitted, seconds

    async def whole(self) -> dict[str, Any]:
        try:
            async with in_time(self._seconds) if self._seconds else nullcontext():
                content = await self._answer.whole()
        except BaseException as error:
            await self._admitted.over(error)
            raise
        finally:
            if self._admitted.relay is not None:
                await self._admitted.relay.close()
        await self._admitted.over(None, 200)
        return content

    def abandon(self) -> None:
        self._answer.abandon()
