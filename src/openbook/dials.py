"""Dials of a recipe: `model.size`, `train.tokens` or `train.tokens_per_parameter`, and `preset` in both tables. What they stand for is
written into the document before it is read as a recipe, so the recipe has only plain values. Nothing that the document sets is overridden.
"""

from __future__ import annotations

import re
from typing import Any

from openbook import scaling
from openbook.batches import Batches
from openbook.complaints import Misset
from openbook.errors import InputError
from openbook.model.presets import Preset, preset

UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
Table = dict[str, Any]


def turn(document: Table) -> list[str]:
    """Replaces the dials of a recipe's document by what follows from them; one sentence for each value derived.

    Raises Misset if a dial, or a value that it needs, is not what it should be.
    """
    model, train, tokenizer = (document.get(key) for key in ("model", "train", "tokenizer"))
    if not (isinstance(model, dict) and isinstance(train, dict) and isinstance(tokenizer, dict)):
        return []
    if not ({"size", "preset"} & model.keys() or {"tokens", "tokens_per_parameter", "preset"} & train.keys()):
        return []
    told: list[str] = []
    shape, training = _preset(model, "model"), _preset(train, "train")
    if shape:
        _turn_shape(model, shape, told)
    vocab_size = _whole(tokenizer, "tokenizer", "vocab_size")
    tables = 1 if model.get("tied_head") else 2
    if "size" in model:
        _turn_size(model, vocab_size, tables, told)
    layers, width, context = (_whole(model, "model", key) for key in ("layers", "width", "context"))
    if training:
        _turn_training(train, training, context, told)
    size = shape.published if shape else scaling.parameters(layers, width, vocab_size, tables)
    _turn_budget(train, size, width, context, told)
    return told


def _preset(table: Table, where: str) -> Preset | None:
    if "preset" not in table:
        return None
    name = table.pop("preset")
    try:
        return preset(str(name))
    except InputError as unknown:
        raise Misset((where, "preset"), str(unknown)) from None


def _turn_shape(model: Table, found: Preset, told: list[str]) -> None:
    if "size" in model:
        raise Misset(("model", "size"), f"is that of preset {found.name}; leave one of the two out")

    def fill(table: Table, where: str, values: Table) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(table.setdefault(key, {}), dict):
                fill(table[key], f"{where}.{key}", value)
            else:
                _fill(table, where, told, f"of {found.name}", **{key: value})

    fill(model, "model", found.shape)


def _turn_training(train: Table, found: Preset, context: int, told: list[str]) -> None:
    """What was published of a training. Tokens that are not published have to be given; the schedule keeps its shares of them."""
    values, why = found.training, f"of {found.name}"
    if not {"steps", "tokens", "tokens_per_parameter"} & train.keys():
        if "tokens" not in values:
            raise Misset(("train", "preset"), f"how long {found.name} was trained is not published; set train.tokens as well")
        _fill(train, "train", told, why, tokens=int(values["tokens"]))
    if "batch_tokens" in values:
        rows, microbatches = (_whole(train, "train", key) if key in train else None for key in ("microbatch_rows", "microbatches"))
        _, power = scaling.rows_and_microbatches(values["batch_tokens"], context, rows, microbatches)
        fitting = max(1, round(values["batch_tokens"] / context / power))
        _fill(train, "train", told, why, microbatches=power, microbatch_rows=fitting)
    optimizer = train.setdefault("optimizer", {})
    if isinstance(optimizer, dict) and optimizer.setdefault("kind", "adamw") == "adamw":
        adamw = ("rate", "beta1", "beta2", "eps", "clip", "weight_decay")
        _fill(optimizer, "train.optimizer", told, why, **{key: values[key] for key in adamw if key in values})
    schedule, whole = train.setdefault("schedule", {}), values.get("tokens", 0.0)
    if isinstance(schedule, dict) and "schedule" in values:
        shares = {"warmup": "warmup_tokens", "end": "fall_tokens"}
        shared = {key: share_of(values[tokens], whole) for key, tokens in shares.items() if tokens in values}
        _fill(schedule, "train.schedule", told, why, kind=values["schedule"], floor=values["floor"], **shared)
    if "ramp_tokens" in values and "ramp" not in train:
        first = values["ramp_from"] / context / train["microbatch_rows"]
        train["ramp"] = {}
        start = min(scaling.nearest_power_of_two(first), train["microbatches"])
        _fill(train["ramp"], "train.ramp", told, why, start=start, over=share_of(values["ramp_tokens"], whole))


def share_of(tokens: float, whole: float) -> float:
    return float(f"{tokens / whole:.6g}")


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


def _fill(table: Table, where: str, told: list[str], why: str, **values: Any) -> None:
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
