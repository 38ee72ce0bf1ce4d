"""Articles of PubMed Central (JATS XML) and abstracts of PubMed."""

from __future__ import annotations

from collections.abc import Iterator

from openbook.corpus.raw import RawText, text_of
from openbook.corpus.sources.licences import from_address
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.xml import Element, find, local, records, string

LINK = "{http://www.w3.org/1999/xlink}href"
SKIPPED = frozenset({"table-wrap", "fig", "disp-formula", "inline-formula", "tex-math", "math", "ref-list", "fn", "supplementary-material"})
_CONTAINERS = {"sec", "body", "abstract", "boxed-text", "list", "list-item", "disp-quote"}


def read_articles(file: Opened) -> Iterator[RawText]:
    """One text for each article or abstract. Raises BadXml where the file is damaged."""
    for number, element in enumerate(records(file.stream, frozenset({"article", "PubmedArticle"}), file.most_markup), 1):
        origin = f"{file.origin}#{number}"
        yield _article(element, origin, file) if local(element) == "article" else _abstract(element, origin, file)


def _article(article: Element, origin: str, file: Opened) -> RawText:
    meta = find(article, "article-meta")
    title = _string(find(article, "article-title") if meta is None else find(meta, "article-title"))
    parts = [title]
    for part in (None if meta is None else find(meta, "abstract"), find(article, "body")):
        if part is not None:
            parts += _paragraphs(part)
    text = "\n\n".join(part for part in parts if part)
    if not text:
        return RawText(origin, problem=("no text", "neither title nor body"))
    facts: dict[str, object] = {"title": title[:300]} if title else {}
    if meta is not None:
        facts |= {f"{kind}": _string(found) for found in meta.iter() if local(found) == "article-id" and (kind := found.get("pub-id-type"))}
    if year := _string(find(article, "pub-date", "year")):
        facts["date"] = year
    if language := article.get("{http://www.w3.org/XML/1998/namespace}lang"):
        facts["language"] = language.lower()
    return text_of(origin, text + "\n", file.limit, _licence(article), facts)


def _paragraphs(part: Element) -> list[str]:
    """Titles of sections and paragraphs in their order, without what is no prose."""
    found: list[str] = []
    stack = [part]
    while stack:
        element = stack.pop()
        if local(element) in _CONTAINERS:
            stack += [child for child in reversed(element) if local(child) not in SKIPPED]
        elif local(element) in ("p", "title", "label") and (words := string(element, SKIPPED)):
            found.append(words)
    return found


def _licence(article: Element) -> str | None:
    """What a Creative Commons address in the licence statement says."""
    statement = find(article, "license")
    if statement is None:
        return None
    addresses = [below.get(LINK, "") for below in statement.iter()] + [string(statement)]
    return next((licence for address in addresses if (licence := from_address(address))), None)


def _abstract(article: Element, origin: str, file: Opened) -> RawText:
    title = _string(find(article, "ArticleTitle"))
    holder = find(article, "Abstract")
    pieces = []
    for part in holder if holder is not None else ():
        if local(part) == "AbstractText" and (words := string(part, SKIPPED)):
            label = part.get("Label")
            pieces.append(f"{label.capitalize()}: {words}" if label and label != "UNLABELLED" else words)
    if not pieces:
        return RawText(origin, problem=("no text", "a title without an abstract"))
    facts: dict[str, object] = {"title": title[:300], "pmid": _string(find(article, "PMID"))}
    if year := _string(find(article, "PubDate", "Year")):
        facts["date"] = year
    if language := _string(find(article, "Language")):
        facts["language"] = language
    return text_of(origin, "\n\n".join([title, *pieces]) + "\n", file.limit, meta=facts)


def _string(element: Element | None) -> str:
    return string(element, SKIPPED) if element is not None else ""
