"""What models that are asked by tokens have in common: how pairs of texts become rows of tokens.

The rules are lm-eval's, so that scores agree with it: a text begins with the tokens that the tokenizer puts before every text (Llama's and
OPT's do); spaces at a context's end move to the continuation; the pair is encoded as one text and cut after as many tokens as the context
alone has; a row that is too long loses its beginning, as in GPT-3 (Brown et al. 2020, section 2.4, conditions on as much as fits the
window). A continuation that does not fit alone is scored as long texts are: in windows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from openbook.errors import InputError
from openbook.evaluate.models.interface import DoesNotFit, Request, Score, Written
from openbook.model.score import windows


@dataclass(frozen=True)
class Row:
    """Ids to read, at least one, and the ids after them to score; together at most the window and one more."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class TokenModel(ABC):
    """A model of tokens. `window`: how many it can read. `beginning`: the id that stands before a document. `prefix`: what the tokenizer
    puts before every text.

    stride: by how many tokens the windows of a long text move; None for the whole window, as lm-eval does.
    """

    identity: str
    window: int
    beginning: int
    prefix: tuple[int, ...] = ()
    stride: int | None = None

    @property
    def longest(self) -> int:
        """Ids of a row, at most: the last one is predicted, never read."""
        return self.window + 1

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with nothing added."""

    @abstractmethod
    def score_rows(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        """Of each row the log-probability of its continuation in nats, and whether it is the greedy one."""

    @abstractmethod
    def write(self, prompts: Sequence[list[int]], requests: Sequence[Request]) -> list[str]:
        """The continuations of ids that leave room in the window, without the stop strings."""

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        bare = [context.rstrip() for context, _ in pairs]
        contexts = list(dict.fromkeys(text for text in bare if text))
        known = {text: [*self.prefix, *ids] for text, ids in zip(contexts, self.encode_all(contexts), strict=True)} | {"": [self.beginning]}
        wholes = self.encode_all([context + continuation for context, continuation in pairs])
        parts, scores = [], []
        for (context, continuation), text, whole in zip(pairs, bare, wholes, strict=True):
            before = known[text]
            scored = whole[len(before) - len(self.prefix) :] if text else whole
            if not scored:
                raise InputError(f"the continuation {continuation!r} of {context[-40:]!r} has no token to score; it should add some text")
            dropped = max(0, len(before) + min(len(scored), self.longest - 1) - self.longest)
            parts.append(self._rows([*before[dropped:], *scored], len(scored)))
            scores.append((len(scored), len(continuation.encode()), dropped))
        return [Score(*found, *counts) for found, counts in zip(self._summed(parts), scores, strict=True)]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        documents = self.encode_all(texts)
        for text, ids in zip(texts, documents, strict=True):
            if not ids:
                raise InputError(f"the text {text!r} has no token to score")
        found = self._summed([self._rows([self.beginning, *ids], len(ids)) for ids in documents])
        return [Score(*one, len(ids), len(text.encode())) for one, ids, text in zip(found, documents, texts, strict=True)]

    def _rows(self, ids: Sequence[int], scored: int) -> list[Row]:
        """The last `scored` ids, each scored once: in one row if the window has room for all, else in several."""
        first = len(ids) - scored
        if len(ids) <= self.longest:
            return [Row(tuple(ids[:first]), tuple(ids[first:]))]
        return [
            Row(tuple(ids[part.start : part.scored]), tuple(ids[part.scored : part.stop + 1]))
            for part in windows(len(ids), self.longest - 1, min(self.stride or self.window, self.longest - 1))
        ]

    def _summed(self, parts: Sequence[Sequence[Row]]) -> list[tuple[float, bool]]:
        """Of each text, which may be in several rows, its log-probability and whether it is the greedy one."""
        found = iter(self.score_rows([row for rows in parts for row in rows]))
        own = [list(islice(found, len(rows))) for rows in parts]
        return [(sum(logprob for logprob, _ in some), all(greedy for _, greedy in some)) for some in own]

    def generate_until(self, requests: Sequence[Request]) -> list[Written]:
        prompts, dropped = [], []
        for request, encoded in zip(requests, self.encode_all([request.prompt for request in requests]), strict=True):
            room = self.window - request.max_tokens
            if room < 1:
                raise DoesNotFit(f"max_tokens = {request.max_tokens} leaves no room for a prompt in the model's window of {self.window}")
            ids = [*self.prefix, *encoded] or [self.beginning]
            prompts.append(ids[-room:])
            dropped.append(max(0, len(ids) - room))
        return [Written(text, cut) for text, cut in zip(self.write(prompts, requests), dropped, strict=True)]
