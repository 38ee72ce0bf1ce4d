"""Where the tokens of a training row come from: document, component, licence, origin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from openbook.errors import InputError
from openbook.logbook import Event
from openbook.model.tokenizer import Tokenizer
from openbook.tokens.packing import tokens_of
from openbook.tokens.rows import Rows


def passed_over(events: Iterable[Event], step: int) -> tuple[int, bool]:
    """How many microbatches of data the training had passed over when it did a step (from 1) for good, and whether it has done it."""
    skipped, at = 0, {0: 0}
    for event in events:
        kind = event["event"]
        if kind == "stage.begin" and event["stage"] == "train":
            skipped = 0
        elif kind == "resume":
            skipped = at.get(event["step"], 0)
        elif kind == "action":
            skipped += event.get("skipped", 0)
        elif kind == "step":
            at[event["step"]] = skipped
    return at.get(step, skipped), step in at


def trace(rows: Rows, tokenizer: Tokenizer, step: int, row: int, skipped: int = 0) -> dict[str, Any]:
    """The documents in a row of a step (from 1): `stretches` of its positions 0 to context, each with its document and text.

    Position 0 is read and not predicted; where it is the end-of-document token, it stands for the beginning of what follows. Raises
    InputError for a step or row that the recipe does not have.
    """
    if not 1 <= step <= rows.batches.steps:
        raise InputError(f"--step {step}: the training has the steps 1 to {rows.batches.steps}")
    count = rows.batches.microbatches_at(step - 1) * rows.microbatch_rows
    if not 0 <= row < count:
        raise InputError(f"--row {row}: step {step} has the rows 0 to {count - 1}")
    microbatch, place = divmod(row, rows.microbatch_rows)
    component, index = rows.order.locate(rows.sample(step - 1, microbatch, place, skipped))
    shard, pieces = rows.shards[component], rows.packing[component].pieces(index)
    ids = tokens_of(shard.tokens, pieces).tolist()
    stretches: list[dict[str, Any]] = []
    position = 1
    for start, length in pieces:
        first, last = np.searchsorted(shard.ends, (start, start + length - 1), side="right").tolist()
        for facts in shard.documents.slice(first, last - first + 1).to_pylist():
            begin, end = max(start, facts["start"]), min(start + length, facts["end"])
            here = (position + begin - start if stretches else 0, position + end - start)
            inside = {"tokens": [begin - facts["start"], end - facts["start"]], "of": facts["end"] - facts["start"]}
            about = {key: facts[key] for key in ("id", "component", "licence", "origin")}
            text = tokenizer.decode(ids[here[0] : here[1]])
            stretches.append({"positions": [here[0], here[1] - 1], **about, **inside, "text": text})
        position += length
    return {"step": step, "row": row, "microbatch": microbatch, "component": component, "ids": ids, "stretches": stretches}


def pointed_at(found: dict[str, Any], tokenizer: Tokenizer, position: int) -> dict[str, Any]:
    """The same for one position only. Raises InputError for one that a row does not have."""
    ids = found["ids"]
    if not 0 <= position < len(ids):
        raise InputError(f"--position {position}: a row has the positions 0 to {len(ids) - 1}")
    stretch = next(part for part in found["stretches"] if part["positions"][0] <= position <= part["positions"][1])
    token = {"position": position, "id": ids[position], "text": tokenizer.decode([ids[position]])}
    return {**found, "token": token, "stretches": [stretch]}
