"""From an engine's events to the text and log-probabilities of one choice, in parts that a stream can send as they come.

The parts of a choice put together are the choice: a stream and a whole answer are made by the same code.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from openbook.model.detokenize import Decoder
from openbook.model.generate import Token
from openbook.model.tokenizer import Tokenizer
from openbook.serve.engine import Finished, Scored


@dataclass
class Logprobs:
    """The legacy shape: four lists with an entry for each token; offsets count characters from the beginning of the choice's text."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def extend(self, other: Logprobs) -> None:
        self.tokens += other.tokens
        self.token_logprobs += other.token_logprobs
        self.top_logprobs += other.top_logprobs
        self.text_offset += other.text_offset


@dataclass
class Part:
    """A piece of a choice's text, the tokens that begin in it, and, in the last part, why the choice ended."""

    text: str
    logprobs: Logprobs | None
    finish_reason: str | None = None

    def append(self, other: Part) -> None:
        self.text += other.text
        if self.logprobs is not None and other.logprobs is not None:
            self.logprobs.extend(other.logprobs)
        self.finish_reason = other.finish_reason

    def wire(self, index: int) -> dict[str, Any]:
        logprobs = None if self.logprobs is None else vars(self.logprobs)
        return {"index": index, "text": self.text, "logprobs": logprobs, "finish_reason": self.finish_reason}


class Choice:
    """Takes the events of one sequence. `tokens` counts the tokens of the completion, `done` tells that its last part has been made.

    A token that begins where the text has been cut, or behind, is left out of the log-probabilities.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], echo: bool, logprobs: bool, stop: list[str]) -> None:
        self._tokenizer, self._prompt, self._with_logprobs = tokenizer, prompt, logprobs
        self._decoder = Decoder(stop)
        self._unsent: deque[tuple[int, int, Token | None]] = deque()  # (offset, id, scores)
        self._sent = 0  # characters
        self._hidden = len(tokenizer.prefix) if tuple(prompt[: len(tokenizer.prefix)]) == tokenizer.prefix else 0
        self._opening = tokenizer.decode(prompt[self._hidden :]) if echo else ""
        self._before = len(self._opening)
        self.tokens = 0
        self.done = False

    def take(self, event: Scored | Token | Finished) -> Part | None:
        """The part that an event settles, if any. To be called until `done`."""
        if isinstance(event, Scored):
            self._take_prompt(event)
            return self._part("")
        if isinstance(event, Finished):
            return self._end(self._decoder.finish(), event.reason)
        self.tokens += 1
        text = self._decoder.push(self._tokenizer.token_bytes(event.id))
        self._unsent.append((self._before + self._decoder.begin, event.id, event))
        return self._end(text, "stop") if self._decoder.stopped else self._part(text)

    def _take_prompt(self, event: Scored) -> None:
        decoder = Decoder()
        for index, (identifier, scores) in enumerate(zip(self._prompt, event.tokens, strict=True)):
            decoder.push(self._tokenizer.token_bytes(identifier) if index >= self._hidden else b"")  # the prefix is no text
            self._unsent.append((decoder.begin, identifier, scores))

    def _end(self, text: str, reason: str) -> Part:
        self.done = True
        part = self._part(text) or Part("", Logprobs() if self._with_logprobs else None)
        part.finish_reason = "stop" if self._decoder.stopped else reason
        return part

    def _part(self, text: str) -> Part | None:
        text, self._opening = self._opening + text, ""
        if not text:
            return None
        self._sent += len(text)
        return Part(text, self._settled() if self._with_logprobs else None)

    def _settled(self) -> Logprobs:
        """The tokens that begin in the text sent so far."""
        settled = Logprobs()
        while self._unsent and self._unsent[0][0] < self._sent:
            offset, identifier, scores = self._unsent.popleft()
            settled.tokens.append(spelling(self._tokenizer, identifier))
            settled.token_logprobs.append(scores.logprob if scores else None)
            settled.top_logprobs.append(self._alternatives(scores) if scores else None)
            settled.text_offset.append(offset)
        return settled

    def _alternatives(self, token: Token) -> dict[str, float]:
        """The likeliest tokens, best first, and the token itself."""
        best = {spelling(self._tokenizer, identifier): logprob for identifier, logprob in token.top}
        return best | {spelling(self._tokenizer, token.id): token.logprob}


def spelling(tokenizer: Tokenizer, identifier: int) -> str:
    """A token's text, or "bytes:\\xe2\\x80" for one that is not whole characters, so that different tokens look different."""
    piece = tokenizer.token_bytes(identifier)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
