"""Which tokens of which sequences the next step computes, and which blocks they use.

Sequences that draw go first, one token each; then prompts are read, block by block, oldest first: several blocks a step while nobody
draws, one otherwise, so that a long prompt never holds up those who are being answered by more than a block. If blocks run out, the
youngest sequence gives up its own and is computed again later, from the tokens that it has.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from openbook.engine.jobs import DeadlinePassed, Deliver, Embedded, Event, Finished, Job, Scored
from openbook.engine.kv import BLOCK, Blocks, Row, root
from openbook.engine.model import Adapter, Piece, Runner
from openbook.engine.propose import Proposer
from openbook.errors import InputError
from openbook.model.config import TransformerConfig
from openbook.model.sample import Sampler, Token

READ_AT_ONCE = 8
"""Blocks of prompts that a step reads while nobody draws."""
SPECULATED_ROWS = 8
"""Rows of a step up to which proposals are checked: on a CPU so many cost little more than one."""


class Running:
    """One sequence, from its submission to its last event."""

    def __init__(self, job: Job, index: int, deliver: Deliver, adapter: Adapter | None) -> None:
        self.job, self.index, self.adapter, self._deliver = job, index, adapter, deliver
        self.cancelled = self.finished = self.begun = False
        self.cached_tokens = 0
        self.row: Row | None = None
        self.table: list[int] = []
        self.computed = 0
        self.salt = root(job.salt, "" if adapter is None else adapter.key)
        self._chain = self.salt  # the hash of the blocks published so far
        self.owes_scores = job.score_prompt
        self._scores: list[Token | None] = []
        self._sum: Tensor | None = None  # of the hidden states, for an embedding
        self.ids = list(job.prompt) or ([] if job.end is None else [job.end])
        self.given = len(self.ids)
        self.read_until = self.given - (job.sampling.max_tokens == 0 and not job.embed)  # nothing asks what follows the last token

    def begin(self, config: TransformerConfig) -> None:
        """Makes ready what a job needs, once. Raises InputError if it cannot be done by this model."""
        if self.begun:
            return
        self.begun = True
        job, room = self.job, config.context - self.read_until
        self.left = 0 if job.embed else min(job.sampling.max_tokens, room)
        if room < 0 or (not job.embed and job.sampling.max_tokens > 0 and room == 0):
            message = f"the prompt has {len(self.ids)} tokens, which leaves no room in the context of {config.context} tokens; shorten it"
            raise InputError(message)
        if not self.ids and (self.left or job.embed):
            raise InputError("an empty prompt needs an end-of-document token to start from")
        if odd := [identifier for identifier in (*self.ids, *job.logit_bias) if not 0 <= identifier < config.vocab_size]:
            raise InputError(f"{odd[0]} is not a token id of this model, which has {config.vocab_size} tokens")
        self.sampler = Sampler(job.sampling, job.mask, job.logit_bias)
        self._reset()

    def _reset(self) -> None:
        self._chain, self.computed = self.salt, 0
        self._scores = [None] * max(1, min(self.job.score_from, len(self.job.prompt))) if self.job.prompt else []
        self._sum = None

    def to_score(self, piece: Piece) -> tuple[int, list[int]]:
        """The tokens whose scores a piece of the prompt gives, and which of its rows gives the first."""
        if not self.owes_scores or not piece.together:
            return 0, []
        first = len(self._scores)
        return first - 1 - piece.start, self.ids[first : min(piece.start + len(piece.ids) + 1, self.given)]

    def accept(self, identifier: int) -> Literal["stop", "length"] | None:
        """The next token, unless it is the one that ends the sequence; gives why it ends, if it does."""
        if identifier == self.job.end:
            return "stop"
        self.sampler.accept(identifier)
        self.ids.append(identifier)
        self.left -= 1
        self.computed = min(self.computed, len(self.ids) - 1)
        return None if self.left else "length"

    @property
    def done(self) -> bool:
        return self.cancelled or self.finished

    @property
    def reading(self) -> bool:
        return self.computed < self.read_until

    @property
    def wants_nothing(self) -> bool:
        """Whether no token has to be computed for it."""
        return not self.left and not self.job.embed and not (self.owes_scores and len(self._scores) < len(self.job.prompt))

    @property
    def reusable(self) -> int:
        """Tokens at its beginning that need not be computed if the cache has them: not the last, nor those whose results are wanted."""
        if self.job.embed:
            return 0
        return min(self.read_until - 1, len(self._scores) - 1) if self.owes_scores else self.read_until - 1

    def tell(self, event: Event) -> None:
        if not self.done:
            self.finished = isinstance(event, Finished | Exception)
            self._deliver(self.index, event)

    def finish(self, reason: Literal["stop", "length"]) -> None:
        self.tell_scores()
        self.tell(Finished(reason, self.cached_tokens))

    def scored(self, found: Sequence[Token]) -> None:
        self._scores += found

    def tell_scores(self) -> None:
        if self.owes_scores:
            self.owes_scores = False
            self.tell(Scored(self._scores))

    def next_piece(self, proposer: Proposer | None, most: int) -> Piece:
        """The tokens to compute next: of the prompt, up to a block's end; or, of what was drawn before it gave up its blocks, at most a
        block; or the last one, with at most `most` proposals behind it."""
        start = self.computed
        assert self.row is not None
        if self.reading:
            stop = min(self.read_until, (start // BLOCK + 1) * BLOCK)
            return Piece(self.row, start, self.ids[start:stop], True, self.adapter)
        new = self.ids[start : start + BLOCK]
        if proposer is not None and len(new) == 1 and (most := min(most, self.left - 1)) > 0:
            new = new + proposer.propose(self.ids, most)[:most]
        return Piece(self.row, start, new, False, self.adapter)

    def publish(self, blocks: Blocks, piece: Piece) -> None:
        """A whole block of the prompt, just computed, can be found by others from now on."""
        if piece.together and len(piece.ids) == BLOCK:
            assert self.row is not None
            block = self.table[piece.start // BLOCK]
            self._chain = blocks.publish(block, self._chain, piece.ids, self.row.part(piece.start, piece.start + BLOCK))

    def start_from(self, blocks: Blocks, found: Sequence[int]) -> None:
        """Copies what the cache has; what comes then is computed."""
        assert self.row is not None
        for index, block in enumerate(found):
            self.row.part(index * BLOCK, (index + 1) * BLOCK).copy_(blocks.page(block).content)
            self._chain = blocks.page(block).key
        self.computed = self.cached_tokens = len(found) * BLOCK

    def follow(self, leader: Running) -> None:
        """Goes on from where a sequence with the same prompt has read it to."""
        assert self.row is not None and leader.row is not None
        self.row.part(0, leader.read_until).copy_(leader.row.part(0, leader.read_until))
        self._chain, self._scores = leader._chain, list(leader._scores)
        self.computed, self.cached_tokens = leader.read_until, leader.cached_tokens

    def add_hidden(self, hidden: Tensor) -> None:
        """hidden: (tokens, width), of the next tokens of a prompt to embed."""
        total = hidden.double().sum(0).cpu()
        self._sum = total if self._sum is None else self._sum + total
        if not self.reading:
            self.tell(Embedded(F.normalize(self._sum / self.read_until, dim=0).tolist()))
            self.finish("stop")

    def same_prompt(self, other: Running) -> bool:
        return (
            self.salt == other.salt
            and self.ids == other.ids[: other.given]
            and self.read_until == other.read_until
            and (self.owes_scores, self.job.score_from) == (other.owes_scores, other.job.score_from)
            and self.job.sampling.logprobs == other.job.sampling.logprobs
            and not (self.job.embed or other.job.embed)
        )

    def give_up(self) -> None:
        """Forgets what was computed."""
        self.row, self.table = None, []
        self._reset()


class Scheduler:
    """Keeps the sequences that wait and those that run, at most `slots`. Only the inference thread may call anything here; what touches
    `waiting` happens under the engine's lock."""

    def __init__(self, runner: Runner, slots: int, blocks: Blocks, proposer: Proposer | None) -> None:
        self.runner, self.slots, self.blocks, self._proposer = runner, slots, blocks, proposer
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []

    def reap(self) -> None:
        """Lets go of what is done, and ends what is late."""
        now = time.monotonic()
        for sequence in (*self.running, *self.waiting):
            if sequence.job.deadline is not None and now > sequence.job.deadline:
                sequence.tell(DeadlinePassed())
        for sequence in self.running:
            if sequence.done:
                self._let_go(sequence)
        self.running = [sequence for sequence in self.running if not sequence.done]
        self.waiting = deque(sequence for sequence in self.waiting if not sequence.done)

    def _let_go(self, sequence: Running) -> None:
        self.blocks.release(sequence.table)
        sequence.give_up()

    def admit(self) -> list[tuple[Running, list[int]]]:
        """Moves sequences from the queue to the slots, first come, first served, with the cached blocks that each begins with; they may be
        passed only by those who would wait for nothing but a prompt that is being read anyway."""
        admitted, passed = [], []
        while self.waiting and len(self.running) < self.slots:
            sequence = self.waiting.popleft()
            if not self._begin(sequence):
                continue
            found = self.blocks.find(sequence.salt, sequence.ids[: max(0, sequence.reusable)])
            if self._is_being_read(sequence, len(found)):
                passed.append(sequence)
                continue
            if not self._reserve(sequence, found):
                self.waiting.appendleft(sequence)
                break
            self.running.append(sequence)
            admitted.append((sequence, found))
        self.waiting.extendleft(reversed(passed))
        return admitted

    def _begin(self, sequence: Running) -> bool:
        """False if there is nothing to compute for it: it has been told why."""
        try:
            sequence.begin(self.runner.config)
        except InputError as error:
            sequence.tell(error)
        else:
            if sequence.wants_nothing:
                sequence.finish("length")
        return not sequence.done

    def _is_being_read(self, sequence: Running, found: int) -> bool:
        """Whether a running sequence is about to compute blocks that this one could take over."""
        for other in self.running:
            if other.reading and other.salt == sequence.salt and not other.done:
                if sequence.same_prompt(other):
                    return True
                most = min(sequence.reusable, other.read_until) // BLOCK
                if other.computed < common_blocks(sequence.ids, other.ids, most) * BLOCK > found * BLOCK:
                    return True
        return False

    def _reserve(self, sequence: Running, found: Sequence[int]) -> bool:
        """Blocks for the whole prompt and one token, some of them shared."""
        self.blocks.hold(found)
        new = self.blocks.take(blocks_for(min(sequence.read_until + 1, self.runner.config.context)) - len(found))
        if new is None:
            self.blocks.release(found)
            return False
        sequence.table = [*found, *new]
        return True

    def place(self, sequence: Running, found: Sequence[int]) -> None:
        """Gives an admitted sequence its row."""
        sequence.row = self.runner.new_row(len(sequence.ids) + sequence.left)
        sequence.start_from(self.blocks, found)

    def fork(self, leader: Running) -> list[Running]:
        """Waiting sequences with the prompt that this one has just read, which go on from there; whole blocks are shared."""
        forked = []
        for sequence in [one for one in self.waiting if one.begun and one.same_prompt(leader)]:
            if len(self.running) >= self.slots or not self._reserve(sequence, leader.table[: leader.read_until // BLOCK]):
                break
            sequence.row = self.runner.new_row(len(sequence.ids) + sequence.left)
            sequence.follow(leader)
            self.running.append(sequence)
            forked.append(sequence)
        for sequence in forked:
            self.waiting.remove(sequence)
        return forked

    def plan(self) -> Iterator[tuple[Running, Piece]]:
        """The pieces of the next step. A sequence that gives up its blocks for them goes back to the head of the queue."""
        planned = [(sequence, sequence.next_piece(self._proposer, most)) for sequence, most in self._chosen()]
        for sequence, piece in planned:
            if sequence.row is not None and self._grow(sequence, piece.start + len(piece.ids)):
                yield sequence, piece

    def _chosen(self) -> Iterator[tuple[Running, int]]:
        """Sequences, and how many proposals each may check."""
        drawing = [sequence for sequence in self.running if not sequence.reading]
        most = SPECULATED_ROWS // len(drawing) - 1 if drawing else 0
        yield from ((sequence, most) for sequence in drawing)
        reading = [sequence for sequence in self.running if sequence.reading]
        yield from ((sequence, 0) for sequence in reading[: 1 if drawing else READ_AT_ONCE])

    def _grow(self, sequence: Running, tokens: int) -> bool:
        """Blocks for so many tokens, taken from younger sequences if need be; False if it is itself the youngest and gives up."""
        while (missing := blocks_for(tokens) - len(sequence.table)) > 0:
            new = self.blocks.take(missing)
            if new is not None:
                sequence.table += new
                break
            youngest = self.running.pop()
            self._let_go(youngest)
            self.waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        return True

    def check(self) -> None:
        """Raises AssertionError if blocks and sequences do not agree."""
        self.blocks.check(sequence.table for sequence in self.running)


def blocks_for(tokens: int) -> int:
    return math.ceil(tokens / BLOCK)


def common_blocks(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many whole blocks, at most `most`, two texts begin with in common."""
    for index in range(most):
        part = slice(index * BLOCK, (index + 1) * BLOCK)
        if one[part] != other[part]:
            return index
    return most
