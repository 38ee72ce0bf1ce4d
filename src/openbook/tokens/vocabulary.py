"""Learns a byte-level BPE vocabulary from text, with rustbpe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from openbook.errors import InputError
from openbook.model.tokenizer import PATTERN, Tokenizer
from openbook.recipe import TokenizerSection

PIECE = 65_536
"""Characters handed over at a time: a boundary inside a word costs nothing at this distance, an unbounded line costs memory."""


def learn(texts: Iterable[str], section: TokenizerSection) -> Tokenizer:
    """Raises InputError if the text is too small or too uniform for the vocabulary asked for."""
    import rustbpe

    trainer = rustbpe.Tokenizer()
    plain = section.vocab_size - len(section.special_tokens)
    trainer.train_from_iterator(_pieces(texts, section.train_bytes), plain, pattern=PATTERN)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    if len(ranks) < plain:
        raise InputError(
            f"tokenizer.vocab_size = {section.vocab_size}: the training text yields only {len(ranks)} tokens; "
            f"use at most {len(ranks) + len(section.special_tokens)}, or more text"
        )
    special = {content: plain + index for index, content in enumerate(section.special_tokens)}
    return Tokenizer(ranks, special)


def _pieces(texts: Iterable[str], limit: int) -> Iterator[str]:
    taken = 0
    for text in texts:
        for start in range(0, len(text), PIECE):
            if taken >= limit:
                return
            piece = text[start : start + PIECE]
            taken += len(piece.encode())
            yield piece
