"""How a token is drawn from logits, and what is told of it: one order of steps, for every loop that draws.

Logits change by `logit_bias`, then penalties, then the mask; then temperature, top_k, min_p, top_p, and the draw. A draw inverts the
cumulative distribution, in float64 on the CPU, at one uniform number per token from the sequence's own generator. So a seed gives the
same tokens alone and among others, and whether a token was proposed beforehand or not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openbook.errors import InputError, OpenbookError

CANDIDATES = 256
"""A nucleus is looked for among so many of the likeliest tokens first: sorting a whole vocabulary costs more than all else of a draw."""


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
        for name in ("max_tokens", "logprobs", "top_k"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} = {getattr(self, name)}: must be 0 or more")
        if not 0 <= self.temperature < math.inf:  # also false for NaN
            raise InputError(f"temperature = {self.temperature}: must be a number, 0 or more")
        for name in ("top_p", "min_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be between 0 and 1")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name} = {getattr(self, name)}: must be a number")


@dataclass(frozen=True)
class Token:
    """A token, its log-probability (nats, of the logits as the model gave them), and the likeliest alternatives with theirs, best first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Mask(Protocol):
    """A grammar that a sequence follows: what may come next, token by token."""

    def mask(self) -> NDArray[np.bool_] | None:
        """Which ids may come next, the end token among them: (vocabulary,), or None for all."""

    def accept(self, identifier: int) -> None:
        """The next token is this one."""

    def fork(self) -> Mask:
        """An independent copy that stands at the same place."""


class Sampler:
    """The draws of one sequence: its random generator, what it has drawn, its mask (which it owns) and its biases by id."""

    def __init__(self, sampling: Sampling, mask: Mask | None = None, logit_bias: Mapping[int, float] | None = None) -> None:
        self.sampling, self._mask, self._bias = sampling, mask, logit_bias or {}
        self._penalised = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._drawn: Counter[int] = Counter()
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**64)

    @property
    def takes_the_likeliest(self) -> bool:
        """Whether a draw is the plain argmax of the logits."""
        return self.sampling.temperature == 0 and self._mask is None and not self._bias and not self._penalised

    def draw(self, logits: Tensor) -> int:
        """An id from (vocabulary,) logits on the CPU. Raises OpenbookError if they are not finite, or the mask lets nothing through."""
        return draw(self._adjusted(logits), self.sampling, self._random)

    def accept(self, identifier: int) -> None:
        """The sequence goes on with this token."""
        if self._penalised:
            self._drawn[identifier] += 1
        if self._mask is not None:
            self._mask.accept(identifier)

    def _adjusted(self, logits: Tensor) -> Tensor:
        """A new tensor where anything changes."""
        allowed = None if self._mask is None else self._mask.mask()
        if allowed is None and not self._bias and not self._drawn:
            return logits
        adjusted = logits.clone()
        for identifier, bias in self._bias.items():
            adjusted[identifier] += bias
        for identifier, count in self._drawn.items():
            adjusted[identifier] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * count
        if allowed is not None:
            if not allowed.any():
                raise OpenbookError("the grammar lets no token through")
            adjusted[: len(allowed)][torch.from_numpy(~allowed)] = -math.inf
            adjusted[len(allowed) :] = -math.inf  # rows of padding, which are no tokens
        return adjusted


def draw(logits: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """One id from (vocabulary,) logits on the CPU. Raises OpenbookError if they are not finite."""
    likeliest = int(logits.argmax())
    peak = finite(float(logits[likeliest]))
    if sampling.temperature == 0:
        return likeliest
    weights = ((logits.double() - peak) / sampling.temperature).exp()  # (vocabulary,), 1 for the likeliest
    if 0 < sampling.top_k < len(weights):
        weights[logits.argsort(descending=True, stable=True)[sampling.top_k :]] = 0
    if sampling.min_p:
        weights[weights < sampling.min_p] = 0
    if sampling.top_p < 1:
        weights = _nucleus(logits, weights, sampling.top_p)
    cumulative = weights.cumsum(0)
    uniform = torch.rand((), generator=random, dtype=torch.float64)  # in [0, 1): the first cumulative weight above it has weight itself
    return int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))


def finite(peak: float) -> float:
    """The largest logit. Raises OpenbookError if it is not finite."""
    if not math.isfinite(peak):
        raise OpenbookError("the model's logits are not finite: its weights are damaged, or its training diverged")
    return peak


def _nucleus(logits: Tensor, weights: Tensor, top_p: float) -> Tensor:
    """The weights, 0 outside the nucleus: the ids that have less than top_p of all weight before them, from the likeliest down."""
    wanted = top_p * weights.sum()
    ids = _likeliest(logits, CANDIDATES)
    if weights[ids].sum() < wanted:
        ids = logits.argsort(descending=True, stable=True)
    ordered = weights[ids]
    inside = ordered.cumsum(0) - ordered < wanted
    inside[0] = True
    kept = torch.zeros_like(weights)
    kept[ids[inside]] = ordered[inside]
    return kept


def _likeliest(logits: Tensor, count: int) -> Tensor:
    """The first ids of a stable sort from the likeliest down, at least `count` of them and all that are as likely as the last."""
    least = logits.topk(min(count, len(logits))).values[-1]
    ids = (logits >= least).nonzero()[:, 0]
    return ids[logits[ids].argsort(descending=True, stable=True)]


def tokens(logits: Tensor, ids: Sequence[int], tops: Iterable[int]) -> list[Token]:
    """logits: (time, vocabulary), a row for each id, which reports so many alternatives as the entry of `tops` says."""
    logprobs, tops = logits.log_softmax(-1), list(tops)
    own = logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
    most = min(max(tops, default=0), logits.shape[1])
    if not most:
        return [Token(identifier, logprob, ()) for identifier, logprob in zip(ids, own, strict=True)]
    best = logprobs.topk(most)
    rows = zip(ids, own, tops, best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        Token(identifier, logprob, tuple(zip(others[:top], values[:top], strict=True))) for identifier, logprob, top, others, values in rows
    ]
