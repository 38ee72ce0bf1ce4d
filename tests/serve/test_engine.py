from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from openbook.engine import Engine, EngineClosed, Event, Finished, Job, QueueFull, Scored, Work
from openbook.errors import InputError
from openbook.model.exchange import load_weights
from openbook.model.generate import Sampling, Token, generate, score
from openbook.model.transformer import Transformer
from serve.serving import before_each_step

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def model(weights: Path) -> Transformer:
    return load_weights(weights)


class Gate:
    """Lets the engine's steps through one by one, so that a test knows exactly where the engine stands."""

    def __init__(self, engine: Engine) -> None:
        self.entered, self.allowed = threading.Semaphore(0), threading.Semaphore(0)
        before_each_step(engine, self._pass)

    def _pass(self) -> None:
        self.entered.release()
        self.allowed.acquire()

    def wait(self) -> None:
        assert self.entered.acquire(timeout=10)

    def let(self, steps: int) -> None:
        self.allowed.release(steps)


@pytest.fixture
def gated(model: Transformer) -> Iterator[tuple[Engine, Gate]]:
    engine = Engine(model, slots=2, queue=3)
    gate = Gate(engine)
    yield engine, gate
    gate.let(10_000)
    engine.close()


def same(found: Sequence[object], expected: Sequence[object]) -> bool:
    """Whether events are the same, with log-probabilities as nearly as other kernels give them."""
    return all(
        one == other
        or (
            (isinstance(one, Token) and isinstance(other, Token) and one.id == other.id)
            and (one.logprob, *(value for _, value in one.top))
            == pytest.approx((other.logprob, *(value for _, value in other.top)), abs=1e-4)
        )
        for one, other in zip(found, expected, strict=True)
    )


class Inbox:
    def __init__(self) -> None:
        self.events: queue.Queue[tuple[int, Event]] = queue.Queue()

    def __call__(self, index: int, event: Event) -> None:
        self.events.put((index, event))

    def next(self) -> tuple[int, Event]:
        return self.events.get(timeout=10)

    def until_done(self, sequences: int) -> dict[int, list[Event]]:
        events: dict[int, list[Event]] = {index: [] for index in range(sequences)}
        while sequences:
            index, event = self.next()
            events[index].append(event)
            sequences -= isinstance(event, Finished | Exception)
        return events


def job(max_tokens: int = 5, **values: Any) -> Job:
    return Job(PROMPT, Sampling(max_tokens, **values), end=None)


def test_sequences_together_yield_what_each_yields_alone(model: Transformer) -> None:
    jobs = [Job([index, 7], Sampling(12, seed=index, logprobs=2), end=None) for index in range(11)]
    inbox, engine = Inbox(), Engine(model, slots=4)
    engine.submit(jobs, inbox)
    events = inbox.until_done(len(jobs))
    engine.close()
    for index, one in enumerate(jobs):
        assert same(events[index], [*generate(model, one.prompt, one.sampling, one.end), Finished("length")])
    assert engine.tokens == 11 * 12


def test_each_running_sequence_gets_a_token_in_turn(gated: tuple[Engine, Gate]) -> None:
    engine, gate = gated
    inbox = Inbox()
    engine.submit([job(seed=1), Job([4], Sampling(5), None)], inbox)
    gate.let(3)
    assert [inbox.next()[0] for _ in range(6)] == [0, 1, 0, 1, 0, 1]


def test_a_prompt_is_scored_before_its_first_token(model: Transformer) -> None:
    inbox, engine = Inbox(), Engine(model)
    engine.submit([Job(PROMPT, Sampling(1), None, True), Job(PROMPT, Sampling(0), None, True), Job([5], Sampling(0), None, True)], inbox)
    events = inbox.until_done(3)
    engine.close()
    assert [type(event) for event in events[0]] == [Scored, Token, Finished]
    (scored, end), expected = events[1], score(model, PROMPT)
    assert isinstance(scored, Scored) and scored.tokens[0] is None and same(scored.tokens[1:], expected[1:]) and end == Finished("length")
    assert events[2] == [Scored([None]), Finished("length")]


