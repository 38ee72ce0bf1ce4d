"""The two tasks on a shard that the engine carries out: annotate it, rewrite it. Each is a function of files and a line of JSON."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from openbook.corpus.steps.registry import STEPS
from openbook.corpus.steps.shards import ShardFile, batches, shard_path
from openbook.files import written_aside
from openbook.parts import Batch
from openbook.recipe_steps import AnyStep

ANNOTATE = "openbook.corpus.steps.work:annotate"
REWRITE = "openbook.corpus.steps.work:rewrite"
SETTINGS: TypeAdapter[Any] = TypeAdapter(AnyStep)


@lru_cache(maxsize=8)
def _context(step: str, path: str) -> Any:
    load = STEPS[step].load
    return load(Path(path)) if load else None


def annotate(task: str) -> str:
    """{"folder", "shard", "jobs": [{"settings", "context", "out"}]}: every job looks at the same batches of the same shard."""
    wanted = json.loads(task)
    folder = Path(wanted["folder"])
    settings = [SETTINGS.validate_json(json.dumps(job["settings"])) for job in wanted["jobs"]]
    results: list[list[dict[str, Any]]] = [[] for _ in settings]
    for table in batches(shard_path(folder, wanted["shard"])):
        batch = Batch(table.column("text").to_pylist())
        others = {name: table.column(name) for name in table.column_names if name != "text"}
        for job, setting, result in zip(wanted["jobs"], settings, results, strict=True):
            step = STEPS[setting.step]
            assert step.annotate
            context = _context(step.name, job["context"]) if job["context"] else None
            result.append(dict(step.annotate(batch, others, setting, context)))
    for job, result in zip(wanted["jobs"], results, strict=True):
        names = result[0].keys() if result else ()
        table = pa.table({name: pa.chunked_array([_array(part[name]) for part in result]) for name in names})
        with written_aside(shard_path(folder, job["out"])) as aside:
            pq.write_table(table, aside, compression="zstd")
    return ""


def _array(values: Any) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(np.asarray(values))


def rewrite(task: str) -> str:
    """{"folder", "shard", "settings", "edits", "out"}: a new shard of what becomes of each text. `edits` names a file, or is null."""
    wanted = json.loads(task)
    folder = Path(wanted["folder"])
    settings = SETTINGS.validate_json(json.dumps(wanted["settings"]))
    step = STEPS[settings.step]
    assert step.rewrite
    edits = {int(row): edit for row, edit in json.loads((folder / wanted["edits"]).read_bytes())} if wanted["edits"] else None
    parent = 0
    changed = []
    with ShardFile(shard_path(folder, wanted["out"])) as file:
        for table in batches(shard_path(folder, wanted["shard"])):
            for row in table.to_pylist():
                text = row["text"]
                if edits is None:
                    pieces = step.rewrite(text, None, settings)
                else:
                    pieces = step.rewrite(text, edits[parent], settings) if parent in edits else [text]
                if pieces != [text]:
                    changed.append(parent)
                for number, piece in enumerate(pieces, 1):
                    name = row["id"] if len(pieces) == 1 else f"{row['id']}-{number}"
                    file.add(row | {"id": name, "text": piece, "bytes": len(piece.encode()), "parent": parent})
                parent += 1
        file.facts = {"changed": changed}
    return ""
