"""The plain decoding loop: one sequence after another through the model as it was trained. What serves many at once is
`openbook.engine`, which draws in the same way and is tested by this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from openbook.errors import InputError
from openbook.model.sample import Mask, Sampler, Sampling, Token, tokens
from openbook.model.transformer import Cache, Transformer

__all__ = ["CHUNK", "Generation", "Mask", "Sampling", "Token", "generate", "score"]

CHUNK = 128
"""Prompt tokens in one forward pass: bounds the memory that logits take, and how long others wait while a long prompt is read."""


class Generation(Iterator[Token]):
    """The tokens that a model draws after a prompt, one by one.

    `finish_reason` is None until the last token has been given, then "stop" if the end token was drawn (it is not given itself), or
    "length" if max_tokens or the context's end was reached. With `score_prompt`, `prompt_scores` gets a `Token` for every token of the
    prompt, None for the first, which has nothing before it; `read` tells that the whole prompt has been read.

    Raises InputError if the prompt does not fit the context, or leaves no room for one token where one is wanted.
    """

    def __init__(self, model: Transformer, prompt: Sequence[int], sampling: Sampling, end: int | None, score_prompt: bool = False) -> None:
        context = model.config.context
        start = list(prompt) or ([] if end is None else [end])
        room = context - len(start)
        wants_tokens = sampling.max_tokens > 0
        if room < 0 or (wants_tokens and room == 0):
            raise InputError(f"the prompt has {len(start)} tokens, which leaves no room in the context of {context} tokens; shorten it")
        if wants_tokens and not start:
            raise InputError("an empty prompt needs an end-of-document token to start from")
        self.finish_reason: Literal["stop", "length"] | None = None
        self.prompt_scores: list[Token | None] = [None] if prompt and score_prompt else []
        self._model, self._sampler, self._end = model, Sampler(sampling), end
        self._left = min(sampling.max_tokens, room)
        self._scored = list(prompt) if score_prompt else []
        self._unread = start
        self.read = False
        if self._left or len(self._scored) > 1:
            self._cache = Cache(model, len(start) + self._left)
        else:
            self.read, self.finish_reason = True, "length"

    def __next__(self) -> Token:
        while self.finish_reason is None:
            token = self.advance()
            if token is not None:
                return token
        raise StopIteration

    @torch.no_grad()  # not inference_mode: the model keeps its rotary tables, and training could not use tables made under it
    def advance(self) -> Token | None:
        """A bounded piece of work: a chunk of the prompt, or one token. None if there is no token to give yet, or none any more."""
        if self.finish_reason is not None:
            return None
        first = self._cache.length
        ids, self._unread = self._unread[:CHUNK], self._unread[CHUNK:]
        hidden = self._model(torch.tensor([ids], device=self._model.embedding.weight.device), self._cache)[0]  # (time, width)
        if first + 1 < len(self._scored):
            self._score(hidden, self._scored[first + 1 : first + 1 + len(ids)])
        self.read = not self._unread
        if not self.read:
            return None
        if not self._left:
            self.finish_reason = "length"
            return None
        return self._draw(hidden[-1])

    def _draw(self, hidden: Tensor) -> Token | None:
        logits = self._model.logits(hidden).cpu()  # (vocabulary,)
        identifier = self._sampler.draw(logits)
        if identifier == self._end:
            self.finish_reason = "stop"
            return None
        self._sampler.accept(identifier)
        self._left -= 1
        self._unread = [identifier]
        if not self._left:
            self.finish_reason = "length"
        return tokens(logits[None], [identifier], [self._sampler.sampling.logprobs])[0]

    def _score(self, hidden: Tensor, targets: list[int]) -> None:
        """hidden: (time, width), whose position i predicts targets[i]; the prompt's last position predicts none."""
        logits = self._model.logits(hidden[: len(targets)]).cpu()  # (time, vocabulary)
        self.prompt_scores += tokens(logits, targets, [self._sampler.sampling.logprobs] * len(targets))


def generate(model: Transformer, prompt: Sequence[int], sampling: Sampling, end: int | None) -> Generation:
    """Draws tokens after a prompt until `end` is drawn, max_tokens have been, or the context is full; see `Generation`.

    An empty prompt starts from `end`, the end-of-document token: the beginning of a document.
    """
    return Generation(model, prompt, sampling, end)


def score(model: Transformer, ids: Sequence[int], top: int = 0) -> list[Token | None]:
    """The log-probability of every token given those before it, with the `top` likeliest alternatives; None for the first.

    Raises InputError if the ids do not fit the context.
    """
    reading = Generation(model, ids, Sampling(max_tokens=0, logprobs=top), end=None, score_prompt=True)
    while reading.finish_reason is None:
        reading.advance()
    return reading.prompt_scores
