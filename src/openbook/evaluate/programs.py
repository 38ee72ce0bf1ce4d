"""Answers that are programs: several for each item, executed in the sandbox; pass@k (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openbook.evaluate.sandbox import Verdict, run_programs
from openbook.evaluate.task import Task
from openbook.evaluate.templates import rendered

KS = (1, 10, 100)
"""Of pass@k, as published: those that there are samples for."""


def pass_at(k: int, samples: int, passed: int) -> float:
    """The chance that one of k samples passes, estimated without bias from more of them: 1 − C(n − c, k) / C(n, k), as a product (Chen et
    al. 2021, equation 1 and figure 3)."""
    if samples - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


def tried(task: Task, written: Sequence[tuple[Mapping[str, Any], Sequence[str]]], where: str) -> list[dict[str, Any]]:
    """Of items and what was written for each: the samples with their verdicts, and the scores."""
    programs = [rendered(task.form.program or "", {**fields, "written": text}, where) for fields, texts in written for text in texts]
    verdicts = iter(run_programs(programs))
    found = []
    for _, texts in written:
        samples = [{"written": text, **_told(next(verdicts))} for text in texts]
        passed = sum(sample["passed"] for sample in samples)
        scores = {f"pass@{k}": pass_at(k, len(samples), passed) for k in KS if k <= len(samples)}
        found.append({"samples": samples, "scores": scores})
    return found


def _told(verdict: Verdict) -> dict[str, Any]:
    return {"passed": verdict.passed, "why": verdict.why, "apart": verdict.apart}
