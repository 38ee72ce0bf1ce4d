"""IRC logs in the style of irclogs.ubuntu.com: what people said, without who came and went."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from openbook.corpus.raw import RawText, read_whole
from openbook.corpus.sources.opened import Opened

_SAID = re.compile(r"(?:\[?\d{1,2}:\d\d(?::\d\d)?\]?|\d{4}-\d\d-\d\dT[\d:.+Z-]+)?\s*(<[^<>\s]{1,64}>|\* \S{1,64})\s(.*)")
_FILE = re.compile(r"(\d{4}-\d\d-\d\d)?-?(#+[\w.+-]*?)?\.(?:txt|log)$")
_DATE = re.compile(r"\d{4}[-/]\d\d[-/]\d\d")


def read_log(file: Opened) -> Iterator[RawText]:
    """The file as one text: a line for each that was said ("<nick> words") or done ("* nick words"), the time of day left out."""
    raw = read_whole(file.stream, file.limit, file.origin)
    if raw.problem:
        yield raw
        return
    matches = (_SAID.match(line) for line in raw.text.split("\n"))
    text = "".join(f"{match[1]} {match[2].rstrip()}\n" for match in matches if match and match[2].strip())
    if not text and raw.text.strip():
        yield RawText(file.origin, bytes=raw.bytes, problem=("no text", "no line such as [12:34] <nick> words"))
        return
    yield replace(raw, text=text, bytes=len(text.encode()), meta=_facts(file))


def _facts(file: Opened) -> dict[str, object]:
    """Day and channel, where the file's name tells them: 2008-01-02-#ubuntu.txt, or 2008/01/02/#ubuntu.txt."""
    facts: dict[str, object] = {}
    if date := _DATE.search(file.origin):
        facts["date"] = date[0].replace("/", "-")
    if (name := _FILE.search(file.name)) and name[2]:
        facts["channel"] = name[2]
    return facts
