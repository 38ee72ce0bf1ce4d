"""Learns a vocabulary from text: byte-level BPE with rustbpe, or the characters that occur."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from openbook.errors import InputError
from openbook.model.tokenizer import CHARACTER, PATTERN, Tokenizer
from openbook.recipe import TokenizerSection

PIECE = 65_536
"""Characters handed over at a time: a boundary inside a word costs nothing at this distance, an unbounded line costs memory."""


def learn(texts: Iterable[str], section: TokenizerSection) -> Tokenizer:
    """Raises InputError if the text does not yield the vocabulary asked for."""
    plain = section.vocab_size - len(section.special_tokens)
    ranks, pattern = _characters(texts, section, plain) if section.kind == "characters" else _pairs(texts, section, plain)
    return Tokenizer(ranks, {content: plain + index for index, content in enumerate(section.special_tokens)}, pattern)


def _characters(texts: Iterable[str], section: TokenizerSection, plain: int) -> tuple[dict[bytes, int], str]:
    """Every character of the text, in code point order; all of the text is looked at, whatever `train_bytes` says."""
    found: set[str] = set()
    for text in texts:
        found |= set(text)
    if len(found) != plain:
        raise InputError(
            f"tokenizer.vocab_size = {section.vocab_size}: the training text has {len(found)} different characters; "
            f"with the special tokens that makes {len(found) + len(section.special_tokens)}"
        )
    return {character.encode(): rank for rank, character in enumerate(sorted(found))}, CHARACTER


def _pairs(texts: Iterable[str], section: TokenizerSection, plain: int) -> tuple[dict[bytes, int], str]:
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_pieces(texts, section.train_bytes), plain, pattern=PATTERN)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    if len(ranks) < plain:
        raise InputError(
            f"tokenizer.vocab_size = {section.vocab_size}: the training text yields only {len(ranks)} tokens; "
            f"use at most {len(ranks) + len(section.special_tokens)}, or more text"
        )
    return ranks, PATTERN


def _pieces(texts: Iterable[str], limit: int) -> Iterator[str]:
    taken = 0
    for text in texts:
        for start in range(0, len(text), PIECE):
            if taken >= limit:
                return
            piece = text[start : start + PIECE]
            taken += len(piece.encode())
            yield piece
