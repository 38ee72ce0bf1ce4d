"""Which shards held the corpus after each step, and which of their rows were still in: what an audit needs to say who removed what."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openbook.files import write_text
from openbook.parts import Bools

NAME = "trail.json"


@dataclass(frozen=True)
class Shard:
    """A file of rows, and which of them are still in the corpus: (rows,)."""

    key: str
    component: str
    alive: Bools


Trail = Sequence[Sequence[Shard]]
"""The shards as they were read, then as they were after each step: always as many, in the same order."""


def write_trail(folder: Path, trail: Trail) -> None:
    text, path = json.dumps([[_packed(shard) for shard in state] for state in trail]), folder / NAME
    if not (path.exists() and path.read_text() == text):
        write_text(path, text)


def read_trail(folder: Path) -> Trail:
    return [[_unpacked(*shard) for shard in state] for state in json.loads((folder / NAME).read_bytes())]


def _packed(shard: Shard) -> tuple[str, str, int, str]:
    return shard.key, shard.component, len(shard.alive), base64.b64encode(zlib.compress(np.packbits(shard.alive).tobytes())).decode()


def _unpacked(key: str, component: str, rows: int, alive: str) -> Shard:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(alive)), np.uint8)
    return Shard(key, component, np.unpackbits(bits, count=rows).astype(bool))
