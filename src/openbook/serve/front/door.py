"""Between the gate and the routes: who asks, for which model, and within what; after it, what that took.

With keys, a path that is not named here is for admins only. Without any key, everybody who reaches the server may do everything.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openbook.accounts.keys import Key
from openbook.serve.api.desk import Desk, account_of, read_body
from openbook.serve.api.sse import EventStream, in_time, with_its_client
from openbook.serve.api.wire import read_json
from openbook.serve.errors import ApiError, invalid
from openbook.serve.front.admitted import Admitted
from openbook.serve.front.energy import SharedEnergy
from openbook.serve.front.ledger import Ledger
from openbook.serve.front.pool import Pool
from openbook.serve.front.quota import Quotas, at_most
from openbook.serve.front.register import Register
from openbook.serve.front.relay import Relay

OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")
"""Pages and probes that tell nothing of anybody: no key needed to read them."""
WORK = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/infill", "/tokenize", "/detokenize")
OWNED = ("/v1/files", "/v1/batches")
"""Where each key finds what is its own."""


class Door:
    """ASGI. `pool` is None for a server without engines elsewhere, `ledger` for one without a store.

    `log_text` puts bodies that go elsewhere into the access log.
    """

    def __init__(
        self,
        app: ASGIApp,
        desk: Desk,
        register: Register,
        quotas: Quotas,
        pool: Pool | None,
        ledger: Ledger | None,
        energy: SharedEnergy,
        log_text: bool,
    ) -> None:
        self._app, self._desk, self._register, self._quotas, self._log_text = app, desk, register, quotas, log_text
        self._pool, self._ledger, self._energy = pool, ledger, energy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._register.reload()
            path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
            if path in OPEN and reads:
                await self._app(scope, receive, send)
                return
            if path in (*WORK, "/v1/models"):
                scope["route"] = SimpleNamespace(path=path)  # what the metrics call it, if no route of ours will see it
            key = self._register.who(scope)
            if path in WORK and scope["method"] == "POST":
                await self._work(path, key, scope, receive, send)
            elif (path == "/v1/models" or path.startswith("/v1/models/")) and reads:
                await JSONResponse(self._models(key, path.removeprefix("/v1/models").removeprefix("/")))(scope, receive, send)
            elif key is not None and _is_owned(path):
                await self._keep(key, scope, receive, send)
            elif key is None or key.admin:
                await self._app(scope, receive, send)
            else:
                raise ApiError(403, f"{scope['method']} {path[:100]} is for admin keys", None, "admin_only")
        except ApiError as error:
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)

    def _models(self, key: Key | None, name: str) -> dict[str, Any]:
        cards = self._register.cards(key)
        if not name:
            return {"object": "list", "data": list(cards.values())}
        if name not in cards:
            raise self._register.unknown(name, key)
        return cards[name]

    async def _keep(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        """Files and batches: a request like any other, but of no tokens."""
        reservation = self._quotas.reserve(key, 0)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                reservation.settle(0)  # before the last byte, after which its client may ask again
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            reservation.settle(0)

    async def _work(self, path: str, key: Key | None, scope: Scope, receive: Receive, send: Send) -> None:
        request, limits = Request(scope, receive), self._desk.limits
        content = await read_body(request, limits.body, limits.body_seconds)
        body = read_json(content)
        named = request.headers.get("x-client-request-id", "")[:200] or uuid.uuid4().hex
        name = self._register.resolve(body, key, named)
        read, drawn = at_most(path, body)
        here = name in self._desk.models
        reservation = self._quotas.reserve(key, read + drawn) if key else None
        job = Admitted(path, name, account_of(request), reservation, self._ledger, self._energy if here else None)
        try:
            counted = job.counting(send)
            if here:
                if body.get("model") not in (None, name):
                    content = json.dumps(body | {"model": name}).encode()
                await self._app(scope, _replay(content, receive), counted)
            else:
                await self._pass_on(job, body | {"model": name}, read, request, counted)
        except BaseException as error:
            await asyncio.shield(job.over(error))
            raise
        await job.over(None)

    async def _pass_on(self, job: Admitted, body: dict[str, Any], read: int, request: Request, send: Send) -> None:
        if body.get("stream") not in (None, True, False):
            raise invalid("stream", "must be true or false")
        assert self._pool is not None
        if self._log_text:
            job.account.text = body
        seconds = self._desk.limits.seconds
        relay = job.relay = Relay(self._pool, job.path, body, read, job.account)
        try:
            async with in_time(seconds):
                await _while_there(request.receive, relay.connect())
                if not relay.stream:
                    async with with_its_client(relay, request.receive):
                        answer = JSONResponse(await relay.whole())
                    await answer(request.scope, request.receive, send)
                    return
            await EventStream(relay, {}, seconds)(request.scope, request.receive, send)
        finally:
            await relay.close()


def _is_owned(path: str) -> bool:
    return path in OWNED or path.startswith(tuple(f"{folder}/" for folder in OWNED))


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body that has been read, then what follows it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _while_there(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Raises ClientDisconnect, and stops the work, if the client goes before it is done."""

    async def leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(leaves())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
