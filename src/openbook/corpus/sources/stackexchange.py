"""StackExchange dumps (Posts.xml): each question with its answers, the best first, is one text.

A dump is ordered by time, so an answer may lie gigabytes after its question: the posts go through a database on disk.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from openbook.corpus.raw import RawText, text_of, too_long
from openbook.corpus.sources.html import plain
from openbook.corpus.sources.licences import spdx
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.xml import Element, records

QUESTION, ANSWER = "1", "2"
LICENCES = (("2018-05-02", "CC-BY-SA-4.0"), ("2011-04-08", "CC-BY-SA-3.0"), ("", "CC-BY-SA-2.5"))
"""From which day on a contribution is under which licence (stackoverflow.com/help/licensing); newer dumps say it in each post."""

_TABLE = """CREATE TABLE posts (question INTEGER, kind TEXT, score INTEGER, id INTEGER, title TEXT, body TEXT, licence TEXT, date TEXT,
PRIMARY KEY (question, kind, score, id)) WITHOUT ROWID"""


def read_posts(file: Opened) -> Iterator[RawText]:
    """One text for each question, in the order of their numbers."""
    with tempfile.TemporaryDirectory(prefix="openbook-") as folder:
        store = sqlite3.connect(Path(folder) / "posts.sqlite")
        try:
            store.execute("PRAGMA journal_mode = OFF")
            store.execute("PRAGMA synchronous = OFF")
            store.execute(_TABLE)
            problems = []
            for element in records(file.stream, frozenset({"row"}), file.most_markup):
                post = _post(element)
                if post and len(post[5]) > file.most_markup:
                    problems.append(too_long(f"{file.origin}:{post[3]}", len(post[5]), file.limit))
                elif post:
                    store.execute("INSERT OR REPLACE INTO posts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", post)
            yield from problems
            yield from _threads(store, file)
        finally:
            store.close()


def _post(element: Element) -> tuple[int, str, int, int, str, str, str, str] | None:
    """A row of the table; None for what is neither question nor answer. The score's sign is turned, so that the best comes first."""
    kind = element.get("PostTypeId")
    if kind not in (QUESTION, ANSWER):
        return None
    try:
        own = int(element.get("Id", ""))
        question = own if kind == QUESTION else int(element.get("ParentId", ""))
        score = -int(element.get("Score") or 0)
    except ValueError:
        return None
    if max(abs(own), abs(question), abs(score)) >= 1 << 63:  # more than the table's numbers hold
        return None
    date = element.get("CreationDate", "")[:10]
    licence = spdx(element.get("ContentLicense", "")) or next(name for since, name in LICENCES if date >= since)
    return question, kind, score, own, element.get("Title", ""), element.get("Body", ""), licence, date


def _threads(store: sqlite3.Connection, file: Opened) -> Iterator[RawText]:
    rows = store.execute("SELECT question, kind, title, body, licence, date FROM posts ORDER BY question, kind, score, id")
    for question, posts in groupby(rows, key=lambda row: row[0]):
        yield _thread(question, posts, file)


def _thread(question: int, posts: Iterator[tuple[int, str, str, str, str, str]], file: Opened) -> RawText:
    """The posts of one question as a text; of a thread that is too long, only its size."""
    origin = f"{file.origin}:{question}"
    pieces: list[str] = []
    licences: set[str] = set()
    facts: dict[str, object] = {}
    size = 0
    for _, kind, title, body, licence, date in posts:
        piece = f"Q:\n\n{title}\n\n{plain(body)}\n" if kind == QUESTION else f"A:\n\n{plain(body)}\n"
        size += len(piece)
        if size <= file.limit:
            pieces.append(piece)
        licences.add(licence)
        if kind == QUESTION:
            facts = {"title": title, "date": date}
    if not facts:
        return RawText(origin, bytes=size, problem=("no text", "answers to a question that the dump lacks"))
    if size > file.limit:
        return too_long(origin, size, file.limit)
    return text_of(origin, "\n".join(pieces), file.limit, " AND ".join(sorted(licences)), facts)
