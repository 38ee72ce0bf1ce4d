"""From an engine's events to the text and log-probabilities of one choice, in parts that a stream can send as they come.

The parts of a choice put together are the choice: a stream and a whole answer are made by the same code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openbook.engine import Embedded, Event, Finished, Scored
from openbook.model.detokenize import Decoder
from openbook.model.generate import Token
from openbook.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Placed:
    """A token of the answer: where its text begins, in characters from the choice's beginning, and its scores; None for the very first."""

    offset: int
    id: int
    scores: Token | None


@dataclass
class Part:
    """A piece of a choice's text, the tokens that begin in it, and, in the last part, why the choice ended."""

    text: str
    tokens: list[Placed]
    finish_reason: str | None = None

    def append(self, other: Part) -> None:
        self.text += other.text
        self.tokens += other.tokens
        self.finish_reason = other.finish_reason


class Choice:
    """Takes the events of one sequence. `drawn` counts the tokens of the completion, `logprob` adds up theirs, `done` tells that the
    last part has been made.

    A token that begins where the text has been cut, or behind, is in no part.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], echo: list[int] | None = None) -> None:
        self._tokenizer, self._prompt = tokenizer, echo or []
        self._decoder = Decoder(stop)
        self._unsent: deque[Placed] = deque()
        self._sent = 0  # characters
        self._hidden = len(tokenizer.prefix) if tuple(self._prompt[: len(tokenizer.prefix)]) == tokenizer.prefix else 0
        self._opening = tokenizer.decode(self._prompt[self._hidden :])
        self._before = len(self._opening)
        self.drawn = self.cached = 0
        self.logprob = 0.0
        self.vector: list[float] = []
        self.done = False

    def take(self, event: Event) -> Part | None:
        """The part that an event settles, if any. To be called until `done`."""
        match event:
            case Scored():
                if self._prompt:  # else it was read for the cache alone
                    self._take_prompt(event)
                return self._part("")
            case Embedded():
                self.vector = event.vector
                return None
            case Finished():
                self.cached = event.cached_tokens
                return self._end(self._decoder.finish(), event.reason)
            case Token():
                self.drawn += 1
                self.logprob += event.logprob
                text = self._decoder.push(self._tokenizer.token_bytes(event.id))
                self._unsent.append(Placed(self._before + self._decoder.begin, event.id, event))
                return self._end(text, "stop") if self._decoder.stopped else self._part(text)
        raise event

    def _take_prompt(self, event: Scored) -> None:
        decoder = Decoder()
        for index, (identifier, scores) in enumerate(zip(self._prompt, event.tokens, strict=True)):
            decoder.push(self._tokenizer.token_bytes(identifier) if index >= self._hidden else b"")  # the prefix is no text
            self._unsent.append(Placed(decoder.begin, identifier, scores))

    def _end(self, text: str, reason: str) -> Part:
        self.done = True
        part = self._part(text) or Part("", [])
        part.finish_reason = "stop" if self._decoder.stopped else reason
        return part

    def _part(self, text: str) -> Part | None:
        text, self._opening = self._opening + text, ""
        if not text:
            return None
        self._sent += len(text)
        settled = []
        while self._unsent and self._unsent[0].offset < self._sent:
            settled.append(self._unsent.popleft())
        return Part(text, settled)


def legacy_logprobs(tokenizer: Tokenizer, tokens: list[Placed]) -> dict[str, Any]:
    """The shape of completions: four lists with an entry for each token; the likeliest tokens best first, and the token itself."""

    def alternatives(token: Token) -> dict[str, float]:
        best = {spelling(tokenizer, identifier): logprob for identifier, logprob in token.top}
        return best | {spelling(tokenizer, token.id): token.logprob}

    return {
        "tokens": [spelling(tokenizer, token.id) for token in tokens],
        "token_logprobs": [token.scores and token.scores.logprob for token in tokens],
        "top_logprobs": [token.scores and alternatives(token.scores) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def chat_logprobs(tokenizer: Tokenizer, tokens: list[Placed]) -> list[dict[str, Any]]:
    """The shape of chats: an object for each token."""

    def entry(identifier: int, logprob: float) -> dict[str, Any]:
        return {"token": spelling(tokenizer, identifier), "bytes": list(tokenizer.token_bytes(identifier)), "logprob": logprob}

    scored = [token.scores for token in tokens if token.scores is not None]
    return [{**entry(token.id, token.logprob), "top_logprobs": [entry(*pair) for pair in token.top]} for token in scored]


def spelling(tokenizer: Tokenizer, identifier: int) -> str:
    """A token's text, or "bytes:\\xe2\\x80" for one that is not whole characters, so that different tokens look different."""
    piece = tokenizer.token_bytes(identifier)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
