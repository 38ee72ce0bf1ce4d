"""Which reader takes which file."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from openbook.corpus.sources.opened import Reader
from openbook.errors import InputError
from openbook.recipe_corpus import ReadComponent


@dataclass(frozen=True)
class Kind:
    """`endings` of the files that a folder is searched for, after the ending of a compression is taken off; none stands for all.
    `reader` is a module of this package and a function in it, imported when its turn comes."""

    endings: tuple[str, ...]
    reader: str


KINDS: dict[str, Kind] = {
    "text": Kind((), "plain.read_text"),
    "jsonl": Kind((".jsonl",), "rows.read_json_lines"),
    "parquet": Kind((".parquet",), "rows.read_parquet"),
    "csv": Kind((".csv", ".tsv"), "rows.read_csv"),
    "html": Kind((".html", ".htm", ".xhtml"), "html.read_html"),
    "warc": Kind((".warc", ".wet"), "warc.read_warc"),
    "mail": Kind((), "mail.read_mail"),
    "stackexchange": Kind(("Posts.xml",), "stackexchange.read_posts"),
    "mediawiki": Kind((".xml",), "mediawiki.read_pages"),
    "latex": Kind((), "latex.read_latex"),
    "gutenberg": Kind((".txt",), "gutenberg.read_book"),
    "irc": Kind((".txt", ".log"), "irc.read_log"),
    "uspto": Kind((".xml",), "uspto.read_patents"),
    "uspto-background": Kind((".xml",), "uspto.read_backgrounds"),
    "jats": Kind((".xml", ".nxml"), "jats.read_articles"),
    "pdf": Kind((".pdf",), "pdf.read_pdf"),
}

AUTO = dict.fromkeys((".txt", ".md", ".py"), "text")
AUTO |= {ending: name for name in ("jsonl", "parquet", "csv", "html", "warc") for ending in KINDS[name].endings}
AUTO |= {".mbox": "mail", ".eml": "mail", ".tex": "latex"}
"""Endings that say enough."""


def endings_of(component: ReadComponent) -> tuple[str, ...]:
    return tuple(AUTO) if component.format == "auto" else KINDS[component.format].endings


def reader_of(component: ReadComponent, name: str) -> Reader:
    """The reader for a file of this name. Raises InputError if the name does not tell, and neither does the component."""
    kind: str = component.format
    if kind == "auto":
        kind = next((kind for ending, kind in AUTO.items() if name.endswith(ending)), "")
    if not kind:
        raise InputError(f"{name}: its name does not tell its format; set format to one of {', '.join(KINDS)}")
    module, function = KINDS[kind].reader.split(".")
    reader: Reader = getattr(importlib.import_module(f"openbook.corpus.sources.{module}"), function)
    return reader
