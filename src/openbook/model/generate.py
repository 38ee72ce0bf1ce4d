"""The one decoding loop: `openbook generate`, the server and evaluation's samples all draw their tokens here.

A `Generation` is one sequence with its key-value cache and its own random generator. Nothing of a sequence depends on another one or
on the device that computes the logits: draws are made on the CPU, from float64 probabilities, by inverting the cumulative
distribution at one uniform number per token. So a seed gives the same text alone, among others, and in the server.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openbook.errors import InputError, OpenbookError
from openbook.model.transformer import Cache, Transformer

CHUNK = 128
"""Prompt tokens in one forward pass: bounds the memory that logits take, and how long others wait while a long prompt is read."""


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens. Raises InputError for values that mean nothing.

    temperature: 0 takes the likeliest token. top_p: the smallest set of tokens with at least this probability (Holtzman et al. 2020);
    0 leaves the likeliest alone. top_k: at most so many tokens, 0 for all. min_p: only tokens at least so probable as this share of the
    likeliest one's probability. seed: None draws one. logprobs: how many of the likeliest alternatives each token reports.
    presence_penalty, frequency_penalty: what a drawn token's logit loses from then on, once and for each time (OpenAI's definition).
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int = 0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.max_tokens < 0:
            raise InputError(f"max_tokens = {self.max_tokens}: must be 0 or more")
        if not 0 <= self.temperature < math.inf:  # also false for NaN
            raise InputError(f"temperature = {self.temperature}: must be a number, 0 or more")
        if not 0 <= self.top_p <= 1:
            raise InputError(f"top_p = {self.top_p}: must be between 0 and 1")


class Mask(Protocol):
    """A grammar that a sequence follows: what may come next, token by token."""

    def mask(self) -> NDArray[np.bool_] | None:
        """Which ids may come next, the end token among them: (vocabulary,), or None for all."""

    def accept(self, identifier: int) -> None:
        """The next token is this one."""

    def fork(self) -> Mask:
        """An independent copy that stands at the same place."""


@dataclass(frozen=True)
class Token:
    """A token, its log-probability (nats, before temperature and top_p), and the likeliest alternatives with theirs, best first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Generation(Iterator[Token]):
    """The tokens that a model draws after a prompt, one by one.

    `finish_reason` is None until the last token has been given, then "stop" if the end token was drawn (it is not given itself), or
    "length" if max_tokens or the context's end was reached. With `score_prompt`, `prompt_scores` gets a `Token` for every token of the
    prompt, None for the first, which has nothing before it; `read` tells that the whole prompt has been read.

    Before a draw, logits change in this order: `logit_bias` by id, penalties, then `mask`, which it owns. Log-probabilities are of the
    logits before that.

    Raises InputError if the prompt does not fit the context, or leaves no room for one token where one is wanted.
    """

    def __init__(
        self,
        model: Transformer,
        prompt: Sequence[int],
        sampling: Sampling,
        end: int | None,
        score_prompt: bool = False,
        mask: Mask | None = None,
        logit_bias: Mapping[int, float] | None = None,
    ) -> None:
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
        self._model, self._sampling, self._end = model, sampling, end
        self._mask, self._logit_bias = mask, logit_bias or {}
        self._drawn: Counter[int] = Counter()
        self._left = min(sampling.max_tokens, room)
        self._scored = list(prompt) if score_prompt else []
        self._unread = start
        self.read = False
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**64)
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
        identifier = draw(self._adjusted(logits), self._sampling, self._random)
        if identifier == self._end:
            self.finish_reason = "stop"
            return None
        self._drawn[identifier] += 1
        if self._mask is not None:
            self._mask.accept(identifier)
        self._left -= 1
        self._unread = [identifier]
        if not self._left:
            self.finish_reason = "length"
        return _tokens(logits[None], [identifier], self._sampling.logprobs)[0]

    def _adjusted(self, logits: Tensor) -> Tensor:
        """(vocabulary,) -> (vocabulary,), a new tensor where anything changes."""
        mask = None if self._mask is None else self._mask.mask()
        presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
        penalised = self._drawn if presence or frequency else {}
        if mask is None and not self._logit_bias and not penalised:
            return logits
        adjusted = logits.clone()
        for identifier, bias in self._logit_bias.items():
            adjusted[identifier] += bias
        for identifier, count in penalised.items():
            adjusted[identifier] -= presence + frequency * count
        if mask is not None:
            adjusted[torch.from_numpy(~mask)] = -math.inf
        return adjusted

    def _score(self, hidden: Tensor, targets: list[int]) -> None:
        """hidden: (time, width), whose position i predicts targets[i]; the prompt's last position predicts none."""
        logits = self._model.logits(hidden[: len(targets)]).cpu()  # (time, vocabulary)
        self.prompt_scores += _tokens(logits, targets, self._sampling.logprobs)


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


def draw(logits: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """One id from (vocabulary,) logits on the CPU: temperature, top_k, min_p, top_p, the draw. Raises OpenbookError if not finite."""
    likeliest = int(logits.argmax())
    peak = float(logits[likeliest])
    if not math.isfinite(peak):
        raise OpenbookError("the model's logits are not finite: its weights are damaged, or its training diverged")
    if sampling.temperature == 0:
        return likeliest
    weights = ((logits.double() - peak) / sampling.temperature).exp()  # (vocabulary,), 1 for the likeliest
    if 0 < sampling.top_k < len(weights):
        weights[logits.argsort(descending=True, stable=True)[sampling.top_k :]] = 0
    if sampling.min_p:
        weights[weights < sampling.min_p] = 0
    if sampling.top_p < 1:
        weights[_outside_nucleus(logits, weights, sampling.top_p)] = 0
    cumulative = weights.cumsum(0)
    uniform = torch.rand((), generator=random, dtype=torch.float64)  # in [0, 1): the first cumulative weight above it has weight itself
    return int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))


def _outside_nucleus(logits: Tensor, weights: Tensor, top_p: float) -> Tensor:
    """Ids to leave out: those that have at least top_p of all weight before them, going from the likeliest down."""
    ids = logits.argsort(descending=True, stable=True)
    ordered = weights[ids]
    before = ordered.cumsum(0) - ordered
    outside = before >= top_p * ordered.sum()
    outside[0] = False
    return ids[outside]


def _tokens(logits: Tensor, ids: Sequence[int], top: int) -> list[Token]:
    """logits: (time, vocabulary), a row for each id."""
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
    if not top:
        return [Token(identifier, logprob, ()) for identifier, logprob in zip(ids, own, strict=True)]
    best = logprobs.topk(min(top, logprobs.shape[1]))
    rows = zip(ids, own, best.indices.tolist(), best.values.tolist(), strict=True)
    return [Token(identifier, logprob, tuple(zip(others, values, strict=True))) for identifier, logprob, others, values in rows]
