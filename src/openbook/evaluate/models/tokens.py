"""What models that we run ourselves have in common: how pairs of texts become rows of tokens.

The rules are lm-eval's, so that scores agree with it: spaces at a context's end move to the continuation; the pair is encoded as one
text and cut after as many tokens as the context alone has; a row that is too long loses its beginning, as in GPT-3 (Brown et al. 2020,
section 2.4, conditions on as much as fits the window).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from openbook.errors import InputError
from openbook.evaluate.models.interface import DoesNotFit, Request, Score, Written
from openbook.model.score import windows


@dataclass(frozen=True)
class Row:
    """Ids to read, at least one, and the ids after them to score; together at most the window and one more."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class TokenModel(ABC):
    """A model of tokens. `window`: how many it can read. `beginning`: the id that stands before a document. `end`: after one.

    stride: by how many tokens the windows of a long text move; None for the whole window, as lm-eval does.
    """

    identity: str
    window: int
    beginning: int
    stride: int | None = None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with nothing added."""

    @abstractmethod
    def score_rows(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        """Of each row the log-probability of its continuation in nats, and whether it is the greedy one."""

    @abstractmethod
    def write(self, prompts: Sequence[list[int]], requests: Sequence[Request]) -> list[str]:
        """The continuations of ids that leave room in the window, without the stop strings."""

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        known: dict[str, list[int]] = {}
        encoded = [self._row(context, continuation, known) for context, continuation in pairs]
        scored = self.score_rows([row for row, _ in encoded])
        return [
            Score(logprob, greedy, len(row.continuation), len(continuation.encode()), dropped)
            for (row, dropped), (logprob, greedy), (_, continuation) in zip(encoded, scored, pairs, strict=True)
        ]

    def _row(self, context: str, continuation: str, known: dict[str, list[int]]) -> tuple[Row, int]:
        """The row of a pair, and how many ids it lost; `known` remembers the ids of contexts."""
        bare = context.rstrip()
        if bare not in known:
            known[bare] = self.encode(bare) if bare else [self.beginning]
        before = known[bare]
        whole = self.encode(context + continuation)
        scored = whole[len(before) :] if bare else whole
        if not scored:
            raise InputError(f"the continuation {continuation!r} of {context[-40:]!r} has no token to score; it should add some text")
        if len(scored) > self.window:
            raise DoesNotFit(f"the continuation {continuation[:40]!r}… has {len(scored)} tokens; the model's window is {self.window}")
        dropped = max(0, len(before) + len(scored) - self.window - 1)
        return Row(tuple(before[dropped:]), tuple(scored)), dropped

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        documents = [[self.beginning, *self.encode(text)] for text in texts]
        for text, ids in zip(texts, documents, strict=True):
            if len(ids) == 1:
                raise InputError(f"the text {text!r} has no token to score")
        stride = self.stride or self.window
        parts = [part for index, ids in enumerate(documents) for part in windows(len(ids), self.window, stride, index)]
        rows = []
        for part in parts:
            ids = documents[part.document]
            rows.append(Row(tuple(ids[part.start : part.scored]), tuple(ids[part.scored : part.stop + 1])))
        totals, greedy = [0.0] * len(texts), [True] * len(texts)
        for part, (logprob, likeliest) in zip(parts, self.score_rows(rows), strict=True):
            totals[part.document] += logprob
            greedy[part.document] &= likeliest
        return [
            Score(total, likeliest, len(ids) - 1, len(text.encode()))
            for total, likeliest, ids, text in zip(totals, greedy, documents, texts, strict=True)
        ]

    def generate_until(self, requests: Sequence[Request]) -> list[Written]:
        prompts, dropped = [], []
        for request in requests:
            room = self.window - request.max_tokens
            if room < 1:
                raise DoesNotFit(f"max_tokens = {request.max_tokens} leaves no room for a prompt in the model's window of {self.window}")
            ids = self.encode(request.prompt) or [self.beginning]
            prompts.append(ids[-room:])
            dropped.append(max(0, len(ids) - room))
        return [Written(text, cut) for text, cut in zip(self.write(prompts, requests), dropped, strict=True)]
