"""One step of the engine: what was planned is computed, tokens are drawn from it, and whoever waits for them is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from openbook.engine.model import Piece, Runner
from openbook.engine.scheduler import Running
from openbook.model.sample import Token, finite, tokens


@dataclass
class Computed:
    """A sequence's rows among the logits of a step: from `first` on those that score tokens of the prompt, then those to draw from."""

    sequence: Running
    piece: Piece
    first: int
    targets: list[int]
    draws: int


@dataclass
class Drawn:
    """What a sequence drew in a step: ids, the row of the first, and why it ends now, if it does."""

    sequence: Running
    row: int
    ids: list[int] = field(default_factory=list)
    reason: Literal["stop", "length"] | None = None


def compute(runner: Runner, pieces: Sequence[tuple[Running, Piece]]) -> tuple[list[Computed], Tensor]:
    """Runs the pieces; gives what each comes to, and the logits of all rows that are wanted: (rows, vocabulary)."""
    hidden = runner.forward([piece for _, piece in pieces])
    computed: list[Computed] = []
    rows: list[int] = []
    place = 0
    for sequence, piece in pieces:
        stop = piece.start + len(piece.ids)
        sequence.computed = stop
        if sequence.job.embed:
            sequence.add_hidden(hidden[place : place + len(piece.ids)])
        else:
            begin, targets = sequence.to_score(piece)
            draws = max(0, stop - len(sequence.ids) + 1) if sequence.left else 0
            computed.append(Computed(sequence, piece, len(rows), targets, draws))
            rows += range(place + begin, place + begin + len(targets))
            rows += range(place + len(piece.ids) - draws, place + len(piece.ids))
        place += len(piece.ids)
    return computed, runner.logits(hidden[rows]) if rows else hidden.new_empty(0, runner.config.vocab_size).cpu()


def draw_all(computed: Sequence[Computed], logits: Tensor, fork: Callable[[Running], list[Running]]) -> list[Drawn]:
    """Draws for every sequence that has come to its end, and for those that `fork` finds to have the same prompt. Whatever goes wrong with
    one sequence, the others go on."""
    highest, ids = logits.amax(1).tolist(), logits.numpy().argmax(1).tolist()  # numpy finds places many times faster than torch
    drawn: list[Drawn] = []

    def pick(sequence: Running, row: int) -> int:
        if not sequence.sampler.takes_the_likeliest:
            return sequence.sampler.draw(logits[row])
        finite(highest[row])
        return ids[row]

    def one(sequence: Running, row: int, proposed: Sequence[int] | None) -> None:
        """Draws until a proposal is not what was drawn; without proposals, which are None if nothing is to be drawn, once."""
        result = Drawn(sequence, row)
        drawn.append(result)
        if proposed is None:
            result.reason = None if sequence.reading or sequence.left else "length"
            return
        try:
            for offset in range(len(proposed) + 1):
                identifier = pick(sequence, row + offset)
                result.reason = sequence.accept(identifier)
                if result.reason != "stop":
                    result.ids.append(identifier)
                if result.reason or (offset < len(proposed) and proposed[offset] != identifier):
                    break
        except Exception as error:
            sequence.tell(error)

    for part in computed:
        sequence, row = part.sequence, part.first + len(part.targets)
        if part.targets:
            top = [sequence.job.sampling.logprobs] * len(part.targets)
            sequence.scored(tokens(logits[part.first : row], part.targets, top))
        followers = fork(sequence) if part.piece.together and not sequence.reading else []
        proposed = list(part.piece.ids[len(part.piece.ids) - part.draws + 1 :]) if part.draws else None
        one(sequence, row, proposed)
        for follower in followers:
            one(follower, row, [] if follower.left else None)
    return drawn


def tell(drawn: Sequence[Drawn], logits: Tensor) -> None:
    """Tells of scores, tokens and ends, in this order for each sequence."""
    rows = [result.row + offset for result in drawn for offset in range(len(result.ids))]
    ids = [identifier for result in drawn for identifier in result.ids]
    tops = [result.sequence.job.sampling.logprobs for result in drawn for _ in result.ids]
    wanted = logits if rows == list(range(len(logits))) else logits[rows]  # the first is frequent, and spares a copy
    made = iter(tokens(wanted, ids, tops) if rows else [])
    for result in drawn:
        sequence = result.sequence
        if not sequence.reading:
            sequence.tell_scores()
        for _ in result.ids:
            token: Token = next(made)
            sequence.tell(token)
        if result.reason is not None:
            sequence.finish(result.reason)
