"""Our own transformer as a model that can be asked.

Texts are written by the inference engine, as a server writes them. Scores come from the model itself: all continuations of one context
share its forward pass, which is read once; its keys and values are copied to a row for each continuation, and only the continuations are
read by row. Logits are computed for scored positions alone. `openbook.engine.Engine.score` gives the same scores, as fast for a model of
GPT-2's size (0.9 to 1.3 times), but packs the weights first, and takes up to twice as long for a model of a million parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from queue import SimpleQueue
from typing import TypeVar
from weakref import finalize

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.engine import Engine as Inference
from openbook.engine import Event, Finished, Job
from openbook.evaluate.models.interface import Request
from openbook.evaluate.models.tokens import Row, TokenModel
from openbook.model.detokenize import Decoder
from openbook.model.sample import Sampling, Token
from openbook.model.score import LOGITS_AT_ONCE
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Cache, Transformer

Part = TypeVar("Part")


QUEUE = 2**31
"""Texts that may wait to be written: as many as anybody asks for."""


class Engine(TokenModel):
    """batch: rows in one forward pass, and texts written side by side, at most. Scores do not depend on it but for the rounding of fp32,
    texts not at all. From the first text that is written on, the model's weights must stay as they are."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, identity: str, batch: int = 16, stride: int | None = None) -> None:
        self.model, self.tokenizer, self.identity, self.batch, self.stride = model, tokenizer, identity, batch, stride
        self.window = model.config.context
        self.beginning, self.prefix = tokenizer.begin_of_document, tokenizer.prefix

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    @torch.no_grad()
    def score_rows(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            by_context[row.context].append(index)
        alone = [indices[0] for indices in by_context.values() if len(indices) == 1]
        shared: dict[int, list[list[int]]] = defaultdict(list)  # by the context's length: rows of one cache have equally long ones
        for context, indices in by_context.items():
            if len(indices) > 1:
                shared[len(context)].append(indices)
        scores: dict[int, tuple[float, bool]] = {}
        alone.sort(key=lambda index: len(rows[index].context) + len(rows[index].continuation))
        for part in _pieces(alone, self.batch):
            scores.update(zip(part, self._score_whole([rows[index] for index in part]), strict=True))
        for groups in shared.values():
            for some in _pieces(groups, max(1, self.batch // max(map(len, groups)))):
                scores.update(self._score_shared(rows, some))
        return [scores[index] for index in range(len(rows))]

    def _score_whole(self, rows: list[Row]) -> list[tuple[float, bool]]:
        """Rows side by side, padded on the right, which causal attention never sees."""
        inputs = self._padded([[*row.context, *row.continuation[:-1]] for row in rows])  # (rows, longest)
        hidden = self.model(inputs)  # (rows, longest, width)
        kept = [hidden[i, len(row.context) - 1 :][: len(row.continuation)] for i, row in enumerate(rows)]
        return self._judge(kept, [row.continuation for row in rows])

    def _score_shared(self, rows: Sequence[Row], groups: list[list[int]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """groups: rows that share a context; contexts of equal length."""
        contexts = [rows[indices[0]].context for indices in groups]
        cache = Cache(self.model, len(contexts[0]), len(contexts))
        last = self.model(self._padded([list(context) for context in contexts]), cache)[:, -1:]  # (groups, 1, width)
        members = [(group, index) for group, indices in enumerate(groups) for index in indices]
        for part in _pieces(members, self.batch):
            continuations = [rows[index].continuation for _, index in part]
            sources = [group for group, _ in part]
            hidden = last[sources]  # (rows, 1, width)
            longest = max(map(len, continuations)) - 1
            if longest:
                read = self._padded([list(continuation[:-1]) for continuation in continuations])  # (rows, longest)
                hidden = torch.cat([hidden, self.model(read, _fork(self.model, cache, sources, longest))], 1)
            kept = [hidden[i, : len(continuation)] for i, continuation in enumerate(continuations)]
            yield from zip((index for _, index in part), self._judge(kept, continuations), strict=True)

    def _padded(self, ids: list[list[int]]) -> Tensor:
        """(rows, longest) on the model's device; what stands in the padding does not matter."""
        padded = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        for row, values in zip(padded, ids, strict=True):
            row[: len(values)] = torch.tensor(values, dtype=torch.long)
        return padded.to(self.model.embedding.weight.device)

    def _judge(self, hidden: list[Tensor], continuations: Sequence[tuple[int, ...]]) -> list[tuple[float, bool]]:
        """hidden: (length of the continuation, width) each, the states that predict its tokens."""
        lengths = [len(continuation) for continuation in continuations]
        states = torch.cat(hidden)  # (tokens, width)
        targets = torch.tensor([identifier for continuation in continuations for identifier in continuation]).to(states.device)
        losses, likeliest = [], []
        at_once = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        for some, wanted in zip(states.split(at_once), targets.split(at_once), strict=True):
            logits = self.model.logits(some)  # (tokens, vocabulary)
            losses.append(F.cross_entropy(logits, wanted, reduction="none"))
            likeliest.append(logits.argmax(-1) == wanted)
        by_row = torch.cat(losses).cpu().double().split(lengths)
        greedy = torch.cat(likeliest).cpu().split(lengths)
        return [(-float(loss.sum()), bool(right.all())) for loss, right in zip(by_row, greedy, strict=True)]

    @cached_property
    def _inference(self) -> Inference:
        """Packs the weights, once, and goes with this object."""
        inference = Inference(self.model, self.batch, QUEUE)
        finalize(self, inference.close)
        return inference

    def write(self, prompts: Sequence[list[int]], requests: Sequence[Request]) -> list[str]:
        jobs = [
            Job(prompt, Sampling(asked.max_tokens, asked.temperature, asked.top_p, asked.seed), self.tokenizer.end_of_document)
            for prompt, asked in zip(prompts, requests, strict=True)
        ]
        texts = [_Text(self.tokenizer, asked.stop) for asked in requests]
        events: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        left = len(jobs)
        work = self._inference.submit(jobs, lambda index, event: events.put((index, event)))
        try:
            while left:
                index, event = events.get()
                if not texts[index].done and texts[index].ends_with(event):
                    work.cancel_one(index)
                    left -= 1
        finally:
            work.cancel()
        return [text.text for text in texts]


class _Text:
    """What the engine tells of one sequence, as text up to its stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._decoder = tokenizer, Decoder(stop)
        self.text, self.done = "", False

    def ends_with(self, event: Event) -> bool:
        """Takes an event; whether it is the last that counts. Raises the event if it is an exception."""
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Token):
            self.text += self._decoder.push(self._tokenizer.token_bytes(event.id))
            self.done = self._decoder.stopped
        elif isinstance(event, Finished):
            self.text += self._decoder.finish()
            self.done = True
        return self.done


def _fork(model: Transformer, cache: Cache, sources: list[int], room: int) -> Cache:
    """A cache whose row i holds what row sources[i] of `cache` holds, with room for more positions."""
    forked = Cache(model, cache.length + room, len(sources))
    for new, old in zip(forked.layers, cache.layers, strict=True):
        new.append(old.keys[sources, :, : old.length], old.values[sources, :, : old.length])
    return forked


def _pieces(things: Sequence[Part], size: int) -> Iterator[list[Part]]:
    for start in range(0, len(things), size):
        yield list(things[start : start + size])
