"""What makes two builds of a corpus differ: the recipes, and what became of each document."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from openbook.corpus.records import DROPPED, KEPT, column_table, parts
from openbook.recipe import Recipe
from openbook.run import Run

SHOWN = 3


@dataclass
class _Build:
    """One corpus by document: where each is, a digest of what is left of its text, and why others are out. Keys are ids as read."""

    place: dict[str, tuple[str, str]] = field(default_factory=dict)
    text: dict[str, bytes] = field(default_factory=dict)
    out: dict[str, tuple[str, str]] = field(default_factory=dict)
    traces: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def compare(one: Run, other: Run) -> dict[str, Any]:
    """What differs, by component. A document is the same in both builds if its text was when it was read."""
    a, b = _build(one), _build(other)
    told: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*one.recipe.corpus.components, *other.recipe.corpus.components]):
        told[name] = {"same": 0, "changed": {}, "moved": [], "only_a": {}, "only_b": {}}
    for key, (component, kind) in a.place.items():
        part = told[component]
        if key not in b.place:
            part["only_a"].setdefault(_why_not(b, key, other, component), []).append(key)
        elif a.text[key] != b.text[key]:
            part["changed"].setdefault(_why_other(a.traces[key], b.traces[key]), []).append(key)
        elif b.place[key] != (component, kind):
            part["moved"].append(key)
        else:
            part["same"] += 1
    for key, (component, _) in b.place.items():
        if key not in a.place:
            told[component]["only_b"].setdefault(_why_not(a, key, one, component), []).append(key)
    return {"a": str(one.path), "b": str(other.path), "recipe": recipe_differences(one.recipe, other.recipe), "components": told}


def _build(run: Run) -> _Build:
    build = _Build()
    digests: dict[str, Any] = defaultdict(lambda: hashlib.blake2b(digest_size=16))
    for part in parts(run, KEPT):
        with pq.ParquetFile(part.path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, ["id", "text"])
                for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
                    key = name.partition("-")[0]
                    build.place[key] = (part.component, part.kind)
                    digests[key].update(f"{name}\0{text}\0".encode())
    build.text = {key: digest.digest() for key, digest in digests.items()}
    for part in parts(run, [DROPPED]):
        for row in column_table(part.path, ["id", "step", "reason"]).to_pylist():
            if row["id"]:
                build.out.setdefault(row["id"].partition("-")[0], (row["step"], row["reason"]))
        traces = column_table(part.path.with_name("traces.parquet"), ["id", "step", "number", "what"])
        for row in traces.to_pylist():
            if row["what"] == "changed":
                name = f"decision {row['number']}" if row["step"] == "decision" else row["step"]
                build.traces[row["id"].partition("-")[0]].add(name)
    return build


def _why_not(build: _Build, key: str, run: Run, component: str) -> str:
    """Why a document of one build is not in the other one."""
    if key in build.out:
        step, reason = build.out[key]
        return reason if step in ("read", "decision") else f"{step}: {reason}"
    return "was not read" if component in run.recipe.corpus.components else "has no such component"


def _why_other(a: set[str], b: set[str]) -> str:
    """Which steps and decisions changed a text in one build only, or, where they are the same ones, that they did otherwise."""
    only = [f"{name} in a" for name in sorted(a - b)] + [f"{name} in b" for name in sorted(b - a)]
    return ", ".join(only) or f"{', '.join(sorted(a)) or 'nothing'} in both, with another result"


def recipe_differences(one: Recipe, other: Recipe) -> list[str]:
    """Keys of the corpus that differ, as "key: a -> b". A step goes by its name, a decision by what it is about, not by their places."""
    return list(_differences(_table(one), _table(other), "corpus"))


def _table(recipe: Recipe) -> dict[str, Any]:
    corpus = recipe.corpus.model_dump(mode="json")
    corpus["steps"] = _named((step["step"], step) for step in corpus["steps"])
    corpus["decisions"] = _named((decision["what"], decision) for decision in corpus["decisions"])
    return corpus


def _differences(a: Any, b: Any, key: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in {**a, **b}:
            if name in a and name in b:
                yield from _differences(a[name], b[name], f"{key}.{name}")
            else:
                yield f"{key}.{name}: in {'a' if name in a else 'b'} only"
    elif a != b:
        yield f"{key}: {a} -> {b}"


def _named(items: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """A list as a table; of equal names, the second is called NAME #2."""
    seen: Counter[str] = Counter()
    table = {}
    for name, item in items:
        seen[name] += 1
        table[name if seen[name] == 1 else f"{name} #{seen[name]}"] = item
    return table


def in_words(told: Mapping[str, Any]) -> str:
    lines = [f"a  {told['a']}", f"b  {told['b']}", "", "recipe", *(f"  {line}" for line in told["recipe"] or ["the same corpus"])]
    for name, part in told["components"].items():
        rows = [("in a only, because in b", part["only_a"]), ("in b only, because in a", part["only_b"]), ("changed by", part["changed"])]
        if part["moved"]:
            rows.append(("moved", {"to another split or component": part["moved"]}))
        lines += ["", f"{name}: {part['same']:,} documents are the same"]
        for title, reasons in rows:
            for why, keys in sorted(reasons.items(), key=lambda item: -len(item[1])):
                some = ", ".join(keys[:SHOWN]) + (" …" if len(keys) > SHOWN else "")
                lines.append(f"  {len(keys):>6,} {title}: {why} ({some})")
    return "\n".join(lines)
