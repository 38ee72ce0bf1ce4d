"""What an evaluation asks of a model: the three calls of lm-eval (lm_eval.api.model.LM), with the counts that its metrics need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from openbook.errors import InputError


class CannotScore(InputError):
    """The model can continue texts, but does not tell their probability."""


@dataclass(frozen=True)
class Score:
    """The log-probability (nats) of a text, and whether each of its tokens was the likeliest one.

    tokens, bytes: of the scored text. dropped: tokens of the context that did not fit the window and were cut off on its left.
    """

    logprob: float
    greedy: bool
    tokens: int
    bytes: int
    dropped: int = 0


@dataclass(frozen=True)
class Request:
    """A text to continue until a stop string, the end of the document, or max_tokens: greedily, or drawn by the seed."""

    prompt: str
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """A continuation without its stop string; dropped as in `Score`."""

    text: str
    dropped: int = 0


class LanguageModel(Protocol):
    """Anything that answers the three calls; answers come in the order of the questions."""

    identity: str
    """Changes when the scores could: a digest of the weights, or an endpoint's address and model."""

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Of each (context, continuation) the continuation's score. The space between the two belongs to the continuation. An empty
        context is the beginning of a document. Raises InputError for a continuation of no tokens."""
        ...

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        """Of each text, from the beginning of a document, every token scored once; longer texts in several windows."""
        ...

    def generate_until(self, requests: Sequence[Request]) -> list[Written]: ...
