"""`openbook keys`, `openbook usage`, `openbook alias`: the store of a server, which may be running."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook import words
from openbook.arguments import Json, show
from openbook.errors import InputError

if TYPE_CHECKING:
    from openbook.accounts.aliases import Targets
    from openbook.accounts.keys import Key

keys = typer.Typer(no_args_is_help=True, add_completion=False)
alias = typer.Typer(no_args_is_help=True, add_completion=False)

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="The file that `openbook serve --store` was given.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A key's name, or its id.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A model, or alias, that the key is for; without any, all are.")]
Requests = Annotated[int | None, typer.Option("--requests-per-minute", min=0, help="0 lifts the limit.")]
Tokens = Annotated[int | None, typer.Option("--tokens-per-minute", min=0, help="Of prompts and completions; 0 lifts the limit.")]
Concurrency = Annotated[int | None, typer.Option("--concurrency", min=0, help="Requests at a time; 0 lifts the limit.")]
Monthly = Annotated[int | None, typer.Option("--monthly-tokens", min=0, help="In a calendar month, UTC; 0 lifts the limit.")]


@keys.command("create")
def create(
    store: StoreArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    model: Models = None,
    requests: Requests = None,
    tokens: Tokens = None,
    concurrency: Concurrency = None,
    monthly: Monthly = None,
    admin: Annotated[bool, typer.Option("--admin", help="May also read /metrics and use files and batches.")] = False,
    as_json: Json = False,
) -> None:
    """Make a key, and show it: the only time that anybody can. Makes the store as well, if there is none."""
    from openbook.accounts.keys import Grants, make
    from openbook.accounts.store import Store

    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise InputError(f"{name[:100]!r}: a key's name should be 1 to 100 printable characters")
    grants = Grants(tuple(model) if model else None, requests or None, tokens or None, concurrency or None, monthly or None)
    key, text = make(name, grants, admin)
    Store(store, create=True).add(key)
    show({**_told(key), "key": text}, f"{text}\nThis is the only time that it is shown. {_limits(key)}", as_json)


@keys.command("list")
def list_keys(store: StoreArgument, as_json: Json = False) -> None:
    """List the keys, revoked ones too. What a key reads is kept nowhere."""
    from openbook.accounts.store import Store

    found = Store(store).keys()
    lines = [f"{key.id}  {key.name:20}  {_date(key.created)}  {_limits(key)}" for key in found]
    show({"keys": [_told(key) for key in found]}, "\n".join(lines) or "no keys", as_json)


@keys.command("revoke")
def revoke(store: StoreArgument, name: NameArgument, as_json: Json = False) -> None:
    """Revoke a key; a running server refuses it from the next request on."""
    from openbook.accounts.store import Store

    opened = Store(store)
    key = opened.key(name)
    opened.revoke(key)
    show({"revoked": key.id, "name": key.name}, f"revoked {key.id} ({key.name})", as_json)


@keys.command("limit")
def limit(
    store: StoreArgument,
    name: NameArgument,
    model: Models = None,
    every_model: Annotated[bool, typer.Option("--every-model", help="The key is for all models.")] = False,
    requests: Requests = None,
    tokens: Tokens = None,
    concurrency: Concurrency = None,
    monthly: Monthly = None,
    as_json: Json = False,
) -> None:
    """Change what a key may do; what is not named stays. Without options: show it."""
    from openbook.accounts.store import Store

    if model and every_model:
        raise InputError("--model and --every-model: leave one of them out")
    opened = Store(store)
    key = opened.key(name)
    limits = {
        "requests_per_minute": requests,
        "tokens_per_minute": tokens,
        "concurrency": concurrency,
        "monthly_tokens": monthly,
    }
    changes: dict[str, Any] = {field: value or None for field, value in limits.items() if value is not None}
    if model or every_model:
        changes["models"] = tuple(model) if model else None
    key = replace(key, grants=replace(key.grants, **changes))
    if changes:
        opened.limit(key, key.grants)
    show(_told(key), f"{key.id}  {key.name}  {_limits(key)}", as_json)


def _told(key: Key) -> dict[str, Any]:
    """All but the hash and the salt."""
    return {
        "id": key.id,
        "name": key.name,
        "admin": key.admin,
        "created": _date(key.created),
        "revoked": None if key.revoked is None else _date(key.revoked),
        **vars(key.grants),
    }


def _limits(key: Key) -> str:
    grants = key.grants
    limits = (
        (grants.requests_per_minute, "requests a minute"),
        (grants.tokens_per_minute, "tokens a minute"),
        (grants.concurrency, "requests at a time"),
        (grants.monthly_tokens, "tokens a month"),
    )
    said = [f"{words.count(value)} {unit}" for value, unit in limits if value is not None]
    said.append("all models" if grants.models is None else "for " + ", ".join(grants.models))
    if key.revoked is not None:
        return f"revoked {_date(key.revoked)}"
    return ("admin; " if key.admin else "") + ", ".join(said)


def _date(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def usage(
    store: StoreArgument,
    by: Annotated[list[str] | None, typer.Option(help="key, model or day; may be given several times. By key by default.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="From this day on, UTC, as 2026-01-31.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print as CSV.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with tables by key, by model and by day.")] = None,
    as_json: Json = False,
) -> None:
    """Show who used how much: requests, tokens, time, measured energy."""
    from openbook.accounts.store import Store
    from openbook.accounts.usage import COLUMNS, page, summary, table

    if as_csv and as_json:
        raise InputError("--csv and --json: leave one of them out")
    opened, asked = Store(store), tuple(by or ["key"])
    rows = summary(opened, asked, since)
    if html is not None:
        from openbook.files import write_text

        write_text(html, page(opened, since))
    if as_csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, [*asked, *COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        print(text.getvalue(), end="", flush=True)
    else:
        written = {"html": str(html)} if html else {}
        show({"by": list(asked), "rows": rows, **written}, "\n".join(table(rows, asked)), as_json)


@alias.command("set")
def set_alias(
    store: StoreArgument,
    what: Annotated[str, typer.Argument(metavar="ALIAS=MODEL:SHARE,…", help="As prod=a:90,b:10, or prod=a.")],
    as_json: Json = False,
) -> None:
    """Say what an alias stands for; a running server follows with the next request."""
    from openbook.accounts.aliases import parse_alias
    from openbook.accounts.store import Store

    name, targets = parse_alias(what)
    Store(store).set_alias(name, targets)
    show({"alias": name, "targets": dict(targets)}, _said(name, targets), as_json)


@alias.command("back")
def back(store: StoreArgument, name: Annotated[str, typer.Argument(metavar="ALIAS")], as_json: Json = False) -> None:
    """Return an alias to what it stood for before its last change."""
    from openbook.accounts.store import Store

    targets = Store(store).roll_back(name)
    show({"alias": name, "targets": dict(targets)}, _said(name, targets), as_json)


@alias.command("remove")
def remove(store: StoreArgument, name: Annotated[str, typer.Argument(metavar="ALIAS")], as_json: Json = False) -> None:
    """Remove an alias; `openbook alias back` returns it."""
    from openbook.accounts.store import Store

    opened = Store(store)
    if name not in opened.aliases():
        raise InputError(f"{store}: has no alias {name!r}")
    opened.set_alias(name, ())
    show({"alias": name, "targets": {}}, _said(name, ()), as_json)


@alias.command("list")
def list_aliases(
    store: StoreArgument,
    history: Annotated[bool, typer.Option("--history", help="Also what they stood for before, and since when.")] = False,
    as_json: Json = False,
) -> None:
    """List the aliases."""
    from openbook.accounts.store import Store

    opened = Store(store)
    if history:
        told = [(name, _date(since), targets) for name, since, targets in opened.alias_history()]
        rows = [{"alias": name, "since": since, "targets": dict(targets)} for name, since, targets in told]
        show({"history": rows}, "\n".join(f"{since}  {_said(name, targets)}" for name, since, targets in told) or "no aliases", as_json)
    else:
        found = opened.aliases()
        lines = [_said(name, targets) for name, targets in found.items()]
        show({"aliases": {name: dict(targets) for name, targets in found.items()}}, "\n".join(lines) or "no aliases", as_json)


def _said(name: str, targets: Targets) -> str:
    total = sum(share for _, share in targets)
    return f"{name} = " + (", ".join(f"{model} {share / total:.1%}" for model, share in targets) or "nothing")
