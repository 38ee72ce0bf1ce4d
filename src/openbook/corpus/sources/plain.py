"""Text files: each is a document, or is cut into some at line ends."""

from __future__ import annotations

from collections.abc import Iterator

from openbook.corpus.raw import RawText, decode, read_whole, too_long
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import lines


def read_text(file: Opened) -> Iterator[RawText]:
    if file.component.split_bytes:
        yield from _pieces(file, file.component.split_bytes)
    else:
        yield read_whole(file.stream, file.limit, file.origin)


def _pieces(file: Opened, size: int) -> Iterator[RawText]:
    held: list[bytes] = []
    number, holding = 1, 0
    for line, length in lines(file.stream, file.limit):
        if not line:
            yield too_long(f"{file.origin}#{number}", length, file.limit)
            number += 1
            continue
        held.append(line)
        holding += length
        if holding >= size:
            yield decode(b"".join(held), f"{file.origin}#{number}")
            held, number, holding = [], number + 1, 0
    if held:
        yield decode(b"".join(held), f"{file.origin}#{number}")
