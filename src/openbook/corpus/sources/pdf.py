"""The text of PDF files, page by page. An extra: pip install 'openbook[corpus-pdf]'."""

from __future__ import annotations

from collections.abc import Iterator

from openbook.corpus.raw import RawText, text_of, too_long
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import seekable
from openbook.errors import InputError

MOST_PAGES = 20_000


def read_pdf(file: Opened) -> Iterator[RawText]:
    """The file as one text, a blank line between pages; what scripts it holds are not run."""
    try:
        from pypdf import PdfReader
    except ModuleNotFoundError:
        raise InputError(f"{file.origin}: reading PDF files needs pypdf; pip install 'openbook[corpus-pdf]'") from None
    pages: list[str] = []
    size = 0
    with seekable(file.stream, file.path) as source:
        try:
            reader = PdfReader(source)
            if reader.is_encrypted and not reader.decrypt(""):
                yield RawText(file.origin, problem=("unreadable", "it is encrypted"))
                return
            for page in list(reader.pages[:MOST_PAGES]):
                pages.append(page.extract_text().strip())
                size += len(pages[-1])
                if size > file.limit:
                    yield too_long(file.origin, size, file.limit)
                    return
            title = reader.metadata.title if reader.metadata else None
        except Exception as error:  # a damaged PDF makes pypdf raise nearly anything
            yield RawText(file.origin, problem=("unreadable", f"{type(error).__name__}: {error}"[:200]))
            return
    text = "\n\n".join(page for page in pages if page).encode("utf-8", "replace").decode()
    if not text:
        yield RawText(file.origin, problem=("no text", f"{len(pages)} pages of pictures"))
    else:
        yield text_of(file.origin, text.replace("\0", "") + "\n", file.limit, meta={"title": str(title)[:300]} if title else {})
