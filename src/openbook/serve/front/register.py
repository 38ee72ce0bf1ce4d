"""Who may ask for which model, and what a name stands for: the store's keys and aliases as they are now, and every engine's models."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from openbook.accounts.aliases import Targets, choose, who_asks
from openbook.accounts.keys import MARK, Key, Keyring
from openbook.accounts.store import Store
from openbook.serve.api.desk import Account, Desk
from openbook.serve.errors import ApiError, invalid
from openbook.serve.front.pool import FACTS, Pool


class Register:
    """`store` is None for a server without keys and aliases; `pool` for one without engines elsewhere."""

    def __init__(self, desk: Desk, store: Store | None, pool: Pool | None) -> None:
        self._desk, self._store, self._pool = desk, store, pool
        self._generation = -1
        self._keys = Keyring([])
        self._aliases: dict[str, Targets] = {}

    def reload(self) -> None:
        """To be called before each request: what the command line has changed holds at once."""
        if self._store is not None and (generation := self._store.generation()) != self._generation:
            self._keys, self._aliases, self._generation = Keyring(self._store.keys()), self._store.aliases(), generation

    def who(self, scope: Scope) -> Key | None:
        """The key that asks, which the request's account then has; None on a server without keys. Raises ApiError 401."""
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
        account.key, account.tenant, account.sees_all = key.id, key.salt, key.admin
        return key

    def owner(self, account: Account) -> Key | None:
        """The key behind work that was begun earlier; None for what was begun without keys. Raises ApiError 401 once it is revoked."""
        if account.key is None:
            return None
        key = self._keys.live(account.key)
        if key is None:
            raise ApiError(401, "the key that began this has been revoked", None, "invalid_api_key")
        account.tenant = key.salt
        return key

    def cards(self, key: Key | None) -> dict[str, dict[str, Any]]:
        """The model objects that a key may see, by their names, without the name of a parent that it may not."""
        cards = self._pool.cards() if self._pool else {}
        cards |= {name: served.card(name) for name, served in self._desk.models.items()}
        for alias, targets in self._aliases.items():
            meant = [cards.get(name, {}) for name, _ in targets]
            facts = {fact: min(card[fact] for card in meant) for fact in FACTS if all(fact in card for card in meant)}
            cards.setdefault(alias, {"id": alias, "object": "model", "created": 0, "owned_by": "openbook", **facts})
        seen = {name: card for name, card in cards.items() if _permits(key, name)}
        for card in seen.values():
            if card.get("parent") not in seen:
                card.pop("parent", None)
        return seen

    def unknown(self, name: str, key: Key | None) -> ApiError:
        """A key that is for some models only does not learn which others there are."""
        if not _permits(key, name):
            return ApiError(403, f"this key is not for a model {name[:100]!r}", "model", "model_not_allowed")
        names = ", ".join(map(repr, self.cards(key))) or "none"
        return ApiError(404, f"the model {name[:100]!r} does not exist; this server has {names}", "model", "model_not_found")

    def resolve(self, body: dict[str, Any], key: Key | None, request: str) -> str:
        """The model that a request is for. Raises ApiError."""
        asked = body.get("model")
        if asked is None:
            asked = next(iter(self._desk.models or (self._pool.cards() if self._pool else ())), None)
        if not isinstance(asked, str):
            raise invalid("model", "must be the name of a model")
        name = asked
        if asked in self._aliases and asked not in self._desk.models:
            name = choose(asked, self._aliases[asked], f"{key.id if key else ''}\0{who_asks(body, request)}")
        here = name in self._desk.models or (self._pool is not None and name in self._pool.cards())
        if not here or not _permits(key, asked):
            raise self.unknown(asked, key)
        return name


def _permits(key: Key | None, name: str) -> bool:
    return key is None or key.grants.models is None or name in key.grants.models
