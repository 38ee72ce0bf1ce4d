"""Web archives: the pages of WARC files, and the extracted texts of WET files.

By warcio: fastwarc, which is faster, ends the process when a stream breaks (2.0.1), and extracting the text costs far more than either.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from warcio.archiveiterator import ArchiveIterator
from warcio.bufferedreaders import ChunkedDataReader
from warcio.exceptions import ArchiveLoadFailed

from openbook.corpus.raw import RawText, decode, too_long
from openbook.corpus.sources.html import page
from openbook.corpus.sources.opened import Opened

HTML = ("text/html", "application/xhtml+xml")
WANTED = ("response", "resource", "conversion")
GZIP_OR_ZLIB = 47
"""The window of zlib that takes either head."""

Record = Any
"""A record of warcio's."""


def read_warc(file: Opened) -> Iterator[RawText]:
    """One text for each page (status 200, HTML or plain text) or extracted text. Raises OSError where the archive is damaged."""
    number = 0
    try:
        for record in ArchiveIterator(file.stream):
            if record.rec_type not in WANTED:
                continue
            number += 1
            raw = _record(record, f"{file.origin}#{number}", file)
            if raw:
                yield replace(raw, meta={**raw.meta, **_facts(record)})
    except (ArchiveLoadFailed, ValueError) as error:
        raise OSError(f"after record {number}: {str(error).strip().splitlines()[0]}") from None


def _record(record: Record, origin: str, file: Opened) -> RawText | None:
    http = record.http_headers
    if http and http.get_statuscode() != "200":
        return None
    stated = (http or record.rec_headers).get_header("Content-Type") or ""
    kind, _, rest = stated.partition(";")
    kind = kind.strip().lower()
    if kind not in (*HTML, "text/plain"):
        return None
    data = _content(record, file.most_markup)
    if len(data) > file.most_markup:
        return too_long(origin, len(data) + max(0, record.raw_stream.limit), file.limit)
    if record.raw_stream.limit > 0:
        return RawText(origin, bytes=len(data), problem=("unreadable", f"the record ends {record.raw_stream.limit:,} bytes too early"))
    if kind in HTML:
        charset = rest.partition("charset=")[2].split(";")[0].strip(" \"'")
        return page(data, origin, file.limit, charset or None)
    return decode(data, origin) if len(data) <= file.limit else too_long(origin, len(data), file.limit)


def _content(record: Record, most: int) -> bytes:
    """At most one byte more than `most`: decompression is bounded, too."""
    http = record.http_headers
    chunked = http and "chunked" in (http.get_header("Transfer-Encoding") or "").lower()
    stream = ChunkedDataReader(record.raw_stream, decomp_type=None) if chunked else record.raw_stream
    data = b""
    while len(data) <= most and (piece := stream.read(most + 1 - len(data))):
        data += piece
    if data.startswith(b"\x1f\x8b"):
        try:
            return zlib.decompressobj(GZIP_OR_ZLIB).decompress(data, most + 1)
        except zlib.error as error:
            raise ValueError(f"content encoding: {error}") from None
    return data


def _facts(record: Record) -> dict[str, object]:
    facts: dict[str, object] = {}
    if address := record.rec_headers.get_header("WARC-Target-URI"):
        facts["url"] = address.strip("<>")
    if date := record.rec_headers.get_header("WARC-Date"):
        facts["date"] = date[:10]
    return facts
