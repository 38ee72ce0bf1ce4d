"""One SQLite file: keys, aliases, the names that a server answers to, and a row for each finished request.

The command line writes it while a server reads it. `generation` changes with keys and aliases, so that the server can see, at the cost of
one small query, whether what it has in memory still holds. The file is for its owner only: it has no key's text, but says who used what.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from openbook.accounts.aliases import Targets
from openbook.accounts.keys import Grants, Key
from openbook.errors import InputError

APPLICATION = 0x0B00C
VERSION = 1
SCHEMA = """
create table state (generation integer not null) strict;
insert into state values (0);
create table keys (
    id text primary key, name text not null, hash blob not null, salt text not null, admin integer not null, created real not null,
    revoked real, models text, requests_per_minute integer, tokens_per_minute integer, concurrency integer, monthly_tokens integer
) strict;
create unique index one_live_key_of_a_name on keys (name) where revoked is null;
create table aliases (id integer primary key, name text not null, targets text not null, since real not null) strict;
create table models (name text primary key) strict;
create table usage (
    id integer primary key, time real not null, key text, model text not null, path text not null, status integer not null,
    prompt_tokens integer not null, cached_tokens integer not null, completion_tokens integer not null, milliseconds real not null,
    joules real, energy text, counted text not null
) strict;
create index usage_by_time on usage (time);
"""
LIMITS = tuple(field.name for field in fields(Grants) if field.name != "models")


@dataclass(frozen=True)
class Usage:
    """One finished request. `time` is its end; `energy` says where `joules` come from; `counted` is "exact" or "estimated"."""

    time: float
    key: str | None
    model: str
    path: str
    status: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    milliseconds: float
    joules: float | None
    energy: str | None
    counted: str


class Store:
    """Reads come from one connection and writes from another, each behind a lock of its own: a reader never waits for a disk."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Raises InputError if the file is not there (unless `create`), is of another program, or of a newer openbook."""
        self.path = path
        if not path.exists():
            if not create:
                raise InputError(f"{path}: no such store; `openbook keys create {path} NAME` makes one")
            if not path.parent.is_dir():
                raise InputError(f"{path}: there is no folder {path.parent}")
            path.touch(mode=0o600)
        self._locks = {"read": threading.Lock(), "write": threading.Lock()}
        try:
            self._writer, self._reader = self._connect(), self._connect()
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: is not a store of openbook serve ({error})") from None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        return connection

    def _prepare(self) -> None:
        with self._writing() as connection:
            application, version = (connection.execute(f"pragma {name}").fetchone()[0] for name in ("application_id", "user_version"))
            if application == 0 and connection.execute("select count(*) from sqlite_schema").fetchone()[0] == 0:
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"pragma application_id = {APPLICATION}")
                connection.execute(f"pragma user_version = {VERSION}")
            elif application != APPLICATION:
                raise InputError(f"{self.path}: is a database of another program")
            elif version != VERSION:
                raise InputError(f"{self.path}: is a store of version {version}; this openbook knows version {VERSION}")
        self._writer.execute("pragma journal_mode = wal")
        self._writer.execute("pragma synchronous = full")  # a row that was written survives a power cut, too

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction. Any number of threads and processes may ask for one."""
        with self._locks["write"]:
            self._writer.execute("begin immediate")
            try:
                yield self._writer
                self._writer.execute("commit")
            except BaseException:
                self._writer.execute("rollback")
                raise

    def read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._locks["read"]:
            return self._reader.execute(query, values).fetchall()

    def generation(self) -> int:
        return int(self.read("select generation from state")[0][0])

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._writing() as connection:
            yield connection
            connection.execute("update state set generation = generation + 1")

    # keys

    def keys(self) -> list[Key]:
        """Every key that ever was, oldest first."""
        return [_key(row) for row in self.read("select * from keys order by created")]

    def add(self, key: Key) -> None:
        """Raises InputError if a live key has the name."""
        grants = asdict(key.grants) | {"models": _json(key.grants.models)}
        row = {"id": key.id, "name": key.name, "hash": key.hash, "salt": key.salt, "admin": int(key.admin), "created": key.created} | grants
        try:
            with self._changing() as connection:
                connection.execute(f"insert into keys ({', '.join(row)}) values ({', '.join('?' * len(row))})", tuple(row.values()))
        except sqlite3.IntegrityError:
            raise InputError(f"{key.name!r}: a key of this name is in use; choose another, or revoke it first") from None

    def key(self, name: str) -> Key:
        """A live key by its name or id. Raises InputError if there is none."""
        for key in self.keys():
            if key.revoked is None and name in (key.id, key.name):
                return key
        raise InputError(f"{self.path}: has no live key {name!r}; `openbook keys list {self.path}` lists them")

    def revoke(self, key: Key) -> None:
        with self._changing() as connection:
            connection.execute("update keys set revoked = ? where id = ?", (time.time(), key.id))

    def limit(self, key: Key, grants: Grants) -> None:
        values = (_json(grants.models), *(getattr(grants, name) for name in LIMITS), key.id)
        with self._changing() as connection:
            connection.execute(f"update keys set models = ?, {', '.join(f'{name} = ?' for name in LIMITS)} where id = ?", values)

    # aliases

    def aliases(self) -> dict[str, Targets]:
        """What each alias means now."""
        rows = self.read("select name, targets from aliases where id in (select max(id) from aliases group by name) order by name")
        return {row["name"]: targets for row in rows if (targets := _targets(row))}

    def alias_history(self) -> list[tuple[str, float, Targets]]:
        """(alias, time, targets) of each setting, oldest first; no targets where one was removed."""
        return [(row["name"], row["since"], _targets(row)) for row in self.read("select name, since, targets from aliases order by id")]

    def roll_back(self, name: str) -> Targets:
        """Sets an alias to what it was before. Raises InputError if it was nothing before."""
        settings = [targets for alias, _, targets in self.alias_history() if alias == name]
        if len(settings) < 2:
            raise InputError(f"{self.path}: the alias {name!r} has nothing before to go back to")
        self.set_alias(name, settings[-2])
        return settings[-2]

    def set_alias(self, name: str, targets: Targets) -> None:
        """No targets remove it. Raises InputError for models that the last server did not have, and for an alias with a model's name."""
        models = self.models()
        if name in models:
            raise InputError(f"{name!r}: is the name of a model, and cannot be an alias")
        if models and (odd := [target for target, _ in targets if target not in models]):
            raise InputError(f"{odd[0]!r}: is not a model of the server, which has {', '.join(sorted(models))}")
        with self._changing() as connection:
            connection.execute("insert into aliases (name, targets, since) values (?, ?, ?)", (name, _json(targets), time.time()))

    def models(self) -> set[str]:
        """The names that the last server on this store answered to."""
        return {row["name"] for row in self.read("select name from models")}

    def set_models(self, names: Iterable[str]) -> None:
        with self._writing() as connection:
            connection.execute("delete from models")
            connection.executemany("insert into models values (?)", [(name,) for name in names])

    # usage

    def record(self, rows: Iterable[Usage]) -> None:
        """All or none of them; on the disk once this returns."""
        columns = ", ".join(field.name for field in fields(Usage))
        with self._writing() as connection:
            query = f"insert into usage ({columns}) values ({', '.join('?' * len(fields(Usage)))})"
            connection.executemany(query, [astuple(row) for row in rows])

    def spent(self, since: float) -> dict[str, int]:
        """Tokens by key id from a time on."""
        query = "select key, sum(prompt_tokens + completion_tokens) as tokens from usage where time >= ? and key is not null group by key"
        return {row["key"]: row["tokens"] for row in self.read(query, since)}


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _targets(row: sqlite3.Row) -> Targets:
    return tuple((model, share) for model, share in json.loads(row["targets"]))


def _key(row: sqlite3.Row) -> Key:
    models = None if row["models"] is None else tuple(json.loads(row["models"]))
    grants = Grants(models, **{name: row[name] for name in LIMITS})
    return Key(row["id"], row["name"], row["hash"], row["salt"], grants, bool(row["admin"]), row["created"], row["revoked"])
