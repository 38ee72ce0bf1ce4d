"""What every request passes before a route sees it: an id, a look at where it comes from, limits of size and time, and the log after it."""

from __future__ import annotations

import ipaddress
import json
import logging
import time
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openbook.serve.api.desk import Account, Desk
from openbook.serve.errors import ApiError, failed

access = logging.getLogger("openbook.access")
"""One line of JSON for each request, without its text."""


class Gate:
    def __init__(self, app: ASGIApp, desk: Desk, over: Callable[[str, int, float, Account], None], log_text: bool) -> None:
        self._app, self._desk, self._over, self._log_text = app, desk, over, log_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account, name, status = Account(), f"req_{uuid.uuid4().hex}", 499  # the client went before there was an answer
        scope["account"] = account

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            if refused := self._refusal(scope):
                await JSONResponse(refused.body(), refused.status, refused.headers)(scope, receive, answered)
            else:
                await self._app(scope, receive, answered)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status != 499:  # too late for another answer
                raise
            await JSONResponse(failed(error).body(), 500)(scope, receive, answered)
        finally:
            seconds = time.monotonic() - account.began
            self._over(_path(scope), status, seconds, account)
            if access.isEnabledFor(logging.INFO):
                access.info(self._line(scope, name, status, seconds, account))

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers, limits = Headers(scope=scope), self._desk.limits
        if self._desk.draining and scope["method"] == "POST":
            return ApiError(503, "the server is stopping", code="stopping", headers={"Connection": "close", "Retry-After": "5"})
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy before us may have read another body
            return ApiError(400, "a request has a length or comes in chunks, not both", headers={"Connection": "close"})
        origin = headers.get("origin")
        if origin in limits.origins:
            return None
        host = headers.get("host", "")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return ApiError(403, f"pages of {origin[:100]!r} may not use this server; --origin allows one that may", code="origin_refused")
        browser = origin is not None or "sec-fetch-site" in headers
        if browser and limits.local and not _loopback(host):  # another site's name that leads here (DNS rebinding)
            return ApiError(403, f"this server is not called {host[:100]!r}; --origin allows a name for it", code="host_refused")
        return None

    def _line(self, scope: Scope, name: str, status: int, seconds: float, account: Account) -> str:
        line = {
            "time": round(time.time(), 3),
            "id": name,
            "key": account.key,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 4),
            "first_token_seconds": account.first and round(account.first, 4),
            "model": account.model,
            "prompt_tokens": account.prompt_tokens,
            "cached_tokens": account.cached_tokens,
            "completion_tokens": account.completion_tokens,
        }
        return json.dumps(line | ({"body": account.text} if self._log_text else {}))


def _path(scope: Scope) -> str:
    """The route's own spelling, which nobody outside can multiply."""
    return getattr(scope.get("route"), "path", "other")


def _loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
