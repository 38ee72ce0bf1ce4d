from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from engine.test_identical import tokens
from engine.text import engine_over, greedy, prompt, reader, sampled
from openbook.engine import Job, PromptLookup
from openbook.model.sample import Sampling


class Guess:
    """Proposes the same token again and again."""

    def __init__(self, token: int) -> None:
        self._token = token

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        return [self._token] * count


def test_prompt_lookup_proposes_what_came_after_the_last_such_place() -> None:
    lookup = PromptLookup()
    assert lookup.propose([1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3], 2) == [6, 7]
    assert PromptLookup(most=1).propose([1, 2, 3, 4, 5, 1, 2, 3], 2) == [4]
    assert lookup.propose([9, 2, 3, 8, 1, 2, 3], 4) == [8, 1, 2, 3], "two tokens are enough"
    assert lookup.propose([1, 2, 3], 4) == lookup.propose([1], 4) == lookup.propose([], 4) == []


def test_a_text_that_repeats_itself_takes_fewer_steps() -> None:
    ids = prompt(0, 30) * 3
    steps = []
    answers = []
    for proposer in (None, PromptLookup()):
        with engine_over(proposer=proposer) as engine:
            forward, count = engine.runner.forward, [0]

            def counted(pieces: list[object], forward: object = forward, count: list[int] = count) -> object:
                count[0] += 1
                return forward(pieces)  # type: ignore[operator]

            engine.runner.forward = counted  # type: ignore[method-assign, assignment]
            answers.append(tokens(engine.run([greedy(ids, tokens=100)])))
            steps.append(count[0])
    assert answers[0] == answers[1]
    assert steps[1] < 0.8 * steps[0]


@pytest.mark.parametrize("guess", [ord("e"), 0])
def test_draws_follow_the_models_distribution_whatever_is_proposed(guess: int) -> None:
    """With seeds as they come: the second token of many draws, against its exact distribution."""
    ids, draws = prompt(10, 30), 400
    with engine_over(proposer=Guess(guess), queue=1000, slots=4) as engine:
        jobs = [Job(ids, Sampling(3, temperature=0.7, seed=1000 * guess + seed), None) for seed in range(draws)]
        drawn = Counter(answer.tokens[1].id for answer in engine.run(jobs))
    model = reader()
    with torch.no_grad():
        first = (model.logits(model(torch.tensor([ids]))[0, -1]) / 0.7).softmax(-1)
        rows = torch.tensor([[*ids, token] for token in range(256)])
        second = (model.logits(model(rows)[:, -1]) / 0.7).softmax(-1)  # (first token, second token)
        expected = first @ second
    found = torch.tensor([drawn[token] / draws for token in range(256)])
    assert float((found - expected).abs().sum()) / 2 < 0.15, "total variation; as many fair draws are within 0.13"


def test_penalties_and_masks_hold_behind_proposals() -> None:
    sampling = Sampling(30, temperature=0.9, seed=3, presence_penalty=0.5, frequency_penalty=0.5, top_k=30, min_p=0.01)
    job = Job(prompt(0, 50) * 2, sampling, None, logit_bias={101: -100.0, 32: 2.0})
    answers = []
    for proposer in (None, PromptLookup(), Guess(101)):
        with engine_over(proposer=proposer) as engine:
            answers += engine.run([job])
    assert tokens(answers[:1]) == tokens(answers[1:2]) == tokens(answers[2:])
    assert 101 not in [token.id for token in answers[0].tokens]


def test_proposals_end_with_the_sequence() -> None:
    for length in (1, 2, 5):
        with engine_over(proposer=Guess(32)) as engine:
            (answer,) = engine.run([sampled(prompt(0, 190), tokens=length)])
            assert len(answer.tokens) == min(length, 2)
