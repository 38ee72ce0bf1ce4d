"""What a reader of some format is given: one file, open, and what the recipe says about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openbook.corpus.raw import RawText
from openbook.corpus.sources.streams import Stream
from openbook.recipe_corpus import ReadComponent


@dataclass(frozen=True)
class Opened:
    """`stream` gives the bytes, decompressed; `name` is the file's own, without the ending of its compression; `path` is where the
    same bytes lie on disk, if they do; `limit` is the most bytes that a text may have."""

    origin: str
    name: str
    stream: Stream
    component: ReadComponent
    limit: int
    path: Path | None = None

    @property
    def most_markup(self) -> int:
        """Bytes of markup or escapes that a text of `limit` bytes may come wrapped in; beyond, it is left unread."""
        return self.limit * 8


Reader = Callable[[Opened], Iterator[RawText]]
"""Yields the texts of a file in their order. Raises streams.READ_ERRORS for a file that is damaged; a text that alone is damaged is
yielded as a problem."""
