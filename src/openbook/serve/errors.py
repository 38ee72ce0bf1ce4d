"""Every refusal and failure in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from openbook.engine import EngineClosed
from openbook.errors import OpenbookError

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is an error. `param` names the request's field that is to blame."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    @property
    def for_later(self) -> bool:
        """Whether the same request may well be let in when it is asked again: no room now, or no engine."""
        hopeless = (self.headers or {}).get("x-should-retry") == "false"
        return (self.status == 429 and not hopeless) or self.code == "upstream_unavailable"

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self._type(), "param": self.param, "code": self.code}}

    def _type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A value that cannot be used: status 400."""
    return ApiError(400, f"{param}: {message}" if param else message, param, code)


def failed(error: Exception) -> ApiError:
    """A failure that is not the client's: 503 from an engine that stops, else 500, which is logged. Of an unforeseen error the client
    is told only the kind."""
    if isinstance(error, EngineClosed):
        return ApiError(503, str(error), code="stopping")
    log.error("a request failed", exc_info=error)
    return ApiError(500, str(error) if isinstance(error, OpenbookError) else f"the server failed on this request ({type(error).__name__})")
