"""From sums to what audit.json says: every figure with its interval, every comparison with what its many sisters make of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa

from openbook.corpus.audit import lexicons
from openbook.corpus.audit.statistics import Z, difference, false_discovery, fisher, log_odds, rate, ratio, stratified, wilson
from openbook.corpus.audit.tally import COUNTED, PROFANE, Part, Removed, Tally, summed
from openbook.corpus.audit.terms import Terms
from openbook.parts import F64, Bools

VERSION = 1
MILLION = 1e6
PRIOR_WORDS = 1_000.0
"""How many words the prior of the log-odds weighs: what stands beside any group of a category, in these proportions."""
LEAST_DOCUMENTS = 3
"""A word beside a group's terms is told of if it is there in so many documents: one text is no habit."""
SHOWN_WORDS = 10
SHOWN_PLACES = 20
"""Languages and licences told of by name; the others are summed."""
ALL = "all"
Fact = dict[str, Any]


def summary(parts: Mapping[str, Part], steps: Sequence[str], terms: Terms, method: Fact) -> Fact:
    """What audit.json holds. `parts` by component, `steps` by name in order."""
    whole = Part({number: reduce(add, (part.states[number] for part in parts.values())) for number in range(len(steps) + 1)})
    for number in sorted({0, len(steps)}):
        whole.words[number] = summed(pa.concat_tables([part.words[number] for part in parts.values()]))
    names = [f"{group.category}/{group.name}" for group in terms.groups]
    rows, comparisons = _disparity(parts, steps, names)
    return {
        "version": VERSION,
        "method": {**method, "interval": 0.95, "sources": terms.sources, "limits": terms.limits, "terms_version": terms.version},
        "groups": [
            {"group": name, "category": group.category, "terms": group.terms, "ambiguous": group.ambiguous}
            for name, group in zip(names, terms.groups, strict=True)
        ],
        "steps": list(steps),
        "all": _component(whole, names, terms),
        "components": {name: _component(part, names, terms) for name, part in parts.items()},
        "comparisons": comparisons,
        "disparity": rows,
    }


def _component(part: Part, names: Sequence[str], terms: Terms) -> Fact:
    """The states in which it differs from the one before, and what stands beside groups in the first and the last."""
    shown = [number for number, tally in part.states.items() if number == 0 or not tally.same(part.states[number - 1])]
    return {
        "states": [{"state": number, **_state(part.states[number], names)} for number in shown],
        "associations": {str(number): _associations(table, names, terms) for number, table in part.words.items()},
    }


def _state(tally: Tally, names: Sequence[str]) -> Fact:
    counted = {}
    for name, moments, holding in zip(COUNTED, tally.counted, tally.holding, strict=True):
        if name == PROFANE and lexicons.rude() is None:
            continue
        counted[name] = {"documents": int(holding), "count": int(moments[0]), "per_million": _per_million(tally.documents, moments)}
    groups = {}
    for name, naming, moments, valued, valence in zip(names, tally.naming, tally.mentions, tally.valued, tally.valence, strict=True):
        share = wilson(int(naming), tally.documents)
        if naming and share:
            mean = rate(int(valued), valence)
            groups[name] = {
                "documents": int(naming),
                "share": share.rounded(),
                "mentions": int(moments[0]),
                "per_million": _per_million(tally.documents, moments),
                "valence": mean.rounded() if mean else None,
            }
    return {
        "documents": tally.documents,
        "words": int(tally.words),
        "bytes": int(tally.bytes),
        "counted": counted,
        "languages": _most(tally.languages),
        "licences": _most(tally.licences),
        "decades": {str(decade): tally.decades[decade] for decade in sorted(tally.decades)},
        "groups": groups,
    }


def _per_million(documents: int, moments: F64) -> list[float | None] | None:
    found = rate(documents, moments)
    if found is None:
        return None
    return [None if end is None else float(f"{max(0.0, end) * MILLION:.4g}") for end in (found.value, found.low, found.high)]


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[SHOWN_PLACES:])
    return dict(ordered[:SHOWN_PLACES]) | ({"(others)": rest} if rest else {})


