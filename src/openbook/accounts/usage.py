"""What was used, summed up: by key, model, day, or several of them together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openbook import words
from openbook.accounts.store import Store
from openbook.errors import InputError
from openbook.page import fill, style

BY = {"key": "coalesce(keys.name, usage.key, '')", "model": "usage.model", "day": "date(usage.time, 'unixepoch')"}
COLUMNS = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds", "joules", "energy", "estimated")
SUMS = """
count(*) as requests, sum(usage.status >= 400) as failed, sum(prompt_tokens) as prompt_tokens, sum(cached_tokens) as cached_tokens,
sum(completion_tokens) as completion_tokens, round(sum(milliseconds) / 1000, 3) as seconds, round(sum(joules), 3) as joules,
group_concat(distinct energy) as energy, sum(counted = 'estimated') as estimated
"""
"""`joules` is null where nothing was measured; `energy` says by what it was, `estimated` how many requests' tokens are an estimate."""


def summary(store: Store, by: Sequence[str], since: str | None = None) -> list[dict[str, Any]]:
    """A row for each group, with `by` and COLUMNS. Raises InputError for another grouping, or a date that is none."""
    if odd := [name for name in by if name not in BY]:
        raise InputError(f"--by {odd[0]}: should be one of {', '.join(BY)}")
    start = 0.0
    if since is not None:
        try:
            start = datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise InputError(f"--since {since}: should be a day, as 2026-01-31") from None
    groups = ", ".join(f'{BY[name]} as "{name}"' for name in by)
    places = ", ".join(str(place) for place in range(1, len(by) + 1))
    query = f"select {groups}, {SUMS} from usage left join keys on keys.id = usage.key where time >= ? group by {places} order by {places}"
    return [dict(row) for row in store.read(query, start)]


def table(rows: Sequence[dict[str, Any]], by: Sequence[str]) -> list[str]:
    """For people, with a line of totals."""
    widths = [max(len(name), *(len(str(row[name]) or "no key") for row in rows)) if rows else len(name) for name in by]
    head = "  ".join(f"{name:{width}}" for name, width in zip(by, widths, strict=True))
    lines = [f"{head}{'requests':>10}{'failed':>8}{'prompt':>14}{'cached':>12}{'completion':>14}{'seconds':>12}  energy"]
    total = {name: sum(row[name] for row in rows) for name in COLUMNS if name not in ("joules", "energy")}
    known = [row["joules"] for row in rows if row["joules"] is not None]
    for row in [*rows, total | {"joules": sum(known) if known else None}] if len(rows) > 1 else rows:
        names = [str(row.get(name, "all") or "no key") for name in by]
        name = "  ".join(f"{text:{width}}" for text, width in zip(names, widths, strict=True))
        figures = f"{row['requests']:>10,}{row['failed']:>8,}{row['prompt_tokens']:>14,}{row['cached_tokens']:>12,}"
        lines.append(f"{name}{figures}{row['completion_tokens']:>14,}{row['seconds']:>12,.1f}  {words.energy(row['joules'])}")
    return lines


def page(store: Store, since: str | None) -> str:
    """One self-contained page: tables by key, by model and by day."""
    tables = [(name, summary(store, [name], since)) for name in BY]
    return fill(Path(__file__).parent, "usage.html.jinja", tables=tables, since=since, style=style(), energy=words.energy)
