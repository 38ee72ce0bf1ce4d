"""Mail: mbox files and single messages, as head lines and the body that the sender wrote, without quotes and signature.

The standard library's mailbox reads whole messages and needs an index of the file; this one streams.
"""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from contextlib import suppress
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

from openbook.corpus.raw import RawText, text_of, too_long
from openbook.corpus.sources.html import plain
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import lines

HEADS = ("From", "To", "Subject", "Date")
_INTRODUCES = re.compile(r".{0,120}\b(?:wrote|writes|said|schrieb|escribió)\s*:|(?:On|Am|Le|El|Il|Em)\b.{0,200}:")
_OVER_TWO_LINES = re.compile(r"(?:On|Am|Le|El|Il|Em)\b.{0,200}\n.{0,120}\b(?:wrote|writes|said|schrieb|escribió)\s*:")
_FORWARDED = re.compile(r"\s*-{2,} ?(?:Original Message|Forwarded (?:message|by\b.*)) ?-{2,}|_{20,}\s*", re.IGNORECASE)
_QUOTE = re.compile(r"\s{0,3}(?:[A-Za-z]{0,4}>|\|)\s?")


def read_mail(file: Opened) -> Iterator[RawText]:
    """One text for each message; every file is an mbox, of one message if no line begins with "From "."""
    for number, (data, size) in enumerate(_messages(file), 1):
        origin = f"{file.origin}#{number}"
        yield too_long(origin, size, file.limit) if data is None else _message(data, origin, file.limit)


def _messages(file: Opened) -> Iterator[tuple[bytes | None, int]]:
    """Each message and its size; None for one of more than `most_markup` bytes."""
    held: list[bytes] = []
    size, after_blank = 0, True
    for line, length in lines(file.stream, file.most_markup):
        if after_blank and line.startswith(b"From "):
            if size:
                yield (b"".join(held) if size <= file.most_markup else None), size
            held, size, after_blank = [], 0, False
            continue
        after_blank = not line.strip() and length <= 2
        size += length
        if size <= file.most_markup:
            held.append(line[1:] if re.match(rb">+From ", line) else line)
        else:
            held = []
    if size:
        yield (b"".join(held) if size <= file.most_markup else None), size


def _message(data: bytes, origin: str, limit: int) -> RawText:
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        heads = {name: " ".join(str(message[name]).split()) for name in HEADS if message[name]}
        body = _body(message)
    except Exception as error:  # on hostile heads the parser raises whatever its regular expressions and tables did
        return RawText(origin, bytes=len(data), problem=("unreadable", f"not a mail message: {type(error).__name__}: {error}"[:200]))
    written = own_words(body.replace("\r\n", "\n"))
    if not heads or not written:
        return RawText(origin, bytes=len(data), problem=("no text", "no words of the sender's own" if heads else "no head lines"))
    head = "".join(f"{name}: {value}\n" for name, value in heads.items())
    return text_of(origin, f"{head}\n{written}\n", limit, meta=_facts(heads))


def _body(message: EmailMessage) -> str:
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    try:
        content = part.get_content()
    except LookupError:  # a charset that does not exist
        payload = part.get_payload(decode=True)
        content = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
    return plain(content) if part.get_content_subtype() == "html" else content


def own_words(body: str) -> str:
    """What the sender wrote: no quoted lines and the line that introduces them, nothing after a signature's mark or a forwarded head."""
    kept: list[str] = []
    for line in body.split("\n"):
        if line.rstrip("\r") in ("-- ", "--") or _FORWARDED.fullmatch(line):
            break
        if _QUOTE.match(line):
            _drop_attribution(kept)
        else:
            kept.append(line.rstrip())
    _drop_attribution(kept)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _drop_attribution(kept: list[str]) -> None:
    """Takes "On Monday X wrote:", which may run over two lines, off the end."""
    end = len(kept)
    while end and not kept[end - 1]:
        end -= 1
    if end > 1 and _OVER_TWO_LINES.fullmatch("\n".join(kept[end - 2 : end])):
        del kept[end - 2 :]
    elif end and _INTRODUCES.fullmatch(kept[end - 1]):
        del kept[end - 1 :]


def _facts(heads: dict[str, str]) -> dict[str, object]:
    facts: dict[str, object] = {"title": heads["Subject"]} if "Subject" in heads else {}
    with suppress(KeyError, ValueError, TypeError, OverflowError):
        facts["date"] = parsedate_to_datetime(heads["Date"]).date().isoformat()
    return facts
