"""The playground: one page to try a model with, which loads nothing and runs nothing but its own style and script."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi.responses import HTMLResponse

HERE = Path(__file__).parent
SCRIPT = '<script src="playground.js"></script>'


@cache
def _page() -> tuple[str, str]:
    """The page, and the Content-Security-Policy that allows its own style and script by their hashes, and requests to its own server."""
    script = (HERE / "playground.js").read_text(encoding="utf-8")
    page = (HERE / "playground.html").read_text(encoding="utf-8").replace(SCRIPT, f"<script>{script}</script>")
    sources = {f"{tag}-src": _hash(page, tag) for tag in ("style", "script")}
    allowed = sources | {"connect-src": "'self'", "img-src": "data:", "require-trusted-types-for": "'script'"}
    refused = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    return page, "; ".join(f"{name} {value}" for name, value in (refused | allowed).items())


def _hash(page: str, tag: str) -> str:
    [inline] = re.findall(f"<{tag}>(.*)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def playground() -> HTMLResponse:
    """The answer to `GET /`."""
    page, policy = _page()
    return HTMLResponse(
        page, headers={"content-security-policy": policy, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}
    )
