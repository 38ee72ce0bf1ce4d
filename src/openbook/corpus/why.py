"""Why a document is in a corpus, out of it, or not as it was read: all that is on record of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openbook.corpus.decisions import DECISION
from openbook.corpus.records import DROPPED, KEPT, Record, column_table, find
from openbook.corpus.steps.apply import INDEX
from openbook.documents import rows_at
from openbook.errors import InputError
from openbook.recipe_decisions import AnyDecision
from openbook.run import Run
from openbook.words import printable

OTHER = re.compile(r"of document ([0-9a-f]{32}(?:-\d+)*)|as document ([0-9a-f]{32})")
"""How a reason names the document that another is a copy of."""
HASHES = ("items", "signature")
"""Columns that say nothing to people."""


def account(run: Run, asked: str) -> dict[str, Any]:
    """All that is on record of a document. Raises InputError if `asked` names none, or several."""
    found = find(run, asked)
    components = {record.part.component for record in found}
    traces = [trace | {"component": name} for name in sorted(components) for trace in _traces(run, name, found[0].key)]
    records = [_told(run, record) for record in found]
    kept = [record for record in records if record["status"] == "in"]
    changed = any(trace["what"] == "changed" for trace in traces) or any("-" in (record["id"] or "") for record in kept)
    return {
        "id": found[0].key if found[0].id else None,
        "status": ("changed" if changed else "in") if kept else "out",
        "records": records,
        "traces": [{name: value for name, value in trace.items() if name != "text"} for trace in traces],
        "annotations": list(_annotations(run, components, found[0].key)) if found[0].id else [],
        "original": next((trace["text"] for trace in traces if trace["text"] is not None), None),
    }


def _told(run: Run, record: Record) -> dict[str, Any]:
    row = record.whole()
    text = row.pop("text")
    told = {"status": "out" if record.part.kind == DROPPED else "in", "component": record.part.component, **row}
    if told["status"] == "in":
        told |= {"split": record.part.kind, "bytes": len(text.encode())}
    told["meta"] = json.loads(row["meta"]) if row["meta"] else {}
    other = OTHER.search(row.get("detail") or "")
    if other:
        told["other"] = _other(run, other[1] or other[2])
    return told


def _other(run: Run, name: str) -> dict[str, Any]:
    """Where the document is that another one is a copy of."""
    try:
        records = find(run, name)
    except InputError:
        return {"id": name, "status": "unknown"}
    first = next((record for record in records if record.part.kind in KEPT), records[0])
    status = "in" if first.part.kind in KEPT else "out"
    return {"id": name, "status": status, "component": first.part.component, "origin": first.origin}


def _traces(run: Run, component: str, key: str) -> list[dict[str, Any]]:
    path = run.path / "corpus" / component / "traces.parquet"
    wanted = pc.starts_with(column_table(path, ["id"])["id"], key)
    return rows_at(path, pc.indices_nonzero(wanted).to_pylist())


def _annotations(run: Run, components: set[str], key: str) -> Iterator[dict[str, Any]]:
    """What each step measured of a document and its pieces, as far as the work folder still has it."""
    work = run.path / "corpus.work"
    if not (work / INDEX).exists():
        return
    read_ids = lru_cache(lambda shard: column_table(work / f"{shard}.parquet", ["id"])["id"])
    for entry in json.loads((work / INDEX).read_bytes()):
        path = work / f"{entry['annotation']}.parquet"
        if entry["component"] not in components or not (path.exists() and (work / f"{entry['shard']}.parquet").exists()):
            continue
        ids = read_ids(entry["shard"])
        rows = pc.indices_nonzero(pc.starts_with(ids, key)).to_pylist()
        schema = pq.read_schema(path)
        scalars = [field.name for field in schema if field.name not in HASHES and not pa.types.is_nested(field.type)]
        if not rows or not scalars:
            continue
        for row, values in zip(rows, rows_at(path, rows, scalars), strict=True):
            told = {"number": entry["number"], "step": entry["step"], "component": entry["component"]}
            yield told | {"id": ids[row].as_py(), "values": values}


def in_words(told: Mapping[str, Any], decisions: Sequence[AnyDecision]) -> str:
    """The account of a document on one screen."""
    lines = [f"{told['status']:10} {told['id'] or told['records'][0]['origin']}"]
    for record in told["records"]:
        lines += ["", *_record_lines(record)]
    if told["traces"]:
        lines += ["", "what happened to it"]
    for trace in told["traces"]:
        named = trace["step"] == DECISION
        what = decisions[trace["number"] - 1].what if named else trace["detail"] or ""
        count = f" ({trace['replacements']:,} words)" if trace["replacements"] is not None else ""
        against = f", against {trace['detail']}" if named and trace["detail"] else ""
        who = f"decision {trace['number']}: {what}" if named else f"step {trace['number']}, {trace['step']}"
        lines.append(f"  {trace['what']} by {who}{count}{against}")
    if told["annotations"]:
        lines += ["", "what steps measured"]
    for row in told["annotations"]:
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row["values"].items()}
        values = ", ".join(f"{name} {value}" for name, value in shown.items())
        piece = f" of {row['id']}" if row["id"] != told["id"] else ""
        lines.append(f"  {row['number']:>2} {row['step']}{piece}: {values}")
    return "\n".join(map(printable, lines))


def _record_lines(record: Mapping[str, Any]) -> list[str]:
    where = f"split {record['split']}" if record["status"] == "in" else f"by {record['step']}"
    lines = [f"{record['status']:10} {record['id'] or '(no text)'}, {where}"]
    if record["status"] == "out":
        told = record["detail"] if record["detail"].startswith(record["reason"]) else f"{record['reason']}: {record['detail']}"
        lines.append(f"  reason     {told}")
    if "other" in record:
        other = record["other"]
        lines.append(f"  copy of    {other['id']} ({other['status']}; {other.get('component', '')} {other.get('origin', '')})")
    lines += [f"  component  {record['component']}", f"  origin     {record['origin']}", f"  licence    {record['licence'] or 'unknown'}"]
    lines.append(f"  bytes      {record['bytes']:,}")
    return lines + [f"  {key:10} {value}" for key, value in record["meta"].items()]
