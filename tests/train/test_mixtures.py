"""Mixtures of experts in training: they balance on real text, and an interruption changes no bit of what balances them."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from openbook.recipe import load_recipe
from openbook.train.checkpoint import State, load, save
from openbook.train.fingerprint import fingerprint
from openbook.train.mixtures import usage
from openbook.train.policy import Memory
from openbook.train.step import StepResult, Trainer

TEXT = np.frombuffer(inspect.getsource(argparse).encode(), dtype=np.uint8).astype(np.int64)
STEPS = 40


def rows(step: int, microbatch: int, skipped: int = 0) -> np.ndarray:
    """Eight pieces of the text, a token a byte."""
    starts = np.random.default_rng([step, microbatch]).integers(0, len(TEXT) - 33, 8)
    return np.stack([TEXT[start : start + 33] for start in starts])


def trainer_of(recipe: Path, style: str, *settings: str) -> Trainer:
    common = [f"train.steps={STEPS}", f"model.style={style}", *(f"model.experts.{setting}" for setting in settings)]
    return Trainer(load_recipe(recipe, common)[0], torch.device("cpu"))


def trained(trainer: Trainer, start: int, stop: int) -> list[StepResult]:
    results, memory = [], Memory()
    for step in range(start, stop):
        results.append(trainer.step(step, rows, memory))
        memory = results[-1].memory
    return results


def imbalance(results: list[StepResult]) -> float:
    """The busiest expert's load over the mean, over the last ten steps and all layers: 1 is perfect, 4 the most there is here."""
    return float(np.mean([result.experts["largest"] for result in results[-10:] if result.experts]))


def test_experts_balance_on_real_text(recipe_path: Path) -> None:
    left = trained(trainer_of(recipe_path, "moe", "balance_loss=0"), 0, STEPS)
    by_loss = trained(trainer_of(recipe_path, "moe", "balance_loss=0.02"), 0, STEPS)
    by_bias = trained(trainer_of(recipe_path, "moe", "balance_loss=0", "balance_rate=0.01"), 0, STEPS)
    assert imbalance(left) > 3  # without either, nearly all tokens go to the same experts
    assert imbalance(by_loss) < 2
    assert imbalance(by_bias) < 2.5
    assert all(results[-1].loss < results[0].loss - 2 for results in (left, by_loss, by_bias))


@pytest.mark.parametrize(("style", "settings"), [("moe", ("balance_rate=0.01", "scores=sigmoid")), ("switch", ("capacity=0.75",))])
def test_an_interruption_changes_no_bit(recipe_path: Path, tmp_path: Path, style: str, settings: tuple[str, ...]) -> None:
    whole = trainer_of(recipe_path, style, *settings)
    results = trained(whole, 0, 6)
    first = trainer_of(recipe_path, style, *settings)
    trained(first, 0, 3)
    folder = save(tmp_path, State("key", 3, 0, 0.0), first.tensors(), keep=1)
    second = trainer_of(recipe_path, style, *settings)
    load(folder, second.tensors())
    again = trained(second, 3, 6)
    assert [result.experts for result in again] == [result.experts for result in results[3:]]
    assert fingerprint(second.tensors()) == fingerprint(whole.tensors())
    biases = [tensor for name, tensor in second.tensors().items() if name.endswith("router.bias")]
    assert len(biases) == (2 if style == "moe" else 0) and all(bias.any() for bias in biases)
    dropped = results[-1].experts["dropped"] if results[-1].experts else []
    assert all(share > 0.25 for share in dropped) if style == "switch" else dropped == [0.0, 0.0]


def test_usage_is_by_layer() -> None:
    choices = torch.tensor([[[6, 2, 4, 4], [4, 2, 4, 4]], [[16, 0, 0, 0], [4, 0, 0, 0]]])
    assert usage(choices) == {"largest": [1.5, 4.0], "dropped": [0.125, 0.75]}
