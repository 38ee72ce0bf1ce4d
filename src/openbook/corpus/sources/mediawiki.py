"""MediaWiki XML dumps: the articles as plain text.

The markup is taken off by one pass over its brackets, which is linear in the text however they are nested, and several times faster than
mwparserfromhell (docs/sources.md). Templates are not expanded, which would need all of the wiki; the few whose arguments are words of
the sentence keep them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from openbook.corpus.raw import RawText, text_of
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.xml import Element, local, records

ARTICLES = "0"
"""The namespace of articles."""
DROPPED_SECTIONS = {"references", "external links", "see also", "further reading", "notes", "sources", "bibliography", "citations"}
_FORBIDDEN_PREFIX = re.compile(r":?\s*(?:file|image|category|media|[a-z]{2,3}(?:-[a-z]+)*)\s*:", re.I)
_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\]|^[ :]*\{\||^[ ]*\|\}(?!\})", re.M)
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|"}
_HIDDEN = ("ref", "gallery", "timeline", "score", "imagemap", "templatedata", "graph")
_WORDY = {"lang": 1, "nowrap": 0, "nobr": 0, "small": 0, "em": 0, "strong": 0, "abbr": 0, "transl": -1, "transliteration": -1}
"""Templates that show one of their arguments, and which: those of {{lang|fr|mot}} are counted from 0."""
_REDIRECT = re.compile(r"\s*#\s*REDIRECT", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,1000}>")
_HEADING = re.compile(r"^(={1,6})[ \t]*([^=\n][^\n]*?)[ \t]*\1[ \t]*$", re.M)
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]{1,500}(?:[ \t]+([^\]\n]{0,300}))?\]")
_SWITCH = re.compile(r"__[A-Z]{3,30}__")


def read_pages(file: Opened) -> Iterator[RawText]:
    """One text for each article of the dump, by its title; redirects and other namespaces are passed over."""
    for page in records(file.stream, frozenset({"page"}), file.most_markup):
        fields = {local(part): part for part in page.iter()}
        title, body = _words(fields.get("title")), _words(fields.get("text"))
        if _words(fields.get("ns")) not in ("", ARTICLES) or "redirect" in fields or _REDIRECT.match(body):
            continue
        facts: dict[str, object] = {"title": title, "date": _words(fields.get("timestamp"))[:10]}
        yield text_of(f"{file.origin}:{title}", f"{title}\n\n{to_text(body)}\n", file.limit, meta=facts)


def _words(element: Element | None) -> str:
    return (element.text or "") if element is not None else ""


def to_text(markup: str) -> str:
    """The readable text of an article's markup."""
    text = _cut(markup, "<!--", "-->")
    for name in _HIDDEN:
        text = _cut_element(text, name)
    text = _EXTERNAL.sub(lambda match: match[1] or "", _resolve(text))
    text = _SWITCH.sub("", text.replace("'''", "").replace("''", ""))
    text = html.unescape(_TAG.sub("", text)).replace("\N{NO-BREAK SPACE}", " ").replace("\0", "")
    return _sections(text)


def _cut(text: str, begin: str, end: str) -> str:
    """Takes out what stands between marks; a mark without its other stays."""
    pieces, at = [], 0
    while (start := text.find(begin, at)) >= 0 and (stop := text.find(end, start)) >= 0:
        pieces.append(text[at:start])
        at = stop + len(end)
    return "".join(pieces) + text[at:]


def _cut_element(text: str, name: str) -> str:
    """Takes out <name …/> and <name …>…</name>."""
    opening = re.compile(rf"<{name}\b[^<>]{{0,1000}}>", re.I)
    close = f"</{name}>"
    lowered = text.lower() if f"<{name}" in text.lower() else ""
    if len(lowered) != len(text):  # none there, or letters that change their length when lowered
        return text if not lowered else opening.sub("", text)
    pieces, at = [], 0
    while match := opening.search(text, at):
        pieces.append(text[at : match.start()])
        stop = match.end() if match[0].endswith("/>") else lowered.find(close, match.end())
        if stop < 0:
            at = match.end()
            break
        at = stop if match[0].endswith("/>") else stop + len(close)
    return "".join(pieces) + text[at:]


def _resolve(text: str) -> str:
    """Replaces links by what they show, templates and tables by nothing, from the inside out."""
    pieces: list[list[str]] = [[]]
    opened: list[str] = []
    at = 0
    for match in _TOKEN.finditer(text):
        pieces[-1].append(text[at : match.start()])
        at = match.end()
        token = match[0].strip(" :") if match[0].endswith(("{|", "|}")) else match[0]
        if token not in _CLOSES:
            opened.append(token)
            pieces.append([])
        elif opened and opened[-1] == _CLOSES[token]:
            inner = "".join(pieces.pop())
            pieces[-1].append(_shown(opened.pop(), inner))
        else:
            pieces[-1].append(token if token != "|}" else "")
    pieces[-1].append(text[at:])
    return "".join(piece for level in pieces for piece in level)  # brackets that nothing closes are left out


def _shown(kind: str, inner: str) -> str:
    if kind == "{|":
        return ""
    if kind == "[[":
        return "" if _FORBIDDEN_PREFIX.match(inner) else inner.rpartition("|")[2]
    name, *arguments = inner.split("|")
    name = name.strip().lower()
    if name in ("convert", "cvt") and len(arguments) >= 2:
        return f"{arguments[0].strip()} {arguments[1].strip()}"
    place = 0 if name.startswith("lang-") else _WORDY.get(name)
    return arguments[place].strip() if place is not None and -len(arguments) <= place < len(arguments) else ""


def _sections(text: str) -> str:
    """Headings without their marks, lists with plain ones; sections of references, and those left empty, are gone."""
    kept: list[str] = []
    waiting: list[tuple[int, str]] = []
    dropped = 0
    at = 0
    for match in [*_HEADING.finditer(text), None]:
        body = _lines(text[at : match.start()] if match else text[at:])
        if body and not dropped:
            kept += [*(title for _, title in waiting), body]
            waiting = []
        if match is None:
            break
        at, level, title = match.end(), len(match[1]), match[2].strip()
        if dropped and level > dropped:
            continue
        dropped = level if title.lower() in DROPPED_SECTIONS else 0
        above = [(depth, name) for depth, name in waiting if depth < level]
        waiting = above if dropped else [*above, (level, title)]
    return "\n\n".join(kept)


def _lines(text: str) -> str:
    lines = (re.sub(r"^[*#]+[ \t]*", "- ", line.strip()).lstrip(":;").strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line not in ("-", "----"))).strip()