def test_cancelled_work_stops_within_a_token(gated: tuple[Engine, Gate]) -> None:
    engine, gate = gated
    inbox = Inbox()
    work = engine.submit([job(200), job(200)], inbox)
    gate.let(2)
    for _ in range(3):
        gate.wait()  # the third step is under way
    work.cancel()
    gate.let(10_000)
    settle(engine)
    assert engine.tokens == 6


def test_one_of_several_can_be_cancelled(gated: tuple[Engine, Gate]) -> None:
    engine, gate = gated
    inbox = Inbox()
    work = engine.submit([job(200), job(3)], inbox)
    gate.wait()
    work.cancel_one(0)
    gate.let(10_000)
    assert [index for index, _ in (inbox.next() for _ in range(4))] == [1, 1, 1, 1]
    settle(engine)
    assert engine.tokens <= 4


def test_cancelled_work_that_waits_never_begins_and_frees_the_queue(gated: tuple[Engine, Gate]) -> None:
    engine, gate = gated
    fill(engine, gate)
    waiting = engine.submit([job()] * 3, Inbox())
    with pytest.raises(QueueFull, match="3 sequences are waiting and at most 3 may"):
        engine.submit([job()], Inbox())
    waiting.cancel()
    assert engine.waiting == 0
    engine.submit([job()], Inbox()).cancel()
    gate.let(10_000)
    settle(engine)
    assert engine.tokens == 10  # of the two that ran


def test_a_full_queue_takes_all_of_a_request_or_nothing(gated: tuple[Engine, Gate]) -> None:
    engine, gate = gated
    fill(engine, gate)
    engine.submit([job()] * 2, Inbox())
    with pytest.raises(QueueFull):
        engine.submit([job()] * 2, Inbox())
    assert engine.waiting == 2


def test_what_breaks_one_sequence_leaves_the_others(model: Transformer) -> None:
    inbox, engine = Inbox(), Engine(model)
    unknown = Job([model.config.vocab_size], Sampling(5), None)
    too_long = Job([1] * (model.config.context + 1), Sampling(5), None)
    engine.submit([unknown, job(), too_long], inbox)
    events = inbox.until_done(3)
    engine.close()
    assert isinstance(events[0][-1], InputError) and isinstance(events[2][-1], InputError)
    assert events[1][-1] == Finished("length") and len(events[1]) == 6


def test_closing_tells_those_who_wait_and_takes_no_more(gated: tuple[Engine, Gate]) -> None:
    engine, gate = gated
    inboxes = [Inbox() for _ in range(2)]
    engine.submit([job(200)] * 2, inboxes[0])
    gate.wait()
    engine.submit([job(200)], inboxes[1])
    gate.let(10_000)
    engine.close()
    assert any(isinstance(event, EngineClosed) for event in inboxes[0].until_done(2)[0])
    assert isinstance(inboxes[1].until_done(1)[0][-1], EngineClosed)
    with pytest.raises(EngineClosed):
        engine.submit([job()], Inbox())


def test_a_fault_of_the_engine_itself_ends_what_waits(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, engine = Inbox(), Engine(model, slots=1)

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(engine._scheduler, "plan", fail)
    engine.submit([job(), job()], inbox)
    events = inbox.until_done(2)
    assert all(isinstance(one[-1], ZeroDivisionError) for one in events.values())
    with pytest.raises(EngineClosed):
        engine.submit([job()], inbox)
    engine.close()


def fill(engine: Engine, gate: Gate) -> Work:
    """Both slots, by prompts that differ: a second one of the same would wait for the first to be read."""
    work = engine.submit([job(), Job([4], Sampling(5), None)], Inbox())
    gate.wait()
    return work


def settle(engine: Engine) -> None:
    """Waits until the engine has nothing to do: a job behind the others has gone through."""
    inbox = Inbox()
    before = engine.tokens
    engine.submit([Job([1], Sampling(0), None, score_prompt=True)], inbox)
    inbox.until_done(1)
    while engine.running:
        threading.Event().wait(0.01)
    assert engine.tokens >= before


def test_torch_threads_set_before_hold_in_the_inference_thread(model: Transformer) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        inbox, engine = Inbox(), Engine(model)
        before_each_step(engine, lambda: seen.append(torch.get_num_threads()))
        engine.submit([job(1)], inbox)
        inbox.until_done(1)
        engine.close()
    finally:
        torch.set_num_threads(before)
    assert seen == [before + 1]
