"""Dials of a recipe: `model.size`, and `train.tokens` or `train.tokens_per_parameter`. What they stand for is written into the document
before it is read as a recipe, so the recipe has only plain values. Nothing that the document sets is overridden.
"""

from __future__ import annotations

import re
from typing import Any

from openbook import scaling
from openbook.batches import Batches
from openbook.complaints import Misset

UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
Table = dict[str, Any]


def turn(document: Table) -> list[str]:
    """Replaces the dials of a recipe's document by what follows from them; one sentence for each value derived.

    Raises Misset if a dial, or a value that it needs, is not what it should be.
    """
    model, train, tokenizer = (document.get(key) for key in ("model", "train", "tokenizer"))
    if not (isinstance(model, dict) and isinstance(train, dict) and isinstance(tokenizer, dict)):
        return []
    if not ({"size"} & model.keys() or {"tokens", "tokens_per_parameter"} & train.keys()):
        return []
    told: list[str] = []
    vocab_size = _whole(tokenizer, "tokenizer", "vocab_size")
    tables = 1 if model.get("tied_head") else 2
    if "size" in model:
        _turn_size(model, vocab_size, tables, told)
    layers, width = (_whole(model, "model", key) for key in ("layers", "width"))
    _turn_budget(train, scaling.parameters(layers, width, vocab_size, tables), width, _whole(model, "model", "context"), told)
    return told


def _turn_size(model: Table, vocab_size: int, tables: int, told: list[str]) -> None:
    size = _amount(model, "model", "size")
    written = model.pop("size")
    given = [_whole(model, "model", key) if key in model else None for key in ("layers", "width")]
    if all(given):
        raise Misset(("model", "size"), "follows from layers and width, which are set too; leave one of the three out")
    layers, width = scaling.shape(size, vocab_size, tables, *given)
    head = {"head_width": 128} if width >= scaling.WIDE and width % 128 == 0 else {}
    _fill(model, "model", told, f"for {written} parameters", layers=layers, width=width, **head)


def _turn_budget(train: Table, size: int, width: int, context: int, told: list[str]) -> None:
    """Batch and steps for the tokens that the run shall see; then what the optimizer needs for both."""
    dials = [key for key in ("tokens", "tokens_per_parameter", "steps") if key in train]
    if not dials:
        raise Misset(("train", "steps"), "is missing; or give train.tokens or train.tokens_per_parameter")
    if len(dials) > 1:
        raise Misset(("train", dials[0]), f"and train.{' and train.'.join(dials[1:])} each say how long to train; keep one")
    rows, microbatches = (_whole(train, "train", key) if key in train else None for key in ("microbatch_rows", "microbatches"))
    if dials == ["steps"]:
        if rows is None:
            raise Misset(("train", "microbatch_rows"), "is missing; or give train.tokens instead of train.steps, and it is derived")
        steps, microbatches = _whole(train, "train", "steps"), microbatches or 1
        tokens = float(steps * rows * microbatches * context)
    else:
        tokens = _amount(train, "train", "tokens") if dials == ["tokens"] else _amount(train, "train", dials[0]) * size
        why = f"for {train.pop(dials[0])} {'tokens' if dials == ['tokens'] else 'tokens a parameter'}"
        rows, microbatches = scaling.rows_and_microbatches(scaling.batch_tokens(tokens), context, rows, microbatches)
        steps = max(1, round(tokens / context / rows / _mean_batch(train, microbatches)))
        _fill(train, "train", told, why, microbatch_rows=rows, microbatches=microbatches, steps=steps)
    batch = float(rows * microbatches * context)
    why = f"for {size:,} parameters, {tokens:,.0f} tokens, {batch:,.0f} a step"
    optimizer = train.setdefault("optimizer", {})
    if isinstance(optimizer, dict) and optimizer.get("kind", "muon") in ("muon", "adamw"):
        adamw = optimizer.get("kind") == "adamw"
        rates = {"rate": scaling.adamw_rate(size, batch, tokens)} if adamw else scaling.muon_rates(width, batch, tokens)
        _fill(optimizer, "train.optimizer", told, why, **rates)
        if adamw:
            rate = _amount(optimizer, "train.optimizer", "rate")
            _fill(optimizer, "train.optimizer", told, why, weight_decay=scaling.weight_decay(rate, steps, size, tokens))
    schedule = train.setdefault("schedule", {})
    if isinstance(schedule, dict):
        _fill(schedule, "train.schedule", told, why, warmup=scaling.warmup(size, tokens))


def _mean_batch(train: Table, microbatches: int) -> float:
    """Microbatches a step over the whole run."""
    ramp = train.get("ramp")
    if not isinstance(ramp, dict):
        return microbatches
    start = _whole(ramp, "train.ramp", "start") if "start" in ramp else 1
    if start & (start - 1) or start > microbatches:
        raise Misset(("train", "ramp", "start"), f"should be a power of two and at most train.microbatches = {microbatches}")
    return Batches.growing(10**6, microbatches, start, _amount(ramp, "train.ramp", "over")).total / 10**6


def _fill(table: Table, where: str, told: list[str], why: str, **values: float) -> None:
    for key, value in values.items():
        if key not in table:
            table[key] = value
            told.append(f"{where}.{key} = {value} {why}")


def _whole(table: Table, where: str, key: str) -> int:
    value = table.get(key)
    if type(value) is not int or value <= 0:
        raise Misset((*where.split("."), key), "is missing" if value is None else "should be a whole number above 0")
    return value


def _amount(table: Table, where: str, key: str) -> float:
    """A number above 0, or one written with a unit as "124M"."""
    value = table.get(key)
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kMBT])", value)):
        value = float(match[1]) * UNITS[match[2]]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e18:
        what = "is missing" if value is None else 'should be a number above 0, or text such as "124M" or "2.5B"'
        raise Misset((*where.split("."), key), what)
    return float(value)
