from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from openbook.errors import InputError, OpenbookError
from openbook.model import sample
from openbook.model.sample import Sampler, Sampling, draw, tokens


class Alternately:
    """A grammar of even and odd ids in turns."""

    def __init__(self, parity: int = 0) -> None:
        self.parity = parity

    def mask(self) -> NDArray[np.bool_] | None:
        return np.arange(10) % 2 == self.parity

    def accept(self, identifier: int) -> None:
        self.parity = 1 - self.parity

    def fork(self) -> Alternately:
        return Alternately(self.parity)


def drawn(sampler: Sampler, logits: torch.Tensor, count: int = 200) -> list[int]:
    made = []
    for _ in range(count):
        made.append(sampler.draw(logits))
        sampler.accept(made[-1])
    return made


def test_a_mask_lets_through_what_its_grammar_allows() -> None:
    found = drawn(Sampler(Sampling(1, 2.0, seed=1), Alternately()), torch.linspace(0, 3, 10))
    assert [token % 2 for token in found] == [0, 1] * 100 and len(set(found)) == 10
    greedy = drawn(Sampler(Sampling(1, 0), Alternately()), torch.linspace(0, 3, 10), 4)
    assert greedy == [8, 9, 8, 9]


def test_a_mask_that_lets_nothing_through_is_an_error() -> None:
    with pytest.raises(OpenbookError, match="no token"):
        Sampler(Sampling(1), Alternately(parity=5)).draw(torch.zeros(10))


def test_penalties_take_from_the_logits_of_what_was_drawn() -> None:
    logits = torch.tensor([0.0, 1.0, 2.2, 3.3])
    assert drawn(Sampler(Sampling(1, 0, presence_penalty=1.5)), logits, 4) == [3, 2, 3, 3]
    assert drawn(Sampler(Sampling(1, 0, frequency_penalty=1.0)), logits, 6) == [3, 3, 2, 3, 2, 1]
    assert Sampler(Sampling(1, 0)).takes_the_likeliest and not Sampler(Sampling(1, 0, presence_penalty=1)).takes_the_likeliest


def test_biases_come_before_the_draw_and_leave_the_logits_alone() -> None:
    logits = torch.zeros(5)
    assert set(drawn(Sampler(Sampling(1, seed=1), logit_bias={2: 100.0}), logits)) == {2}
    assert set(drawn(Sampler(Sampling(1, seed=1), logit_bias={2: -100.0}), logits)) == {0, 1, 3, 4}
    assert logits.tolist() == [0] * 5


def test_top_k_and_min_p_leave_the_likeliest() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    for settings_, expected in (
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"min_p": 0.4}, {1, 3}),
        ({"min_p": 0.1, "top_k": 2}, {1, 3}),
    ):
        assert set(drawn(Sampler(Sampling(1, seed=2, **settings_)), logits)) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.2, 1.0, 4.0]), st.integers(2, 6))
def test_a_nucleus_among_the_likeliest_is_that_of_all(seed: int, top_p: float, temperature: float, levels: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (40,), generator=random).float()  # with many that are equally likely
    found = []
    for candidates in (3, 40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sample, "CANDIDATES", candidates)
            random = torch.Generator().manual_seed(seed)
            found.append([draw(logits, Sampling(1, temperature, top_p), random) for _ in range(20)])
    assert found[0] == found[1]


def test_tokens_report_as_many_alternatives_as_each_asks_for() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    first, second = tokens(logits, [0, 1], [1, 2])
    assert [identifier for identifier, _ in first.top] == [2] and [identifier for identifier, _ in second.top] == [0, 2]
    assert math.exp(first.logprob) == pytest.approx(float(logits[0].softmax(0)[0]))
    assert tokens(logits, [0, 1], [0, 0])[1].top == ()


@pytest.mark.parametrize("values", [{"min_p": 1.5}, {"top_k": -1}, {"presence_penalty": math.nan}, {"frequency_penalty": math.inf}])
def test_values_that_mean_nothing_are_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        Sampling(1, **values)  # type: ignore[arg-type]
