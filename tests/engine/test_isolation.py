from __future__ import annotations

import time

import pytest
import torch

from engine.text import CONTEXT, Sampling, engine_over, greedy, prompt, reader, sampled
from openbook.engine import DeadlinePassed, Embedded, Event, Job
from openbook.engine.kv import BLOCK
from openbook.errors import InputError
from openbook.model.initialise import initialise
from openbook.model.transformer import Transformer, TransformerConfig


@pytest.fixture(scope="module")
def copier() -> Transformer:
    """Continues a text with the tokens that it holds, over and over, and with no other: attention that looks back over all of it."""
    config = TransformerConfig(
        512, 256, layers=1, width=512, heads=1, kv_heads=1, head_width=512, mlp_width=8, positions="none", tied_head=True
    )
    model = Transformer(config)
    initialise(model, seed=1)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(512))
        attention = model.layers[0].attention
        for linear in (attention.query, attention.key):
            linear.weight.zero_()
        attention.value.weight.copy_(torch.eye(512))
        attention.output.weight.copy_(torch.eye(512) * 200)
        model.final_norm.weight.fill_(3)
        for parameter in model.layers[0].mlp.parameters():
            parameter.zero_()
    return model.eval()


def test_32_canaries_of_two_tenants_stay_where_they_are(copier: Transformer) -> None:
    """Every prompt is a head that all have in common and a canary of its own; what follows may hold tokens of its own prompt only."""
    common = list(range(400, 400 + 2 * BLOCK))
    canaries = [[10 + 5 * index + part for part in range(5)] for index in range(32)]
    jobs = [
        Job([*common, *canary * 12], Sampling(40, seed=index), None, salt=f"tenant {index % 2}") for index, canary in enumerate(canaries)
    ]
    with engine_over(copier, slots=12, blocks=40) as engine:
        answers = engine.run([*jobs, *jobs[::-1]])
    for job, answer in zip([*jobs, *jobs[::-1]], answers, strict=True):
        drawn = {token.id for token in answer.tokens}
        assert len(answer.tokens) == 40 and drawn <= set(job.prompt), "a token of another sequence"
        assert drawn - set(common), "the model does not show what it has read"


def test_a_tenant_finds_its_own_prompts_in_the_cache_and_no_others() -> None:
    ids = prompt(0, 3 * BLOCK + 1)
    with engine_over() as engine:
        found = [engine.run([greedy(ids, salt=salt)])[0].end for salt in ("one", "other", "one", "")]
    assert [end and end.cached_tokens for end in found] == [0, 0, 3 * BLOCK, 0]


def test_prompts_that_begin_alike_are_read_once() -> None:
    head = prompt(0, 3 * BLOCK)
    jobs = [greedy([*head, *prompt(500 + 50 * index, 20)], tokens=1) for index in range(6)]
    with engine_over() as engine:
        answers = engine.run(jobs)
    assert sorted(answer.end.cached_tokens for answer in answers if answer.end) == [0] + [3 * BLOCK] * 5


def test_scores_are_the_same_from_a_cached_beginning() -> None:
    head, tails = prompt(0, 80), [prompt(900 + 30 * index, 25) for index in range(4)]
    texts = [[*head, *tail] for tail in tails]
    with engine_over() as engine:
        whole, parts = engine.score(texts, top=3), engine.score(texts, top=3, score_from=80)
    for full, part in zip(whole, parts, strict=True):
        assert part == [None] * 80 + full[80:]


def test_an_embedding_is_the_mean_of_the_hidden_states() -> None:
    ids, events = prompt(0, 75), []
    with engine_over() as engine:
        work = engine.submit([Job(ids, Sampling(0), None, embed=True)], lambda _, event: events.append(event))
        while engine.running or engine.waiting or not events:
            time.sleep(0.01)
        assert work.cached_tokens == [0]
    with torch.no_grad():
        mean = torch.nn.functional.normalize(reader()(torch.tensor([ids]))[0].mean(0), dim=0)
    assert isinstance(events[0], Embedded) and torch.allclose(torch.tensor(events[0].vector), mean, atol=1e-5)


def test_a_deadline_ends_what_waits_and_what_runs() -> None:
    events: list[tuple[int, Event]] = []
    with engine_over(slots=1) as engine:
        late = time.monotonic() + 0.05
        engine.submit([sampled(prompt(0, 8), tokens=180, deadline=late), sampled([5], deadline=late)], lambda *pair: events.append(pair))
        while engine.running or engine.waiting:
            time.sleep(0.01)
    assert {index for index, event in events if isinstance(event, DeadlinePassed)} == {0, 1}


def test_blocks_that_hold_no_whole_sequence_are_refused() -> None:
    with pytest.raises(InputError, match=f"one sequence of {CONTEXT} tokens needs 6"), engine_over(blocks=5):
        pass