def _associations(table: pa.Table, names: Sequence[str], terms: Terms) -> dict[str, list[Fact]]:
    """The words that stand rather beside a group's terms than beside those of the other groups of its category, the surest first.

    Each has (delta, low, high), z, how often and in how many documents, and whether |z| clears what as many words would give by chance
    (Bonferroni).
    """
    group = table.column("group").to_numpy()
    count, documents = (table.column(name).to_numpy().astype(np.float64) for name in ("count", "documents"))
    coded = table.column("word").combine_chunks().dictionary_encode()
    word, words = coded.indices.to_numpy(), coded.dictionary.to_pylist()

    def sums(rows: Bools, values: F64) -> F64:
        return np.bincount(word[rows], weights=values[rows], minlength=len(words)).astype(np.float64)

    found: dict[str, list[Fact]] = {}
    for category in terms.categories:
        members = [number for number, known in enumerate(terms.groups) if known.category == category]
        here = np.isin(group, members)
        background = sums(here, count)
        use = np.flatnonzero(background)
        total = background.sum()
        for number in members:
            own = group == number
            ours = sums(own, count)[use]
            theirs = background[use] - ours
            if len(use) < 2 or not ours.sum() or not theirs.sum():
                continue
            delta, error = log_odds(ours, theirs, background[use] * PRIOR_WORDS / total)
            there = sums(own, documents)[use]
            order = np.argsort(-delta / error, kind="stable").tolist()
            best = [place for place in order if there[place] >= LEAST_DOCUMENTS and delta[place] > 0][:SHOWN_WORDS]
            found[names[number]] = [
                {
                    "word": words[use[place]],
                    "log_odds": [round(float(delta[place] + end * error[place]), 3) for end in (0, -Z, Z)],
                    "z": round(float(delta[place] / error[place]), 2),
                    "count": int(ours[place]),
                    "documents": int(there[place]),
                    "clear": bool(delta[place] / error[place] > _bonferroni(len(use))),
                }
                for place in best
            ]
    return found


def _bonferroni(tests: int) -> float:
    """The |z| that one of so many independent words exceeds by chance in 5 % of corpora."""
    return NormalDist().inv_cdf(1 - 0.025 / max(1, tests))


def _disparity(parts: Mapping[str, Part], steps: Sequence[str], names: Sequence[str]) -> tuple[list[Fact], int]:
    """For each step, component and group: what the step removed of the documents that name the group, and of those that do not.

    `adjusted` compares documents of the same component and size only: long documents name more, and are removed more or less often for
    being long. Rows without a removal, or where all or none name the group, say nothing and are left out; `q` is over those that stay.
    """
    rows: list[Fact] = []
    for number, step in enumerate(steps, 1):
        here = {name: [part.removed[number]] for name, part in parts.items() if number in part.removed}
        for name, removed in [(ALL, [item for items in here.values() for item in items]), *here.items()]:
            if sum(item.gone.sum() for item in removed):
                rows += _compared({"number": number, "step": step, "component": name}, removed, names)
    for row, q in zip(rows, false_discovery([row["p"] for row in rows]), strict=True):
        row["p"], row["q"] = float(f"{row['p']:.3g}"), float(f"{q:.3g}")
    return rows, len(rows)


def _compared(where: Fact, removed: Sequence[Removed], names: Sequence[str]) -> Iterable[Fact]:
    total, gone = (np.concatenate([getattr(item, name) for item in removed]) for name in ("all", "gone"))
    naming, naming_gone = (np.concatenate([getattr(item, name) for item in removed], axis=1) for name in ("naming", "naming_gone"))
    for group, name in enumerate(names):
        with_it, without = naming[group], total - naming[group]
        hits, others = naming_gone[group], gone - naming_gone[group]
        counts = [int(values.sum()) for values in (hits, with_it, others, without)]
        simple, times = difference(*counts), ratio(*counts)
        if simple and times:
            adjusted = stratified(hits, with_it, others, without)
            yield {
                **where,
                "group": name,
                "counts": counts,
                "difference": simple.rounded(),
                "ratio": times.rounded(),
                "adjusted": adjusted.rounded() if adjusted else None,
                "p": fisher(*counts),
            }
