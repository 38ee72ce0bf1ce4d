"""Tokens to text as they come, for a reader who must never see half a character, nor any part of a stop string.

A token is bytes: it may end inside a character, and a stop string may begin in one token and end in another. So text is given out only
once nothing that follows can change it. Where a text is cut does not depend on how tokens divide it: the first stop string to be
*complete* ends the text, and of several that end at the same character, the longest.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Decoder:
    """Bytes in, final text out. Invalid UTF-8 becomes U+FFFD, as in `bytes.decode(errors="replace")`.

    `begin` is the position in the text of the character that the first byte of the last token belongs to, given out yet or not.
    `stopped` tells that a stop string has ended the text; nothing comes after it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self.begin = 0
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._decoded = 0  # characters, given out or held back

    def push(self, piece: bytes) -> str:
        """Takes a token's bytes and returns the text that they settle, which may be none."""
        unfinished, _ = self._bytes.getstate()
        self.begin = self._decoded + max(len((unfinished + piece[:1]).decode(errors="replace")) - 1, 0)  # 1 if it does not go on with it
        return self._take(self._bytes.decode(piece))

    def finish(self) -> str:
        """What was held back, once there is nothing more to come."""
        text = self._take(self._bytes.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        self._decoded += len(text)
        text = self._held + text
        cut = _first_stop(text, self._stop)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        settled = len(text) - self._doubtful(text)
        self._held = text[settled:]
        return text[:settled]

    def _doubtful(self, text: str) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0


def _first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string to be complete begins."""
    found = [(begin + len(string), begin) for string in stop if (begin := text.find(string)) >= 0]
    return min(found)[1] if found else None
