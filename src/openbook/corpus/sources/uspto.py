"""Patents from the US patent office: grants and applications in XML, in its three layouts since 2001, many to a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from openbook.corpus.raw import RawText, text_of, too_long
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import lines
from openbook.corpus.sources.xml import BadXml, Element, find, local, parse, string

PATENTS = ("us-patent-grant", "us-patent-application", "PATDOC", "patent-application-publication")
TITLES = ("invention-title", "title-of-invention", "B540")
ABSTRACTS = ("abstract", "subdoc-abstract", "SDOAB")
DESCRIPTIONS = ("description", "subdoc-description", "SDODE")
NUMBERS = (("publication-reference", "doc-number"), ("document-id", "doc-number"), ("B110",))
DATES = (("publication-reference", "date"), ("domestic-filing-data", "filing-date"), ("B140",))
HEADINGS = {"heading", "H"}
PARAGRAPHS = {"p", "paragraph", "PARA"}
SKIPPED = frozenset({"number", "math", "maths", "tables", "table-cwu", "math-cwu", "chemistry", "chemistry-cwu"})
SKIPPED |= {"TABLE-US", "MATH-US", "CHEM-US"}
_BACKGROUND = re.compile(r"background|(?:related|prior) art", re.I)
_AFTER = re.compile(r"summary|brief|detailed|disclosure|object|embodiment|drawing", re.I)


class Part(NamedTuple):
    """A heading or a paragraph of a description."""

    heading: bool
    text: str


def read_patents(file: Opened) -> Iterator[RawText]:
    """One text for each patent: title, abstract, description."""
    for origin, patent in _patents(file):
        if isinstance(patent, RawText):
            yield patent
            continue
        parts = [_first(patent, TITLES), _first(patent, ABSTRACTS), *(part.text for part in _description(patent))]
        yield _text(origin, parts, patent, file)


def read_backgrounds(file: Opened) -> Iterator[RawText]:
    """One text for each patent that has a section on its background: that section, as in The Pile."""
    for origin, patent in _patents(file):
        if isinstance(patent, RawText):
            yield patent
            continue
        inside, parts = False, []
        for part in _description(patent):
            if part.heading:
                inside = bool(_BACKGROUND.search(part.text)) or (inside and not _AFTER.search(part.text))
            elif inside:
                parts.append(part.text)
        yield _text(origin, parts, patent, file)


def _patents(file: Opened) -> Iterator[tuple[str, RawText | Element]]:
    """Each patent's root element, or the problem with it. The weekly files are many XML files one after the other."""
    for number, (data, size) in enumerate(_documents(file), 1):
        origin = f"{file.origin}#{number}"
        if data is None:
            yield origin, too_long(origin, size, file.limit)
            continue
        try:
            root = parse(data)
        except BadXml as error:
            yield origin, RawText(origin, bytes=size, problem=("unreadable", str(error)))
            continue
        if local(root) in PATENTS:
            yield origin, root
        elif local(root) != "sequence-cwu":  # lists of sequences stand between the patents
            yield origin, RawText(origin, bytes=size, problem=("no text", f"<{local(root)}> is no patent"))


def _documents(file: Opened) -> Iterator[tuple[bytes | None, int]]:
    held: list[bytes] = []
    size = 0
    for line, length in lines(file.stream, file.most_markup):
        if line.startswith(b"<?xml ") and size:
            yield (b"".join(held) if size <= file.most_markup else None), size
            held, size = [], 0
        size += length
        if size <= file.most_markup:
            held.append(line)
        else:
            held = []
    if size:
        yield (b"".join(held) if size <= file.most_markup else None), size


def _first(patent: Element, names: tuple[str, ...]) -> str:
    """The words of the first element of one of these names, paragraphs apart."""
    for name in names:
        element = find(patent, name)
        if element is not None:
            parts = [part.text for part in _parts(element)]
            return "\n\n".join(parts) if parts else string(element, SKIPPED)
    return ""


def _description(patent: Element) -> list[Part]:
    element = next((found for name in DESCRIPTIONS if (found := find(patent, name)) is not None), None)
    return list(_parts(element)) if element is not None else []


def _parts(element: Element) -> Iterator[Part]:
    for below in element.iter():
        name = local(below)
        if name in HEADINGS or name in PARAGRAPHS:
            text = string(below, SKIPPED)
            if text:
                yield Part(name in HEADINGS, text)


def _text(origin: str, parts: list[str], patent: Element, file: Opened) -> RawText:
    text = "\n\n".join(part for part in parts if part)
    if not text:
        return RawText(origin, problem=("no text", "the patent has no such section"))
    facts: dict[str, object] = {"title": _first(patent, TITLES)}
    number, date = (next((string(found) for path in paths if (found := find(patent, *path)) is not None), "") for paths in (NUMBERS, DATES))
    if number:
        facts["patent"] = number
    if re.fullmatch(r"\d{8}", date):
        facts["date"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return text_of(origin, text + "\n", file.limit, meta=facts)
