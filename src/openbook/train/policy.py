"""What to do about a step whose loss or gradient looks wrong: a pure function of what was committed before it.

It is asked before the optimizer moves anything. What it needs to know of the past is a `Memory`, which lives in the checkpoint, so a
replay comes to the same decision. The ladder: compute again; skip the data; go back to an anchor and skip the data since; the same at
a lower learning rate; stop and ask. Data are skipped only for a result that came out twice to the bit: that is numerics, and a replay
meets it again, where a fault of the machine is met by computing again.

How far a value is above the usual is counted in robust deviations: 1.4826 times the median distance from the window's median, which
is the standard deviation where values are normal and which outliers do not move (Rousseeuw and Croux 1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median, median_low
from typing import Any, Literal

from openbook.recipe import AnomaliesSection

LOSS_FLOOR, NORM_FLOOR = 0.01, 0.25
"""A deviation is at least this share of the median, or a window without variation would make an anomaly of everything. With the default
threshold a loss is never high below 1.06 medians, and a norm never a spike below 6; in clean trainings norms of 2 medians are common."""
ATTEMPTS = 3
"""How often a step is computed before the machine is held to be unable to give the same answer twice."""
SLOW = 1.5
"""A worker whose steps take this many times the usual is a straggler."""

Kind = Literal["commit", "retry", "skip", "rollback", "stop"]


@dataclass(frozen=True)
class Memory:
    """What the future of a training depends on besides its step and tensors; `asdict` makes it JSON, `Memory.of` reads that."""

    losses: tuple[float, ...] = ()
    """Of the last committed steps, the newest last, in nats a token: a window's worth even after going back to an anchor."""
    norms: tuple[float, ...] = ()
    """Gradient norms of the same steps, before clipping."""
    skipped: int = 0
    """Microbatches of data passed over so far: a step's data begin this much later than its number says."""
    branch: int = 0
    """How often the training has gone back."""
    rate_factor: float = 1.0
    """Multiplies all learning rates."""
    high: int = 0
    """Committed steps in a row with a high loss."""
    skips: int = 0
    """Skipped steps in a row."""
    tried: tuple[str, ...] = ()
    """Results, to the bit, of the present step that were not committed."""
    trouble: int = 0
    """The step from which the training last went back."""
    anchor: int = 0
    """The step to which it went."""
    rungs: int = 0
    """How often it has gone back in the present trouble, which is over `window` steps after `trouble`."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Memory:
        return cls(**{field.name: _as_tuple(facts[field.name]) for field in fields(cls)})


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Decision:
    """commit: take the step. retry: compute it again. skip: compute it again, from the data that `memory.skipped` now leads to.
    rollback: go on from the state after `anchor` steps. stop: commit nothing and say `why`.

    `memory` is what to continue with in any case. `why` is a sentence and `evidence` is JSON; both are empty for an ordinary step.
    """

    kind: Kind
    memory: Memory
    why: str = ""
    evidence: Mapping[str, Any] | None = None
    anchor: int | None = None


def decide(
    settings: AnomaliesSection, memory: Memory, step: int, loss: float, norm: float, first: Callable[[int], int] = lambda step: step
) -> Decision:
    """What to do with update number `step` (from 0), whose loss and gradient norm are known and whose update is not made yet.

    `first` tells the number of a step's first microbatch if no data are skipped.
    """
    finite = math.isfinite(loss) and math.isfinite(norm)
    if not settings.enabled:
        if finite:
            return Decision("commit", memory)
        evidence = _evidence(memory, step, loss, norm, {})
        return Decision("stop", memory, f"{_result(step, loss, norm)}, not finite; lower train.optimizer's rates", evidence)
    scores = _scores(settings, memory, loss, norm) if finite else {}
    spiked = [name for name, score in scores.items() if score > settings.spike]
    if finite and not spiked:
        return _accept(settings, memory, step, loss, norm, scores, first)
    result = f"{loss.hex()} {norm.hex()}"
    evidence = _evidence(memory, step, loss, norm, scores)
    what = _result(step, loss, norm) + (f", {scores[spiked[0]]:.0f} deviations above the usual {spiked[0]}" if spiked else ", not finite")
    if result not in memory.tried:
        tried = (*memory.tried, result)
        if len(tried) == ATTEMPTS:
            why = f"{what}, and another result each of {ATTEMPTS} times: a machine here does not compute reliably"
            return Decision("stop", memory, why, evidence)
        return Decision("retry", replace(memory, tried=tried), f"{what}; computing it again", evidence)
    memory = replace(memory, tried=(), skips=memory.skips + 1)
    if memory.skips < settings.patience:
        moved = replace(memory, skipped=memory.skipped + first(step + 1) - first(step))
        return Decision("skip", moved, f"{what}, twice the same: the step's data are skipped", evidence)
    if step == 0:
        return Decision("stop", memory, f"{what}, for any data: the recipe does not work from its first step", evidence)
    return _go_back(settings, memory, step, step - 1, f"{what}, {memory.skips} times in a row with other data", evidence, first)


def _result(step: int, loss: float, norm: float) -> str:
    return f"step {step + 1}: loss {loss:.4g}, gradient norm {norm:.4g}"


def _evidence(memory: Memory, step: int, loss: float, norm: float, scores: Mapping[str, float]) -> dict[str, Any]:
    """JSON, which knows no infinity: what is not finite becomes text. `tried` are the results before this one, to the bit."""
    value, size = (number if math.isfinite(number) else str(number) for number in (loss, norm))
    return {"step": step + 1, "loss": value, "norm": size, "scores": dict(scores), "tried": list(memory.tried)}


def _scores(settings: AnomaliesSection, memory: Memory, loss: float, norm: float) -> dict[str, float]:
    """Robust deviations above the window's median; only of what is so far above it that it may matter."""
    if len(memory.losses) < settings.min_history:
        return {}
    scores = {
        "loss": _score(memory.losses[-settings.window :], loss, LOSS_FLOOR, settings.threshold),
        "norm": _score(memory.norms[-settings.window :], norm, NORM_FLOOR, settings.spike),
    }
    return {name: score for name, score in scores.items() if score}


