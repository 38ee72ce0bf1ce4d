"""What an engine is asked, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from openbook.errors import OpenbookError
from openbook.model.sample import Mask, Sampling, Token


@dataclass(frozen=True)
class Job:
    """One sequence to generate. What is generated depends on the prompt, the sampling and the adapter, and on nothing that runs beside it.

    prompt: token ids; an empty one starts from `end`, the beginning of a document. end: the token that ends it, which is not given.
    score_prompt: the prompt's tokens are scored as well, from position `score_from` on. mask: the sequence's own. logit_bias: by id.
    embed: nothing is generated, the prompt's embedding is the only event before the last. salt: whose it is; sequences with different
    salts share nothing in the cache. adapter: name of one that the engine has loaded. deadline: on `time.monotonic`'s clock.
    """

    prompt: Sequence[int]
    sampling: Sampling
    end: int | None
    score_prompt: bool = False
    mask: Mask | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    embed: bool = False
    salt: str = ""
    adapter: str | None = None
    deadline: float | None = None
    score_from: int = 0


@dataclass(frozen=True)
class Scored:
    """The prompt of a sequence, scored: comes before its first token. None for tokens that were not to be scored, and for the first."""

    tokens: list[Token | None]


@dataclass(frozen=True)
class Embedded:
    """The prompt of a sequence as a vector of length 1, (width,): the mean of its final hidden states."""

    vector: list[float]


@dataclass(frozen=True)
class Finished:
    """The last event of a sequence that ended well: "stop" or "length". `cached_tokens` of the prompt did not have to be read."""

    reason: str
    cached_tokens: int = 0


Event = Scored | Token | Embedded | Finished | Exception
"""What an engine tells of a sequence. An exception is its last event."""

Deliver = Callable[[int, Event], None]
"""Is told (index of the job, event), on the inference thread, and must return at once."""


class QueueFull(OpenbookError):
    """More sequences wait than the engine lets wait."""


class DeadlinePassed(OpenbookError):
    """A sequence's time was over before it was done."""

    def __init__(self) -> None:
        super().__init__("the time limit of the request has passed")


class EngineClosed(OpenbookError):
    """The engine ends: it takes no more work, and drops what it has."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")
