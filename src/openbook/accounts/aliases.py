"""Aliases: a name that stands for models with a share of the traffic each, chosen so that a conversation stays with its model."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from openbook.errors import InputError

Targets = tuple[tuple[str, int], ...]
"""(model, share), in the order in which they were given; shares count relative to their sum."""


def parse_alias(text: str) -> tuple[str, Targets]:
    """`prod=a:90,b:10`, or `prod=a`. Raises InputError."""
    name, equals, said = text.partition("=")
    if not equals or not name or not said:
        raise InputError(f"{text!r}: should be ALIAS=MODEL:SHARE,MODEL:SHARE, as prod=a:90,b:10")
    targets = tuple(_target(part, text) for part in said.split(","))
    if len(dict(targets)) < len(targets):
        raise InputError(f"{text!r}: names a model twice")
    return name, targets


def _target(part: str, text: str) -> tuple[str, int]:
    model, colon, share = part.rpartition(":")
    if not colon:
        return part, 1
    if not model or not (share.isascii() and share.isdigit() and 0 < int(share) <= 10**6):
        raise InputError(f"{text!r}: {part!r} should be MODEL:SHARE with a whole share above 0")
    return model, int(share)


def choose(alias: str, targets: Targets, who: str) -> str:
    """The model for somebody: always the same for the same three. A share that grows by a tenth moves a tenth of the traffic."""
    digest = hashlib.sha256(f"{alias}\0{who}".encode(errors="surrogatepass")).digest()
    place = int.from_bytes(digest[:8]) * sum(share for _, share in targets) >> 64
    for model, share in targets:
        place -= share
        if place < 0:
            return model
    raise AssertionError("the place lies below the sum of the shares")


def who_asks(body: dict[str, Any], request: str) -> str:
    """What a request has in common with the others of its conversation: its user, else how the conversation began, else only itself."""
    for field in ("user", "safety_identifier", "prompt_cache_key"):
        if isinstance(body.get(field), str):
            return f"{field}\0{body[field]}"
    messages = body.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("role") == "user":
                return "conversation\0" + json.dumps(messages[: index + 1], sort_keys=True)
    return f"request\0{request}"
