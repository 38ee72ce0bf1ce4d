from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.errors import InputError, OpenbookError
from openbook.model.generate import CHUNK, Generation, Sampling, generate, score
from openbook.model.initialise import initialise
from openbook.model.sample import draw
from openbook.model.transformer import Transformer, TransformerConfig

VOCABULARY = 70
CONTEXT = 3 * CHUNK
PROMPT = [3, 14, 15, 9, 26]
LONG = [(7 * i * i + 5 * i + 3) % VOCABULARY for i in range(2 * CHUNK + 5)]
GREEDY = Sampling(max_tokens=20, temperature=0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(TransformerConfig(VOCABULARY, CONTEXT, layers=2, width=32, heads=4, kv_heads=2, head_width=8, mlp_width=48))
    initialise(model, seed=1)
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():  # projections start at zero: without noise the layers would do nothing
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.3)
    return model.eval()


def ids(generation: Generation) -> list[int]:
    return [token.id for token in generation]


@torch.no_grad()
def all_logprobs(model: Transformer, tokens: list[int]) -> torch.Tensor:
    """(time, vocabulary) from one forward pass without a cache."""
    return model.logits(model(torch.tensor([tokens])))[0].log_softmax(-1)


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["short", "in chunks"])
def test_greedy_equals_a_loop_without_a_cache(model: Transformer, prompt: list[int]) -> None:
    expected = list(prompt)
    for _ in range(20):
        expected.append(int(all_logprobs(model, expected)[-1].argmax()))
    drawn = ids(generate(model, prompt, GREEDY, end=None))
    assert drawn == expected[len(prompt) :]
    assert len(set(drawn)) > 3, "a model that repeats itself proves little"


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["short", "in chunks"])
def test_logprobs_are_those_of_the_full_forward_pass_before_temperature(model: Transformer, prompt: list[int]) -> None:
    tokens = list(generate(model, prompt, Sampling(12, temperature=1.7, top_p=0.8, seed=5, logprobs=3), end=None))
    drawn = [token.id for token in tokens]
    full = all_logprobs(model, prompt + drawn)[len(prompt) - 1 : -1]
    for row, token in zip(full, tokens, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        best = row.topk(3)
        assert [identifier for identifier, _ in token.top] == best.indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("length", [2, CHUNK, CHUNK + 1, CONTEXT])
def test_score_is_the_full_forward_pass(model: Transformer, length: int) -> None:
    text = (LONG * 2)[:length]
    scored = score(model, text, top=2)
    full = all_logprobs(model, text)
    assert scored[0] is None and len(scored) == length
    for position in range(1, length):
        token = scored[position]
        assert token is not None and token.id == text[position]
        assert token.logprob == pytest.approx(float(full[position - 1, text[position]]), abs=1e-4)
        assert token.top[0][1] == pytest.approx(float(full[position - 1].max()), abs=1e-4)


def test_score_of_nothing_and_of_one_token(model: Transformer) -> None:
    assert score(model, []) == []
    assert score(model, [5]) == [None]


def test_scoring_the_prompt_changes_nothing_that_follows(model: Transformer) -> None:
    sampling = Sampling(10, seed=3, logprobs=2)
    scoring = Generation(model, LONG, sampling, None, score_prompt=True)
    assert list(scoring) == list(generate(model, LONG, sampling, None))
    assert scoring.prompt_scores == score(model, LONG, top=2)


def test_a_seed_gives_the_same_tokens_and_others_give_others(model: Transformer) -> None:
    runs = [ids(generate(model, PROMPT, Sampling(30, seed=seed), None)) for seed in (1, 1, 2, -1, 2**64 - 1)]
    assert runs[0] == runs[1] != runs[2]
    assert runs[3] == runs[4], "seeds are taken modulo 2**64"
    assert ids(generate(model, PROMPT, Sampling(30), None)) != ids(generate(model, PROMPT, Sampling(30), None))


def test_interleaved_sequences_do_not_touch_each_other(model: Transformer) -> None:
    alone = [ids(generate(model, prompt, Sampling(15, seed=8), None)) for prompt in (PROMPT, LONG)]
    both = [generate(model, prompt, Sampling(15, seed=8), None) for prompt in (PROMPT, LONG)]
    drawn: list[list[int]] = [[], []]
    while any(generation.finish_reason is None for generation in both):
        for index, generation in enumerate(both):
            if token := generation.advance():
                drawn[index].append(token.id)
    assert drawn == alone


def test_the_end_token_stops_and_is_not_given(model: Transformer) -> None:
    drawn = ids(generate(model, PROMPT, GREEDY, None))
    end = drawn[4]
    generation = generate(model, PROMPT, GREEDY, end)
    assert ids(generation) == drawn[: drawn.index(end)]
    assert generation.finish_reason == "stop"


def test_max_tokens_ends_with_length(model: Transformer) -> None:
    generation = generate(model, PROMPT, Sampling(3), None)
    assert len(list(generation)) == 3
    assert generation.finish_reason == "length"
    assert list(generate(model, PROMPT, Sampling(0), None)) == []


def test_the_context_ends_with_length(model: Transformer) -> None:
    generation = generate(model, LONG, Sampling(10**9), None)
    assert (len(list(generation)), generation.finish_reason) == (CONTEXT - len(LONG), "length")


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(model: Transformer) -> None:
    full = [1] * CONTEXT
    assert len(list(generate(model, full[:-1], Sampling(5), None))) == 1
    with pytest.raises(InputError, match=f"{CONTEXT} tokens.*context of {CONTEXT}"):
        generate(model, full, Sampling(1), None)
    with pytest.raises(InputError, match=f"{CONTEXT + 1} tokens"):
        score(model, [*full, 1])


def test_an_empty_prompt_is_the_beginning_of_a_document(model: Transformer) -> None:
    sampling = Sampling(10, seed=4)
    assert list(generate(model, [], sampling, 7)) == list(generate(model, [7], sampling, 7))
    with pytest.raises(InputError, match="end-of-document"):
        generate(model, [], sampling, None)


def test_generating_leaves_the_model_trainable(model: Transformer) -> None:
    fresh = Transformer(model.config)
    fresh.load_state_dict(model.state_dict())
    ids(generate(fresh, PROMPT, GREEDY, None))
    fresh.loss(torch.tensor([PROMPT]), torch.tensor([PROMPT])).backward()


def test_logits_that_are_not_finite_are_an_error_not_a_text(model: Transformer) -> None:
    broken = Transformer(model.config)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.head.weight[3, 3] = math.nan
    with pytest.raises(OpenbookError, match="not finite"):
        ids(generate(broken, PROMPT, Sampling(5), None))


@pytest.mark.parametrize(
    "values",
    [{"max_tokens": -1}, {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_p": 1.1}, {"top_p": math.nan}],
)
def test_values_that_mean_nothing_are_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        Sampling(**{"max_tokens": 1, **values})  # type: ignore[arg-type]


def frequencies(logits: torch.Tensor, sampling: Sampling, draws: int = 4000) -> torch.Tensor:
    random = torch.Generator().manual_seed(11)
    return torch.bincount(torch.tensor([draw(logits, sampling, random) for _ in range(draws)]), minlength=len(logits)) / draws


def test_draws_follow_the_tempered_distribution() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, 1.0, -30.0])
    for temperature in (0.5, 1.0, 2.0):
        expected = (logits / temperature).softmax(0)
        assert torch.allclose(frequencies(logits, Sampling(1, temperature)), expected, atol=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    kept = {top_p: set(frequencies(logits, Sampling(1, top_p=top_p), 300).nonzero()[:, 0].tolist()) for top_p in (0, 0.4, 0.6, 0.8, 1)}
    assert kept == {0: {1}, 0.4: {1}, 0.6: {1, 3}, 0.8: {1, 2, 3}, 1: {0, 1, 2, 3}}
    assert set(frequencies(torch.zeros(2), Sampling(1, top_p=0.5), 100).tolist()) == {0, 1}, "one of two equals is half: enough"


@settings(max_examples=200)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    st.floats(0, 1e300),
    st.floats(0, 1),
    st.integers(0, 2**63),
)
def test_any_draw_is_a_token_of_the_nucleus(values: list[float], temperature: float, top_p: float, seed: int) -> None:
    logits = torch.tensor(values)
    identifier = draw(logits, Sampling(1, temperature, top_p), torch.Generator().manual_seed(seed))
    assert 0 <= identifier < len(values)
    if temperature == 0 or top_p == 0:
        assert values[identifier] == max(values)
    probability = ((logits.double() - logits.max()) / max(temperature, 5e-324)).softmax(0)
    assert probability[probability > probability[identifier]].sum() <= top_p + 1e-9
