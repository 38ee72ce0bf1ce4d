"""XML in bounded memory, with nothing taken from outside and no entity expanded."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any, BinaryIO

from lxml import etree

from openbook.corpus.sources.streams import CHUNK

Element = Any
"""An lxml element."""

_SAFE: dict[str, Any] = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
_SAFE |= {"remove_comments": True, "remove_pis": True}


class BadXml(OSError):
    """The file is not XML from some place on."""


def records(stream: BinaryIO, tags: frozenset[str], longest: int) -> Iterator[Element]:
    """Every element whose name, without its namespace, is in `tags`, with all that is in it; it is emptied when the next is asked for.

    Raises BadXml where the file is not well-formed, or where more than `longest` bytes lie between two ends of such elements.
    """
    parser = etree.XMLPullParser(events=("end",), **_SAFE)
    fed = 0
    try:
        while data := stream.read(CHUNK):
            parser.feed(data)
            fed += len(data)
            for _, element in parser.read_events():
                if local(element) in tags:
                    fed = 0
                    yield element
                    _forget(element)
            if fed > longest:
                raise BadXml(f"no end of {' or '.join(sorted(tags))} within {longest:,} bytes")
        parser.close()
    except etree.XMLSyntaxError as error:
        raise BadXml(f"not well-formed XML: {error.msg}") from None


def _forget(element: Element) -> None:
    """Frees an element and what came before it under the same parent."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def parse(data: bytes) -> Element:
    """The root element of a whole file. Raises BadXml."""
    try:
        return etree.fromstring(data, etree.XMLParser(**_SAFE))
    except etree.XMLSyntaxError as error:
        raise BadXml(f"not well-formed XML: {error.msg}") from None


def local(element: Element) -> str:
    """An element's name without its namespace; empty for an entity."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def find(element: Element, *path: str) -> Element | None:
    """The first element down a path of names, each anywhere below the one before."""
    for name in path:
        element = next((below for below in element.iter() if local(below) == name and below is not element), None)
        if element is None:
            return None
    return element


def string(element: Element, skip: frozenset[str] = frozenset()) -> str:
    """All characters below an element, white space collapsed. Elements named in `skip` are left out; entities that HTML knows by the
    same name become their characters."""
    pieces: list[str] = []
    _collect(element, skip, pieces)
    return " ".join("".join(pieces).split())


def _collect(root: Element, skip: frozenset[str], pieces: list[str]) -> None:
    """Without recursion: what the file nests a thousand levels deep must not break the interpreter's stack."""
    stack: list[tuple[Element, bool]] = [(root, False)]
    while stack:
        element, is_tail = stack.pop()
        if is_tail:
            pieces.append(element.tail or "")
            continue
        if element.tag is etree.Entity:
            known = html.unescape(element.text)
            pieces.append("" if known == element.text else known)
            continue
        if local(element) in skip and element is not root:
            continue
        pieces.append(element.text or "")
        for child in reversed(element):
            stack.append((child, True))
            stack.append((child, False))