def _score(window: Sequence[float], value: float, floor: float, least: float) -> float:
    """How many deviations `value` is above the median; 0 if even the smallest possible deviation makes it `least` at most."""
    middle = median(window)
    smallest = max(floor * abs(middle), 1e-9)
    if value - middle <= least * smallest:
        return 0.0
    return (value - middle) / max(1.4826 * median([abs(past - middle) for past in window]), smallest)


def _accept(
    settings: AnomaliesSection, memory: Memory, step: int, loss: float, norm: float, scores: dict[str, float], first: Callable[[int], int]
) -> Decision:
    """Commits, unless that would be one high loss too many."""
    is_high = scores.get("loss", 0.0) > settings.threshold
    high = memory.high + 1 if is_high else 0
    evidence = _evidence(memory, step, loss, norm, scores)
    if high >= settings.patience:
        why = f"{_result(step, loss, norm)}, {high} times in a row over {settings.threshold:g} deviations above the usual loss"
        return _go_back(settings, memory, step, step - high + 1, why, evidence, first)
    reach = 2 * settings.window + settings.anchor_every + settings.patience  # going back leaves a window of these
    losses, norms = (*memory.losses, loss)[-reach:], (*memory.norms, norm)[-reach:]
    committed = replace(memory, losses=losses, norms=norms, high=high, skips=0, tried=())
    if memory.tried:
        return Decision("commit", committed, f"step {step + 1}: computed again, another result: a fault of the machine", evidence)
    if is_high:
        why = f"{_result(step, loss, norm)}, {scores['loss']:.1f} deviations above the usual loss: {high} of {settings.patience} in a row"
        return Decision("commit", committed, why, evidence)
    return Decision("commit", committed)


def _go_back(
    settings: AnomaliesSection, memory: Memory, step: int, onset: int, why: str, evidence: Mapping[str, Any], first: Callable[[int], int]
) -> Decision:
    """Back to the last anchor before the trouble, past the data that led into it; at a lower rate if that has not helped before.

    One trouble leads to one anchor: to go ever further back would in the end leave nothing to compare with, and accept the trouble.
    """
    same = memory.rungs > 0 and step <= memory.trouble + settings.window
    rungs = memory.rungs + 1 if same else 1
    if rungs > settings.max_rollbacks + settings.max_lowerings:
        return Decision("stop", memory, f"{why}; going back {memory.rungs} times has not helped: lower train.optimizer's rates", evidence)
    lower = rungs > settings.max_rollbacks
    anchor = max(onset - onset % settings.anchor_every, memory.anchor if same else 0)
    kept = max(0, len(memory.losses) - (step - anchor))
    back = Memory(
        losses=memory.losses[:kept],
        norms=memory.norms[:kept],
        skipped=memory.skipped + first(step + 1) - first(anchor),
        branch=memory.branch + 1,
        rate_factor=memory.rate_factor * settings.rate_cut if lower else memory.rate_factor,
        trouble=step,
        anchor=anchor,
        rungs=rungs,
    )
    how = f"; back to step {anchor}, past the data since" + (f", learning rates times {back.rate_factor:.4g}" if lower else "")
    return Decision("rollback", back, why + how, evidence, anchor)


def straggler(times: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """Workers that are slow, as (rank, times the usual), by rank. `times`: each worker's seconds of computing, without waiting, per step.

    The usual is the median of the workers' medians; of an even number, the lower one, so that of two workers the slow one is named.
    """
    own = [median(seconds) for seconds in times]
    usual = median_low(own)
    return [(rank, seconds / usual) for rank, seconds in enumerate(own) if seconds > SLOW * usual > 0]
