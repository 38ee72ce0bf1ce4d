"""The audit on one screen: whom the filters remove, as far as it is not chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openbook.words import count, percent

SHOWN = 15
CHANCE = 0.05


def lines(audit: Mapping[str, Any]) -> list[str]:
    """The disparities over all components that hold against `comparisons` of them, the largest first."""
    read = audit["all"]["states"][0]
    told = [f"{count(read['documents'])} documents with {count(read['words'])} words, {len(audit['groups'])} groups of people"]
    if not read["groups"]:
        return [*told, "no document names any of them: there is nothing to compare"]
    rows = [row for row in audit["disparity"] if row["component"] == "all" and row["q"] < CHANCE]
    rows.sort(key=lambda row: -abs(row["difference"][0]))
    if not rows:
        return [
            *told,
            f"beyond chance, no filter prefers or spares documents that name a group ({audit['comparisons']} comparisons)",
        ]
    told += [f"{'step':20}{'group':36}{'removed':>9}{'of others':>11}{'difference, 95 %':>25}{'same size and component':>27}"]
    for row in rows[:SHOWN]:
        hits, total, others, of = row["counts"]
        told.append(
            f"{row['number']:2} {row['step']:17}{row['group']:36}{percent(hits / total):>9}{percent(others / of):>11}"
            f"{_interval(row['difference']):>25}{_interval(row['adjusted']):>27}"
        )
    if len(rows) > SHOWN:
        told.append(f"and {len(rows) - SHOWN} more in corpus/audit.json")
    return [*told, f"{audit['comparisons']} comparisons; shown are those of which at most {CHANCE:.0%} are expected to be chance"]


def _interval(ends: Any) -> str:
    return "–" if ends is None else f"{ends[0]:+.1%} [{ends[1]:+.1%}, {ends[2]:+.1%}]"
