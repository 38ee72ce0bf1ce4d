"""Project Gutenberg's plain texts: the book alone, without the project's head, foot and licence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from openbook.corpus.raw import RawText, read_whole
from openbook.corpus.sources.opened import Opened

_START = re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG[^*]{0,400}\*\*\*|^\*END[* ]*THE SMALL PRINT.*$", re.I | re.M)
_END = re.compile(
    r"^\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|^(?:\*\*\* ?)?End of (?:the |this )?Project Gutenberg(?:'s|’s)? ", re.I | re.M
)
_CREDITS = re.compile(
    r"\A\s*(?:(?:\[?E-?text |This e-?(?:text|book) was )?(?:produced|prepared|transcribed|scanned)\b.*?(?:\n[ \t]*\n|\Z))+", re.I | re.S
)
_FACT = re.compile(r"^(Title|Author|Language|Release Date):[ \t]*(.+)$", re.M)
HEAD = 20_000
"""Characters in which the head ends, where there is one."""


def read_book(file: Opened) -> Iterator[RawText]:
    """The file as one text. A file without the project's marks is taken as it is."""
    raw = read_whole(file.stream, file.limit, file.origin)
    if raw.problem:
        yield raw
        return
    starts = list(_START.finditer(raw.text, 0, HEAD))
    head, rest = (raw.text[: starts[-1].end()], raw.text[starts[-1].end() :]) if starts else ("", raw.text)
    end = _END.search(rest)
    book = _CREDITS.sub("", rest[: end.start()] if end else rest, count=1).strip("\n") + "\n"
    yield replace(raw, text=book, bytes=len(book.encode()), meta=_facts(head))


def _facts(head: str) -> dict[str, object]:
    found = {name: value.strip() for name, value in _FACT.findall(head)}
    names = {"Title": "title", "Author": "author", "Language": "language"}
    facts: dict[str, object] = {names[name]: value for name, value in found.items() if name in names}
    if number := re.search(r"\[E(?:Book|Text) ?#(\d+)\]", head, re.I):
        facts["ebook"] = int(number[1])
    return facts
