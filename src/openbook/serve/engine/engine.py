"""The engine: one thread that owns the model and takes every running sequence one step further in turn.

It knows token ids, never text or HTTP. A sequence is computed by itself (`Generation`), so what it yields does not depend on which
others run beside it. Work that nobody waits for any more stops within a step, running or queued.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openbook.errors import OpenbookError
from openbook.model.generate import Generation, Sampling, Token
from openbook.model.transformer import Transformer


@dataclass(frozen=True)
class Job:
    """One sequence to generate; with `score_prompt`, its prompt is scored as well."""

    prompt: Sequence[int]
    sampling: Sampling
    end: int | None
    score_prompt: bool = False


@dataclass(frozen=True)
class Scored:
    """The prompt of a sequence, scored: comes before its first token."""

    tokens: list[Token | None]


@dataclass(frozen=True)
class Finished:
    """The last event of a sequence that ended well: "stop" or "length"."""

    reason: str


Event = Scored | Token | Finished | Exception
"""What an engine tells of a sequence. An exception is its last event."""


class QueueFull(OpenbookError):
    """More sequences wait than the engine lets wait."""


class EngineClosed(OpenbookError):
    """The engine ends: it takes no more work, and drops what it has."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class Work:
    """Sequences that were submitted together. `cancel` stops them all, `cancel_one` one of them; both may be called at any time."""

    def __init__(self, engine: Engine, jobs: Sequence[Job], deliver: Callable[[int, Event], None]) -> None:
        self._engine = engine
        self.sequences = [_Sequence(job, index, deliver) for index, job in enumerate(jobs)]

    def cancel(self) -> None:
        self._engine.drop(self.sequences)

    def cancel_one(self, index: int) -> None:
        self._engine.drop([self.sequences[index]])


class _Sequence:
    def __init__(self, job: Job, index: int, deliver: Callable[[int, Event], None]) -> None:
        self.job, self.index, self._deliver = job, index, deliver
        self.generation: Generation | None = None
        self.cancelled = False
        self._owes_scores = job.score_prompt

    @property
    def done(self) -> bool:
        return self.cancelled or (self.generation is not None and self.generation.finish_reason is not None)

    def tell(self, event: Event) -> None:
        if not self.cancelled:
            self._deliver(self.index, event)

    def advance(self, model: Transformer) -> tuple[Generation, Token | None]:
        """A bounded piece of work, and the token it gave, if any."""
        if self.generation is None:
            self.generation = Generation(model, self.job.prompt, self.job.sampling, self.job.end, self.job.score_prompt)
        return self.generation, self.generation.advance()

    def report(self, generation: Generation, token: Token | None) -> None:
        """Tells what a piece of work came to."""
        if self._owes_scores and generation.read:
            self.tell(Scored(generation.prompt_scores))
            self._owes_scores = False
        if token is not None:
            self.tell(token)
        if generation.finish_reason is not None:
            self.tell(Finished(generation.finish_reason))


class Engine:
    """Runs up to `slots` sequences at once and lets up to `queue` wait, first come, first served.

    `tokens` counts the tokens drawn so far; `running` and `waiting` are the numbers of sequences.
    """

    def __init__(self, model: Transformer, slots: int = 8, queue: int = 256) -> None:
        self.model, self.slots, self.queue = model, slots, queue
        self.tokens = 0
        self._running: list[_Sequence] = []
        self._waiting: deque[_Sequence] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, jobs: Sequence[Job], deliver: Callable[[int, Event], None]) -> Work:
        """Queues all of the jobs or none. `deliver(index, event)` is called on the inference thread and must return at once.

        Raises QueueFull, and EngineClosed once the engine is closed.
        """
        work = Work(self, jobs, deliver)
        with self._changed:
            if self._closed:
                raise EngineClosed()
            if len(self._waiting) + len(jobs) > self.queue:
                raise QueueFull(f"{len(self._waiting)} sequences are waiting and at most {self.queue} may; try again later")
            self._waiting.extend(work.sequences)
            self._changed.notify()
        return work

    def drop(self, sequences: Sequence[_Sequence]) -> None:
        """Nothing more is computed for these sequences, but for a step that is under way, and nothing more is told of them."""
        with self._changed:
            for sequence in sequences:
                sequence.cancelled = True
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.cancelled)

    def close(self) -> None:
        """Ends the thread after the step in hand; what was not finished is told so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for sequence in [*self._running, *self._waiting]:
            if not sequence.done:
                sequence.tell(EngineClosed())
        self._running, self._waiting = [], deque()

    def _work(self) -> None:
        while self._admit():
            for sequence in self._running:
                if not sequence.done:
                    self._step(sequence)

    def _admit(self) -> bool:
        """Waits until there is something to do and fills the free slots; False once the engine is closed."""
        with self._changed:
            self._running = [sequence for sequence in self._running if not sequence.done]
            while not (self._closed or self._running or self._waiting):
                self._changed.wait()
            while self._waiting and len(self._running) < self.slots:
                self._running.append(self._waiting.popleft())
            return not self._closed

    def _step(self, sequence: _Sequence) -> None:
        try:
            generation, token = sequence.advance(self.model)
            self.tokens += token is not None  # before anyone hears of it, so that who has an answer finds it counted
            sequence.report(generation, token)
        except Exception as error:  # whatever went wrong with one sequence, the others go on
            sequence.tell(error)
            sequence.cancelled = True
