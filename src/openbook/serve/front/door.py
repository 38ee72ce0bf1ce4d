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

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openbook.accounts.aliases import Targets, choose, who_asks
from openbook.accounts.keys import MARK, Key, Keyring
from openbook.accounts.store import Store
from openbook.serve.api.desk import Account, Desk, account_of, read_body
from openbook.serve.api.sse import EventStream, in_time, with_its_client
from openbook.serve.api.wire import read_json
from openbook.serve.errors import ApiError, invalid
from openbook.serve.front.admitted import Admitted
from openbook.serve.front.energy import SharedEnergy
from openbook.serve.front.ledger import Ledger
from openbook.serve.front.pool import Pool
from openbook.serve.front.quota import Quotas, at_most
from openbook.serve.front.relay import Relay

OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")
"""Pages and probes that tell nothing of anybody: no key needed to read them."""
WORK = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/infill", "/tokenize", "/detokenize")


class Door:
    """ASGI. `store` is None for a server without keys, aliases and usage; `pool` for one without engines elsewhere.

    `log_text` puts bodies that go elsewhere into the access log.
    """

    def __init__(
        self, app: ASGIApp, desk: Desk, store: Store | None, pool: Pool | None, ledger: Ledger | None, energy: SharedEnergy, log_text: bool
    ) -> None:
        self._app, self._desk, self._log_text = app, desk, log_text
        self._store, self._pool, self._ledger, self._energy = store, pool, ledger, energy
        self._quotas = Quotas(store.spent if store else lambda since: {})
        self._generation = -1
        self._keys = Keyring([])
        self._aliases: dict[str, Targets] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._reload()
            path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
            if path in OPEN and reads:
                await self._app(scope, receive, send)
                return
            if path in (*WORK, "/v1/models"):
                scope["route"] = SimpleNamespace(path=path)  # what the metrics call it, if no route of ours will see it
            key = self._who(scope)
            if path in WORK and scope["method"] == "POST":
                await self._work(path, key, scope, receive, send)
            elif (path == "/v1/models" or path.startswith("/v1/models/")) and reads:
                await JSONResponse(self._models(key, path.removeprefix("/v1/models").removeprefix("/")))(scope, receive, send)
            elif key is None or key.admin:
                await self._app(scope, receive, send)
            else:
                raise ApiError(403, f"{scope['method']} {path[:100]} is for admin keys", None, "admin_only")
        except ApiError as error:
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)

    def _reload(self) -> None:
        if self._store is not None and (generation := self._store.generation()) != self._generation:
            self._keys, self._aliases, self._generation = Keyring(self._store.keys()), self._store.aliases(), generation

    def _who(self, scope: Scope) -> Key | None:
        """None on a server without keys. Raises ApiError 401."""
        if f"{MARK}-".encode() in scope["query_string"]:
            raise ApiError(400, "a key in a URL ends up in logs; revoke it, and send the new one in the Authorization header")
        if not self._keys:
            return None
        given = Headers(scope=scope).getlist("authorization")
        scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        key = self._keys.find(text.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            how = "the key is not known here, or revoked" if text else "this server wants a key, in one header Authorization: Bearer KEY"
            raise ApiError(401, how, None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        account: Account = scope["account"]
        account.key, account.tenant = key.id, key.salt
        return key

    def _names(self, key: Key | None) -> dict[str, dict[str, Any]]:
        """The model objects that a key may see, without the name of a parent that it may not."""
        cards = self._pool.cards() if self._pool else {}
        cards |= {name: served.card(name) for name, served in self._desk.models.items()}
        for alias in self._aliases:
            cards.setdefault(alias, {"id": alias, "object": "model", "created": 0, "owned_by": "openbook"})
        seen = {name: card for name, card in cards.items() if _permits(key, name)}
        for card in seen.values():
            if card.get("parent") not in seen:
                card.pop("parent", None)
        return seen

    def _models(self, key: Key | None, name: str) -> dict[str, Any]:
        cards = self._names(key)
        if not name:
            return {"object": "list", "data": list(cards.values())}
        if name not in cards:
            raise self._unknown(name, key)
        return cards[name]

    def _unknown(self, name: str, key: Key | None) -> ApiError:
        """A key that is for some models only does not learn which others there are."""
        if not _permits(key, name):
            return ApiError(403, f"this key is not for a model {name[:100]!r}", "model", "model_not_allowed")
        names = ", ".join(map(repr, self._names(key))) or "none"
        return ApiError(404, f"the model {name[:100]!r} does not exist; this server has {names}", "model", "model_not_found")

    def _resolve(self, body: dict[str, Any], key: Key | None, request: str) -> str:
        """The model that a request is for. Raises ApiError."""
        asked = body.get("model")
        if asked is None:
            asked = next(iter(self._desk.models), None)
        if not isinstance(asked, str):
            raise invalid("model", "must be the name of a model")
        name = asked
        if asked in self._aliases and asked not in self._desk.models:
            name = choose(asked, self._aliases[asked], f"{key.id if key else ''}\0{who_asks(body, request)}")
        here = name in self._desk.models or (self._pool is not None and name in self._pool.cards())
        if not here or not _permits(key, asked):
            raise self._unknown(asked, key)
        return name

    async def _work(self, path: str, key: Key | None, scope: Scope, receive: Receive, send: Send) -> None:
        request, limits = Request(scope, receive), self._desk.limits
        content = await read_body(request, limits.body, limits.body_seconds)
        body = read_json(content)
        named = request.headers.get("x-client-request-id", "")[:200] or uuid.uuid4().hex
        name = self._resolve(body, key, named)
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


def _permits(key: Key | None, name: str) -> bool:
    return key is None or key.grants.models is None or name in key.grants.models


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
