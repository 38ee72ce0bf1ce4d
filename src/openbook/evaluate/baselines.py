"""What a document costs without a neural network: general-purpose compressors."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import zstandard

from openbook.progress import track

XZ_DICTIONARY = 1 << 26
"""Bytes that `xz -9` looks back."""


class Scorer(Protocol):
    """Anything that says what documents cost."""

    def bits(self, documents: Sequence[bytes]) -> list[float]:
        """The bits of each document, each by itself: no document helps to predict another."""
        ...


@dataclass(frozen=True)
class Compressor:
    """A compressor as a scorer: 8 bits for each byte of the compressed file, its header and checksum included."""

    name: str
    compress: Callable[[bytes], bytes]

    def bits(self, documents: Sequence[bytes]) -> list[float]:
        sizes = []
        with track(f"evaluate: {self.name}", len(documents)) as bar:
            for index, document in enumerate(documents):
                bar.update(index)
                sizes.append(8.0 * len(self.compress(document)))
        return sizes


def xz(data: bytes) -> bytes:
    """The file that `xz -9e` writes, with a dictionary no larger than the data: as small a file, in a tenth of the time for short data,
    because a dictionary of 64 MiB need not be cleared for each document."""
    dictionary = min(XZ_DICTIONARY, max(4096, 1 << (len(data) - 1).bit_length()))  # bytes; 4096 is the format's least
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return lzma.compress(data, lzma.FORMAT_XZ, filters=filters)


def zstd(data: bytes) -> bytes:
    """The frame that `zstd -19` writes, without the checksum that its command line adds."""
    return zstandard.ZstdCompressor(level=19).compress(data)


XZ = Compressor("xz -9e", xz)
ZSTD = Compressor("zstd -19", zstd)


def archive_bits(documents: Sequence[bytes]) -> float:
    """Bits of one `xz -9e` file that holds all documents: the compressor may learn from one document for the next."""
    return 8.0 * len(xz(b"".join(documents)))
