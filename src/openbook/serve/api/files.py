"""`/v1/files`: what clients upload for batches, and what batches give back.

A file is two files of the data folder: `ID` with the bytes, `ID.json` with what the API says of it, written last, and the id of the key
that owns it. An id is made here and checked by its form, so that no name from outside ever becomes a path. For a key, what others own is
not there; an admin's key, and everybody on a server without keys, sees all.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from openbook.files import write_json
from openbook.serve.api.desk import Account
from openbook.serve.errors import ApiError

PURPOSES = ("batch", "fine-tune", "evals", "user_data")


class Store:
    """A folder of JSON objects under ids of one prefix, "file" or "batch"; a file's bytes lie beside its object."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        folder.mkdir(0o700, parents=True, exist_ok=True)  # requests and answers: not for this machine's other users

    def new_id(self) -> str:
        return f"{self.prefix}-{uuid.uuid4().hex}"

    def get(self, identifier: str) -> dict[str, Any]:
        """Raises ApiError 404."""
        try:
            content: dict[str, Any] = json.loads(self.path(identifier, ".json").read_bytes())
            return content
        except FileNotFoundError:
            raise self._missing(identifier) from None

    def find(self, identifier: str, account: Account) -> dict[str, Any]:
        """One that the account may see. Raises ApiError 404, the same for what is not there and what is somebody else's."""
        content = self.get(identifier)
        if not _sees(account, content):
            raise self._missing(identifier)
        return content

    def put(self, content: dict[str, Any]) -> None:
        write_json(self.path(content["id"], ".json"), content)

    def delete(self, identifier: str, account: Account) -> None:
        self.find(identifier, account)
        self.path(identifier, ".json").unlink(missing_ok=True)
        self.path(identifier).unlink(missing_ok=True)

    def path(self, identifier: str, ending: str = "") -> Path:
        """Raises ApiError 404 for what is not an id."""
        if not re.fullmatch(rf"{self.prefix}-[0-9a-f]{{32}}", identifier):
            raise self._missing(identifier)
        return self.folder / (identifier + ending)

    def all(self) -> Iterator[dict[str, Any]]:
        """The newest first."""
        found = []
        for path in self.folder.glob(f"{self.prefix}-*.json"):
            with suppress(FileNotFoundError):  # deleted meanwhile: lists are made on other threads
                found.append(json.loads(path.read_bytes()))
        yield from sorted(found, key=lambda content: (content["created_at"], content["id"]), reverse=True)

    def page(self, account: Account, limit: int, after: str | None, purpose: str | None = None) -> dict[str, Any]:
        """A list object of what the account may see: at most `limit` entries behind the entry `after`."""
        found = [content for content in self.all() if _sees(account, content) and purpose in (None, content.get("purpose"))]
        ids = [content["id"] for content in found]
        if after is not None:
            if after not in ids:
                raise self._missing(after)
            found = found[ids.index(after) + 1 :]
        shown = [public(content) for content in found[:limit]]
        first, last = (shown[0]["id"], shown[-1]["id"]) if shown else ("", "")
        return {"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": len(found) > limit}

    def _missing(self, identifier: str) -> ApiError:
        return ApiError(404, f"there is no {self.prefix} {identifier[:60]!r} here", "id", f"{self.prefix}_not_found")


def public(content: dict[str, Any]) -> dict[str, Any]:
    """What the API says of an object: without our own note of whose it is."""
    return {name: value for name, value in content.items() if name != "owner"}


def _sees(account: Account, content: dict[str, Any]) -> bool:
    return account.sees_all or content.get("owner") == account.key


class Files(Store):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "file")
        self._adding = threading.Lock()

    def add(self, content: BinaryIO, name: str, purpose: str, owner: str | None, room: int) -> dict[str, Any]:
        """Stores a stream. Raises ApiError if it and the other files of its owner are more than `room` bytes."""
        with self._adding:
            size = content.seek(0, 2)
            kept = sum(file["bytes"] for file in self.all() if file.get("owner") == owner)
            if owner is not None and kept + size > room:
                raise ApiError(413, f"this key keeps {kept} bytes of files, and {room} are what it may; delete some", "file", "no_room")
            content.seek(0)
            identifier = self.new_id()
            with self.path(identifier).open("xb") as out:
                shutil.copyfileobj(content, out, 2**20)
            return self.describe(identifier, size, name, purpose, owner)

    def describe(self, identifier: str, size: int, name: str, purpose: str, owner: str | None) -> dict[str, Any]:
        """Makes a file whose bytes are in their place known."""
        facts = {"id": identifier, "object": "file", "bytes": size, "created_at": int(time.time()), "filename": name[:255]}
        facts |= {"purpose": purpose, "status": "processed", "owner": owner}
        self.put(facts)
        return public(facts)
