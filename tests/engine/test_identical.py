"""A sequence's tokens, and their log-probabilities to the bit, do not depend on what else the engine does."""

from __future__ import annotations

import pytest

from engine.text import engine_over, greedy, prompt, reader, sampled
from openbook.engine import Answer, Job, PromptLookup
from openbook.engine.kv import BLOCK
from openbook.model.generate import generate

LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7, 5, 70)


def jobs() -> list[Job]:
    return [(greedy if index % 2 else sampled)(prompt(200 * index, length)) for index, length in enumerate(LENGTHS)]


def alone(precision: str) -> list[Answer]:
    answers = []
    for job in jobs():
        with engine_over(precision=precision) as engine:
            answers += engine.run([job])
    return answers


@pytest.fixture(scope="module", params=["fp32", "int8"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def expected(precision: str) -> list[Answer]:
    return alone(precision)


def tokens(answers: list[Answer]) -> list[object]:
    return [(answer.tokens, answer.end and answer.end.reason) for answer in answers]


def test_alone_is_what_the_plain_loop_draws() -> None:
    for job, answer in zip(jobs(), alone("fp32"), strict=True):
        plain = list(generate(reader(), job.prompt, job.sampling, None))
        assert [token.id for token in answer.tokens] == [token.id for token in plain]
        assert [token.logprob for token in answer.tokens] == pytest.approx([token.logprob for token in plain], abs=1e-4)


def test_among_eight(precision: str, expected: list[Answer]) -> None:
    with engine_over(precision=precision) as engine:
        assert tokens(engine.run(jobs())) == tokens(expected)


def test_with_the_prefix_cache_cold_and_hot(precision: str, expected: list[Answer]) -> None:
    with engine_over(precision=precision, slots=3) as engine:
        assert tokens(engine.run(jobs())) == tokens(expected)
        again = engine.run(jobs())
    assert tokens(again) == tokens(expected)
    assert [answer.end.cached_tokens for answer in again if answer.end] == [(length - 1) // BLOCK * BLOCK for length in LENGTHS]


def test_preempted(precision: str) -> None:
    long = [sampled(prompt(300 * index, 20 + index), tokens=90, seed=index) for index in range(5)]
    with engine_over(precision=precision, slots=1) as engine:
        expected = engine.run(long)
    with engine_over(precision=precision, blocks=8) as engine:
        given_up = count_preemptions(engine)
        assert tokens(engine.run(long)) == tokens(expected)
    assert given_up[0] > 2


def test_with_proposals(precision: str, expected: list[Answer]) -> None:
    with engine_over(precision=precision, slots=2, proposer=PromptLookup()) as engine:
        assert tokens(engine.run(jobs())) == tokens(expected)


def test_choices_of_one_prompt_share_its_reading(precision: str) -> None:
    ids = prompt(50, 2 * BLOCK + 9)
    choices = [sampled(ids, seed=seed) for seed in range(6)]
    expected = []
    for choice in choices:
        with engine_over(precision=precision) as engine:
            expected += engine.run([choice])
    with engine_over(precision=precision) as engine:
        read = count_tokens(engine)
        together = engine.run(choices)
    assert tokens(together) == tokens(expected)
    assert read[0] == len(ids) + 6 * 23
    assert len({tuple(token.id for token in answer.tokens) for answer in together}) == 6


def count_tokens(engine: object) -> list[int]:
    """Counts the tokens that are computed."""
    count, forward = [0], engine.runner.forward  # type: ignore[attr-defined]

    def counted(pieces: list[object]) -> object:
        count[0] += sum(len(piece.ids) for piece in pieces)  # type: ignore[attr-defined]
        return forward(pieces)

    engine.runner.forward = counted  # type: ignore[attr-defined]
    return count


def count_preemptions(engine: object) -> list[int]:
    count, scheduler = [0], engine._scheduler  # type: ignore[attr-defined]
    let_go = scheduler._let_go

    def counted(sequence: object) -> None:
        count[0] += not sequence.done  # type: ignore[attr-defined]
        let_go(sequence)

    scheduler._let_go = counted
    return count
