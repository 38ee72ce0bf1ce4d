"""How well a model predicts documents: bits, by a sliding window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from openbook.model.transformer import Transformer

LOGITS_AT_ONCE = 2**25
"""Elements of the logits of one forward pass: 128 MB of fp32."""


@dataclass(frozen=True)
class Window:
    """Part of a document: the model reads ids[start:stop] and is scored on predicting ids[scored:stop + 1]."""

    document: int
    start: int
    scored: int
    stop: int


def windows(length: int, context: int, stride: int, document: int = 0) -> Iterator[Window]:
    """Windows over `length` ids that score each id after the first exactly once, each with at least context - stride ids before it
    where the document has them."""
    last = length - 1  # the last id is predicted, never read
    stop = min(context, last)
    if last > 0:
        yield Window(document, 0, 1, stop)
    while stop < last:
        begin, stop = stop, min(stop + stride, last)
        yield Window(document, max(0, stop - context), begin + 1, stop)


@torch.no_grad()
def document_bits(model: Transformer, documents: Sequence[Sequence[int]], end_of_document: int, stride: int) -> Iterator[tuple[int, float]]:
    """Yields (document, bits) parts whose sum over a document is -log2 of its probability, given that a document begins.

    documents: token ids without the end token. Parts come batch by batch, so that a caller can show progress.
    """
    device = model.embedding.weight.device
    context = model.config.context
    ids = [[end_of_document, *document] for document in documents]
    todo = [window for index, document in enumerate(ids) for window in windows(len(document), context, stride, index)]
    todo.sort(key=lambda window: window.stop - window.start)
    batch_size = max(1, LOGITS_AT_ONCE // (context * model.config.vocab_size))
    for first in range(0, len(todo), batch_size):
        batch = todo[first : first + batch_size]
        longest = max(window.stop - window.start for window in batch)
        inputs = torch.zeros(len(batch), longest, dtype=torch.long)  # padding comes after the text: causal attention never sees it
        targets = torch.full((len(batch), longest), -100)
        for row, window in enumerate(batch):
            document = ids[window.document]
            inputs[row, : window.stop - window.start] = torch.tensor(document[window.start : window.stop])
            skipped = window.scored - 1 - window.start
            targets[row, skipped : window.stop - window.start] = torch.tensor(document[window.scored : window.stop + 1])
        wanted = targets >= 0
        logits = model.logits(model(inputs.to(device))[wanted.to(device)])  # (scored tokens, vocabulary)
        losses = F.cross_entropy(logits, targets[wanted].to(device), reduction="none").cpu().double() / math.log(2)
        for window, part in zip(batch, losses.split(wanted.sum(1).tolist()), strict=True):
            yield window.document, float(part.sum())
