"""The engine: one thread that owns the model and takes all running sequences one step further at a time.

It knows token ids, never text or HTTP. Work that nobody waits for any more stops within a step, running or queued.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from openbook.engine.adapters import load_adapter
from openbook.engine.jobs import Deliver, EngineClosed, Event, Finished, Job, QueueFull, Scored
from openbook.engine.kv import Blocks
from openbook.engine.linear import Precision
from openbook.engine.model import Adapter, Runner
from openbook.engine.propose import Proposer
from openbook.engine.scheduler import Running, Scheduler, blocks_for
from openbook.engine.step import compute, draw_all, tell
from openbook.errors import InputError
from openbook.model.sample import Sampling, Token
from openbook.model.transformer import Transformer


class Work:
    """Sequences that were submitted together. `cancel` stops them all, `cancel_one` one of them; both may be called at any time."""

    def __init__(self, engine: Engine, sequences: list[Running]) -> None:
        self._engine, self.sequences = engine, sequences

    def cancel(self) -> None:
        self._engine.drop(self.sequences)

    def cancel_one(self, index: int) -> None:
        self._engine.drop([self.sequences[index]])

    @property
    def cached_tokens(self) -> list[int]:
        """Tokens of each prompt that did not have to be read, known once a sequence has begun."""
        return [sequence.cached_tokens for sequence in self.sequences]


@dataclass
class Answer:
    """What `Engine.run` gathers of a sequence. `scores` is empty if the prompt was not to be scored."""

    tokens: list[Token] = field(default_factory=list)
    scores: list[Token | None] = field(default_factory=list)
    end: Finished | None = None

    def take(self, event: Event) -> None:
        """Raises the event if it is an exception."""
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Token):
            self.tokens.append(event)
        elif isinstance(event, Scored):
            self.scores = event.tokens
        elif isinstance(event, Finished):
            self.end = event


class Engine:
    """Runs up to `slots` sequences at once and lets up to `queue` wait, first come, first served.

    precision: of the products. blocks: how many blocks of the key-value cache, of 32 tokens each, running sequences and the prefix cache
    have between them; None for enough to fill every slot's context. proposer: what proposes tokens for speculation; None for none.

    `tokens` counts the tokens drawn so far; `running` and `waiting` are the numbers of sequences.

    Raises InputError if `blocks` do not hold one sequence of the whole context.
    """

    def __init__(
        self,
        model: Transformer,
        slots: int = 8,
        queue: int = 256,
        precision: Precision = "fp32",
        blocks: int | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        least = blocks_for(model.config.context)
        if blocks is not None and blocks < least:
            raise InputError(f"blocks = {blocks}: one sequence of {model.config.context} tokens needs {least}")
        self.model, self.slots, self.queue = model, slots, queue
        self.runner = Runner(model, precision)
        self.tokens = 0
        self._scheduler = Scheduler(self.runner, slots, Blocks(slots * least if blocks is None else blocks), proposer)
        self._adapters: dict[str, Adapter] = {}
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        return len(self._scheduler.waiting)

    @property
    def adapters(self) -> list[str]:
        """The names that a job's `adapter` may be."""
        return sorted(self._adapters)

    def work_of(self, adapter: str | None) -> tuple[int, int]:
        """How many sequences with this adapter run and wait; for None, those without one."""
        with self._changed:
            parts = self._scheduler.running, self._scheduler.waiting
            running, waiting = (sum(sequence.job.adapter == adapter for sequence in part) for part in parts)
        return running, waiting

    def load_adapter(self, name: str, folder: Path) -> None:
        """Reads a folder in peft's format; jobs may name it from now on. Raises InputError if it cannot be used, or the name is taken."""
        if name in self._adapters:
            raise InputError(f"adapter {name!r}: is loaded already; unload it first")
        self._adapters[name] = load_adapter(folder, self.model, self.runner.precision)

    def unload_adapter(self, name: str) -> None:
        """New jobs may not name it any more; those that do go on. Raises InputError if there is none of this name."""
        if self._adapters.pop(name, None) is None:
            raise InputError(f"adapter {name!r}: is not loaded; there are {self.adapters}")

    def submit(self, jobs: Sequence[Job], deliver: Deliver) -> Work:
        """Queues all of the jobs or none. `deliver(index, event)` is called on the inference thread and must return at once.

        Raises QueueFull, InputError for an adapter that is not loaded, and EngineClosed once the engine is closed.
        """
        sequences = [Running(job, index, deliver, self._adapter(job)) for index, job in enumerate(jobs)]
        with self._changed:
            if self._closed:
                raise EngineClosed()
            if self.waiting + len(jobs) > self.queue:
                raise QueueFull(f"{self.waiting} sequences are waiting and at most {self.queue} may; try again later")
            self._scheduler.waiting.extend(sequences)
            self._changed.notify()
        return Work(self, sequences)

    def _adapter(self, job: Job) -> Adapter | None:
        if job.adapter is None:
            return None
        if (adapter := self._adapters.get(job.adapter)) is None:
            raise InputError(f"adapter {job.adapter!r}: is not loaded; there are {self.adapters}")
        return adapter

    def drop(self, sequences: Sequence[Running]) -> None:
        """Nothing more is computed for these sequences, but for a step that is under way, and nothing more is told of them."""
        with self._changed:
            for sequence in sequences:
                sequence.cancelled = True
            waiting = self._scheduler.waiting
            for sequence in [one for one in waiting if one.cancelled]:
                waiting.remove(sequence)
            self._changed.notify()

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """Does all of the jobs, as many at a time as the queue takes, and gives their answers in order. For use in this process."""
        return [answer for _, answer in sorted(self.stream(jobs), key=lambda pair: pair[0])]

    def stream(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """(index, answer) of each job as it is done. Raises what went wrong with one, and then drops the others."""
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        answers = {index: Answer() for index in range(len(jobs))}
        works: list[Work] = []
        sent, most = 0, max(1, min(self.queue // 2, self.slots))

        def send() -> None:
            nonlocal sent
            offset, more = sent, jobs[sent : sent + most]
            works.append(self.submit(more, lambda index, event: events.put((offset + index, event))))
            sent += len(more)

        try:
            while answers:
                while sent < len(jobs) and len(answers) - (len(jobs) - sent) <= most:  # those under way
                    send()
                index, event = events.get()
                answers[index].take(event)
                if answers[index].end is not None:
                    yield index, answers.pop(index)
        finally:
            for work in works:
                work.cancel()

    def score(self, texts: Sequence[Sequence[int]], top: int = 0, score_from: int = 0) -> list[list[Token | None]]:
        """The log-probability of every token of each text, given those before it; see `openbook.model.generate.score`."""
        sampling = Sampling(max_tokens=0, logprobs=top)
        return [answer.scores for answer in self.run([Job(text, sampling, None, True, score_from=score_from) for text in texts])]

    def close(self) -> None:
        """Ends the thread after the step in hand; what was not finished is told so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        scheduler = self._scheduler
        for sequence in [*scheduler.running, *scheduler.waiting]:
            sequence.tell(EngineClosed())
        scheduler.reap()

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._admit():
                self._step()
        except Exception as error:  # a fault of the engine itself: nobody may wait for ever
            with self._changed:
                self._closed = True
                for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
                    sequence.tell(error)

    def _admit(self) -> bool:
        """Waits until there is something to do and fills the free slots; False once the engine is closed."""
        scheduler = self._scheduler
        with self._changed:
            scheduler.reap()
            while not (self._closed or scheduler.running or scheduler.waiting):
                self._changed.wait()
            admitted = [] if self._closed else scheduler.admit()
        for sequence, found in admitted:
            scheduler.place(sequence, found)
        return not self._closed

    def _step(self) -> None:
        scheduler = self._scheduler
        with self._changed:
            pieces = list(scheduler.plan())
        if not pieces:
            return
        try:
            computed, logits = compute(self.runner, pieces)
            for sequence, piece in pieces:
                sequence.publish(scheduler.blocks, piece)
            drawn = draw_all(computed, logits, self._fork)
            self.tokens += sum(len(one.ids) for one in drawn)  # before anyone hears of it, so that who has an answer finds it counted
            tell(drawn, logits)
        except Exception as error:
            for sequence, _ in pieces:
                sequence.tell(error)

    def _fork(self, leader: Running) -> list[Running]:
        with self._changed:
            return self._scheduler.fork(leader)
