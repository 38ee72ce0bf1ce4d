"""Fill-in-the-middle (Bavarian et al. 2022): what comes between a beginning and an end, for models trained with tokens that ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openbook.model.tokenizer import Tokenizer

SPELLINGS = [
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
]
"""Of the tokens before the beginning, before the end, and before the middle, in the order that all of these models read them in."""

FILE_SEPARATORS = ("<|file_sep|>", "<file_sep>")


@dataclass(frozen=True)
class FillIn:
    """The ids of the three tokens, each a sequence because a run may spell its marks with ordinary tokens."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    middle: tuple[int, ...]
    file: tuple[int, ...]
    """Before the name of another file of the same repository; empty if the model knows no such token."""

    def prompt(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        return [*self.prefix, *before, *self.suffix, *after, *self.middle]

    @property
    def overhead(self) -> int:
        """Tokens that the marks take."""
        return len(self.prefix) + len(self.suffix) + len(self.middle)


def fill_in_of(tokenizer: Tokenizer, said: Mapping[str, str] | None) -> FillIn | None:
    """What the run says, `{"prefix", "suffix", "middle"}` and perhaps "file", or what the tokenizer's special tokens show, or None."""

    def ids(spelling: str) -> tuple[int, ...]:
        special = tokenizer.special_tokens.get(spelling)
        return tuple(tokenizer.encode(spelling)) if special is None else (special,)

    if said is not None:
        return FillIn(ids(said["prefix"]), ids(said["suffix"]), ids(said["middle"]), ids(said.get("file", "")))
    separator = next((spelling for spelling in FILE_SEPARATORS if spelling in tokenizer.special_tokens), "")
    for spellings in SPELLINGS:
        if all(spelling in tokenizer.special_tokens for spelling in spellings):
            prefix, suffix, middle = map(ids, spellings)
            return FillIn(prefix, suffix, middle, ids(separator))
    return None
