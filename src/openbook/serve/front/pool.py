"""The engines elsewhere: which models they have, which of them answer, and which one gets a request.

Every few seconds each is asked for its models. One that fails, at that or at a request, is left out until it answers again.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from openbook.errors import InputError
from openbook.progress import say
from openbook.serve.errors import ApiError
from openbook.serve.front.capabilities import Kind

CHECK_EVERY = 5.0
CONNECT_SECONDS = 5.0
LARGEST_LIST = 4 * 2**20
FACTS: dict[str, type] = {"context_window": int, "fill_in": bool}
"""What an openbook elsewhere says of its models, and is said on."""
LONGEST_NAME = 300


@dataclass
class Upstream:
    """One engine. `kind` is None until its list of models, or the user, has told it."""

    url: str
    key: str | None = field(default=None, repr=False)
    kind: str | None = None
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    healthy: bool = False
    running: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """Of every request to it; nothing of a client's own headers goes there."""
        plain = {"Accept-Encoding": "identity", "User-Agent": "openbook"}
        return plain | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def address(self, path: str) -> str:
        """Of a path of ours; those that are not of OpenAI's API lie beside its `/v1`."""
        return self.url + path.removeprefix("/v1") if path.startswith("/v1/") else self.url.removesuffix("/v1") + path

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


def parse_upstream(text: str, kinds: Mapping[str, Kind], environment: Mapping[str, str] = os.environ) -> Upstream:
    """`URL[,key=VARIABLE][,kind=KIND]`; the key is read from the environment. Raises InputError."""
    url, *options = text.split(",")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise InputError(f"--upstream {url}: should be as http://127.0.0.1:8001/v1; a key belongs into the environment, as ,key=VARIABLE")
    made = Upstream(url.rstrip("/") + ("" if parts.path.strip("/") else "/v1"))
    for option in options:
        name, _, value = option.partition("=")
        if name == "key":
            made.key = environment.get(value)
            if not made.key or not re.fullmatch(r"[!-~]+", made.key):
                raise InputError(f"--upstream {text}: the environment has no key in {value}")
        elif name == "kind":
            if value not in kinds:
                raise InputError(f"--upstream {text}: kind should be one of {', '.join(kinds)}")
            made.kind = value
        else:
            raise InputError(f"--upstream {text}: {name!r} should be key or kind")
    return made


class Pool:
    """To be used on one event loop, between `start` and `stop`."""

    def __init__(self, upstreams: Sequence[Upstream], kinds: Mapping[str, Kind], check_every: float = CHECK_EVERY) -> None:
        self.upstreams, self._kinds, self._every = upstreams, kinds, check_every
        self._checks: asyncio.Task[None] | None = None

    async def start(self, changed: Callable[[], None]) -> None:
        """Returns once every engine was asked for its models, whether it answered or not; `changed` is called when there are others."""
        self._changed = changed
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS)  # an answer may take long: its own limit ends it
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self.client = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False, trust_env=False)
        await self._check_all()
        self._checks = asyncio.create_task(self._keep_checking())

    async def stop(self) -> None:
        if self._checks:
            self._checks.cancel()
        await self.client.aclose()

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._check_all()

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check(upstream) for upstream in self.upstreams))

    async def _check(self, upstream: Upstream) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                models = await self._models(upstream)
        except (httpx.HTTPError, TimeoutError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self.eject(upstream, str(error) or type(error).__name__)
            return
        others, upstream.models = models.keys() != upstream.models.keys(), models
        if others:
            self._changed()
        if upstream.kind is None:
            owners = {str(model.get("owned_by")) for model in models.values()}
            upstream.kind = next((name for name, kind in self._kinds.items() if owners & set(kind.owned_by)), None)
        if not upstream.healthy:
            say(f"upstream {upstream.url} has {', '.join(models) or 'no models'}")
        upstream.healthy = True

    async def _models(self, upstream: Upstream) -> dict[str, dict[str, Any]]:
        content = bytearray()
        async with self.client.stream("GET", f"{upstream.url}/models", headers=upstream.headers) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code} for its models")
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > LARGEST_LIST:
                    raise ValueError("its list of models is too long")
        listed = httpx.Response(200, content=bytes(content)).json()["data"]
        models = {str(model["id"]): dict(model) for model in listed}
        return {name: model for name, model in models.items() if name.isprintable() and 0 < len(name) <= LONGEST_NAME}

    def eject(self, upstream: Upstream, why: str) -> None:
        """Leaves it out until it answers again."""
        if upstream.healthy or not upstream.models:
            say(f"upstream {upstream.url} is left out until it answers: {why[:200]}")
        upstream.healthy = False

    def cards(self) -> dict[str, dict[str, Any]]:
        """The model objects of all engines, healthy or not."""
        found: dict[str, dict[str, Any]] = {}
        for upstream in self.upstreams:
            for name, model in upstream.models.items():
                created = model.get("created")
                card = {"object": "model", "created": created if isinstance(created, int) else int(time.time())}
                card |= {fact: model[fact] for fact, kind in FACTS.items() if isinstance(model.get(fact), kind)}
                found.setdefault(name, {"id": name, **card, "owned_by": upstream.kind or "upstream"})
        return found

    def kind(self, upstream: Upstream) -> Kind:
        return self._kinds[upstream.kind] if upstream.kind else Kind()

    def pick(self, model: str, tried: Sequence[Upstream]) -> Upstream:
        """The healthy engine with the fewest requests, rather one that was not tried yet. Raises ApiError 503 if none is healthy."""
        able = [upstream for upstream in self.upstreams if upstream.healthy and model in upstream.models]
        if not able:
            raise ApiError(
                503, f"no engine that has the model {model!r} answers at the moment", "model", "upstream_unavailable", {"Retry-After": "5"}
            )
        return min(able, key=lambda upstream: (upstream in tried, upstream.running))
