"""API keys: how one is made, and how a presented one is recognised.

A key is `ob-ID-SECRET`. The id is public and finds the row; the store has only the SHA-256 of the whole. A slow hash protects passwords,
which people choose; 256 random bits need none.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

MARK = "ob"
_NOBODY = secrets.token_bytes(32)
"""What a key without a row is compared with, so that it takes as long as one with."""


@dataclass(frozen=True)
class Grants:
    """What a key may do; None is without limit. `models` are names as clients ask for them, aliases included."""

    models: tuple[str, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    """Requests under way at a time."""
    monthly_tokens: int | None = None
    """Tokens of prompts and completions in a calendar month, UTC."""


@dataclass(frozen=True)
class Key:
    """`salt` keeps what the key's prompts leave in the prefix cache from every other key's. An `admin` may see and do everything."""

    id: str
    name: str
    hash: bytes
    salt: str
    grants: Grants = Grants()
    admin: bool = False
    created: float = field(default_factory=time.time)
    revoked: float | None = None


def make(name: str, grants: Grants, admin: bool) -> tuple[Key, str]:
    """A key, and the text of it, which nothing else keeps."""
    identifier = secrets.token_hex(6)
    text = f"{MARK}-{identifier}-{secrets.token_urlsafe(32)}"
    return Key(identifier, name, _hash(text), secrets.token_hex(32), grants, admin), text


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


class Keyring:
    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = {key.id: key for key in keys}

    def __bool__(self) -> bool:
        """Whether there ever was a key: revoking the last one does not open a server."""
        return bool(self._keys)

    def live(self, identifier: str) -> Key | None:
        """The key of an id, unless it is revoked."""
        key = self._keys.get(identifier)
        return key if key is not None and key.revoked is None else None

    def find(self, text: str) -> Key | None:
        """The key with this text, unless it is revoked. Compares in a time that depends on no secret."""
        mark, _, rest = text.partition("-")
        key = self._keys.get(rest.partition("-")[0]) if mark == MARK else None
        same = hmac.compare_digest(_hash(text), _NOBODY if key is None else key.hash)
        return key if key is not None and same and key.revoked is None else None
