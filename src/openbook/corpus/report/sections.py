"""The data report's sections as plain data: from the manifest, the audit and the tables of the corpus to what the templates print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from openbook.recipe import Recipe
from openbook.words import count, figure, percent, size

CHANCE = 0.05
SHOWN_DISPARITIES = 30
SHOWN_BARS = 12
SHOWN_LICENCES = 3
OTHERS = "(others)"
Fact = dict[str, Any]


def pile(recipe: Recipe, figures: Mapping[str, Any], mixture: Mapping[str, Any] | None) -> list[Fact]:
    """The Pile's table (Gao et al. 2020, table 1) for this corpus: raw size, weight, epochs, effective size, mean document size. Weight
    is the share of the training tokens as drawn, or as the recipe asks for where no mixture was drawn up."""
    present = [name for name in recipe.corpus.components if figures.get(name, {}).get("train", {}).get("documents")]
    drawn = (mixture or {}).get("components", {})
    weights = {name: recipe.corpus.components[name].amount for name in present} if recipe.corpus.measure == "weight" else {}
    total = math.fsum(weights.values())
    rows = []
    for name, component in recipe.corpus.components.items():
        figure_of = figures.get(name, {})
        train, ours = figure_of.get("train", {}), drawn.get(name, {})
        asked = weights[name] / total if name in weights else None
        epochs = ours.get("epochs", component.epochs)
        documents, text = train.get("documents", 0), train.get("bytes", 0)
        rows.append(
            {
                "name": name,
                "source": f"{component.source}: {component.place}",
                "why": component.why,
                "raw": size(text),
                "documents": count(documents),
                "held_out": count(figure_of.get("valid", {}).get("documents", 0)),
                "share": percent(ours.get("weight", asked)),
                "epochs": figure(epochs, 2),
                "effective": size(text * epochs) if epochs is not None else "–",
                "mean": size(text / documents) if documents else "–",
                "licences": list(figure_of.get("licences", {}).items())[:SHOWN_LICENCES],
                "unavailable": "" if component.available else component.unavailable,
                "published": component.published,
            }
        )
    return rows


def removals(audit: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """What each step removed and changed, and what was left."""
    states = {state["state"]: state for state in audit["all"]["states"]}
    start = states[0]["bytes"]
    left, rows = states[0], []
    for number, step in enumerate(steps, 1):
        before, left = left, states.get(number, left)
        reasons: dict[str, int] = {}
        for found in step["removed"].values():
            for reason, documents in found.items():
                reasons[reason] = reasons.get(reason, 0) + documents
        rows.append(
            {
                "step": step["step"],
                "removed": sum(reasons.values()),
                "changed": step["changed"],
                "bytes": before["bytes"] - left["bytes"],
                "left": left["bytes"],
                "width": round(100 * left["bytes"] / start, 2) if start else 0.0,
                "reasons": ", ".join(f"{count(number)} {reason}" for reason, number in sorted(reasons.items(), key=lambda item: -item[1])),
            }
        )
    return rows


def bars(audit: Mapping[str, Any], key: str) -> list[Fact]:
    """Shares as read and at the end, of languages, licences or decades: the largest as read."""
    first, last = audit["all"]["states"][0][key], audit["all"]["states"][-1][key]
    names = sorted(first, key=lambda name: (name == OTHERS, -first[name]))[:SHOWN_BARS]
    if key == "decades":
        names.sort()
    totals = sum(first.values()), sum(last.values())
    highest = max((first[name] / totals[0] for name in names), default=1.0)
    rows = []
    for name in names:
        shares = [found.get(name, 0) / total if total else 0.0 for found, total in zip((first, last), totals, strict=True)]
        rows.append(
            {
                "name": f"{name}s" if key == "decades" else name,
                "widths": [round(100 * min(1.0, share / highest), 2) for share in shares],
                "shares": [percent(share) for share in shares],
            }
        )
    return rows


def representation(audit: Mapping[str, Any]) -> list[Fact]:
    """By category and group: the share of documents that name it, as read and at the end, with its interval."""
    first, last = audit["all"]["states"][0]["groups"], audit["all"]["states"][-1]["groups"]
    categories: dict[str, list[Fact]] = {}
    for known in audit["groups"]:
        if known["group"] in first:
            categories.setdefault(known["category"], []).append(known)
    found = []
    for category, groups in categories.items():
        highest = max(states[group["group"]]["share"][2] for group in groups for states in (first, last) if group["group"] in states)
        rows = []
        for group in groups:
            states = [_share(found.get(group["group"]), highest) for found in (first, last)]
            rows.append({"name": group["group"].split("/", 1)[1], "ambiguous": group["ambiguous"], "states": states})
        found.append({"category": category, "rows": rows})
    return found


def _share(state: Mapping[str, Any] | None, highest: float) -> Fact:
    if not state:
        return {"width": 0.0, "low": 0.0, "reach": 0.0, "text": percent(0.0), "mentions": "0", "rate": "0", "valence": "–"}
    value, low, high = (100 * end / highest for end in state["share"])
    rate = (state["per_million"] or [None])[0]
    return {
        "width": round(value, 2),
        "low": round(low, 2),
        "reach": round(high - low, 2),
        "text": percent(state["share"][0], 2),
        "mentions": count(state["mentions"]),
        "rate": "–" if rate is None else f"{rate:,.3g}",
        "valence": f"{state['valence'][0]:+.2f}" if state["valence"] else "–",
    }


def forest(audit: Mapping[str, Any]) -> Fact:
    """The disparities over all components that are more than chance, the largest first: places in hundredths of the plot's width."""
    rows = [row for row in audit["disparity"] if row["component"] == "all" and row["q"] < CHANCE]
    rows.sort(key=lambda row: -abs(row["difference"][0]))
    shown = rows[:SHOWN_DISPARITIES]
    ends = [abs(end) for row in shown for key in ("difference", "adjusted") for end in (row[key] or [])]
    reach = max(ends, default=1.0)

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    def mark(ends: Sequence[float] | None) -> Fact | None:
        if not ends:
            return None
        return {"at": place(ends[0]), "low": place(ends[1]), "reach": round(place(ends[2]) - place(ends[1]), 2), "text": interval(ends)}

    plotted = []
    for row in shown:
        hits, total, others, of = row["counts"]
        removed = f"{count(hits)} of {count(total)}, {percent(hits / total)}"
        rest = f"{count(others)} of {count(of)}, {percent(others / of)}"
        plotted.append({**row, "removed": removed, "rest": rest, "crude": mark(row["difference"]), "like": mark(row["adjusted"])})
    return {"rows": plotted, "more": len(rows) - len(shown), "reach": percent(reach, 0), "comparisons": audit["comparisons"]}


def interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:+.1f} [{100 * ends[1]:+.1f}, {100 * ends[2]:+.1f}]"


def associations(audit: Mapping[str, Any]) -> list[Fact]:
    """What stands beside each group's terms at the end; words that clear Bonferroni's bound first come first anyway."""
    found = audit["all"]["associations"]
    last = found[max(found, key=int)]
    return [{"group": group, "words": words} for group, words in last.items() if words]


def counted(audit: Mapping[str, Any]) -> list[Fact]:
    """Profanity and personal data a million words, as read and at the end."""
    first, last = audit["all"]["states"][0]["counted"], audit["all"]["states"][-1]["counted"]

    def shown(state: Mapping[str, Any]) -> str:
        ends = state["per_million"]
        known = ends and ends[1] is not None
        return f"{ends[0]:,.4g} [{ends[1]:,.4g}, {ends[2]:,.4g}]" if known else "–"

    return [
        {
            "kind": kind,
            "documents": [count(state[kind]["documents"]) for state in (first, last)],
            "rates": [shown(state[kind]) for state in (first, last)],
        }
        for kind in first
    ]
