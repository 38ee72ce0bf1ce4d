"""Unicode repair, and length."""

from __future__ import annotations

import re
import unicodedata

from openbook.corpus.steps.step import Limit, Step
from openbook.recipe_steps import LengthStep, UnicodeStep

WINDOWS = bytes(range(0x80, 0xA0)).decode("cp1252", "ignore")
"""The characters that Windows-1252 has where Latin-1 has controls."""
MOJIBAKE = re.compile(f"[Â-ô][\x80-¿{WINDOWS}]{{1,3}}")
"""What UTF-8 of two to four bytes looks like once it was read as Windows-1252."""
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")


def _bytes(character: str) -> bytes:
    """The byte that was read as this character; Windows-1252 leaves five bytes undefined, which readers take for controls."""
    return bytes([ord(character)]) if ord(character) < 0x100 else character.encode("cp1252")


def _repaired(match: re.Match[str]) -> str:
    try:
        return b"".join(map(_bytes, match.group())).decode("utf-8")
    except UnicodeDecodeError:
        return match.group()


def repair(text: str, _: None = None, __: UnicodeStep | None = None) -> list[str]:
    """Most texts are in order, and cost little more than a look."""
    if text.isascii():
        return [LINE_ENDS.sub("\n", CONTROLS.sub("", text)) if not text.isprintable() else text]
    text = MOJIBAKE.sub(_repaired, text)
    text = CONTROLS.sub("", LINE_ENDS.sub("\n", text))
    return [text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)]


def length_limits(settings: LengthStep) -> list[Limit]:
    return [Limit("length", "bytes", settings.min_bytes, settings.max_bytes)]


UNICODE = Step("unicode", 1, rewrite=repair)
LENGTH = Step("length", 1, limits=length_limits)
