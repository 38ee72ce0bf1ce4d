"""What an operator says of a model's engine, and the engine that follows from it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from openbook.engine import Engine, Precision, PromptLookup
from openbook.engine.kv import BLOCK
from openbook.engine.linear import kept_type
from openbook.engine.scheduler import SPECULATED_ROWS, blocks_for
from openbook.errors import InputError
from openbook.model.transformer import Transformer

UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MOST_SLOTS = 1024


@dataclass(frozen=True)
class EngineSettings:
    """cache: bytes that keys and values may take, of running sequences and of the prefix cache; None for room to fill every slot's context
    and as much again for the prefix cache. speculate: tokens that the n-gram proposer may propose at a time, 0 for no speculation."""

    precision: Precision = "fp32"
    slots: int = 8
    cache: int | None = None
    speculate: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= MOST_SLOTS:
            raise InputError(f"--slots {self.slots}: should be between 1 and {MOST_SLOTS}")
        if not 0 <= self.speculate < SPECULATED_ROWS:
            raise InputError(f"--speculate {self.speculate}: should be between 0 and {SPECULATED_ROWS - 1}")

    def engine(self, model: Transformer) -> Engine:
        """Raises InputError if the cache does not hold a sequence in every slot, and one in the prefix cache."""
        proposer = PromptLookup(most=self.speculate) if self.speculate else None
        return Engine(model, self.slots, precision=self.precision, blocks=self._blocks(model), proposer=proposer)

    def _blocks(self, model: Transformer) -> int | None:
        if self.cache is None:
            return None
        config, kind = model.config, kept_type(self.precision, model.embedding.weight.device)
        token = 2 * config.layers * config.kv_heads * config.head_width * kind.itemsize  # bytes of a token's keys and values
        rows, least = self.slots * (config.context + 1), blocks_for(config.context)
        blocks = (self.cache // token - rows) // BLOCK
        if blocks < least:
            needed = math.ceil((rows + least * BLOCK) * token / 2**20)
            raise InputError(
                f"--cache: {self.cache} bytes do not hold {self.slots} sequences of {config.context} tokens and one more in the prefix "
                f"cache; give at least {needed}MiB, or take fewer --slots"
            )
        return blocks


def parse_size(text: str) -> int:
    """Bytes of a size as `4GiB` or `500MB`. Raises InputError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([A-Za-z]+)", text, re.ASCII)
    if match is None or match[2] not in UNITS:
        raise InputError(f"--cache {text}: should be a size with a unit, as 500MB or 4GiB; units are {', '.join(UNITS)}")
    return int(float(match[1]) * UNITS[match[2]])
