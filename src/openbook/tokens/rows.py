"""`rows(step, microbatch)`: the tokens of one microbatch, straight from the shards."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from openbook.errors import InputError
from openbook.recipe import Recipe
from openbook.run import Run
from openbook.tokens.encode import dtype_for
from openbook.tokens.order import Order
from openbook.tokens.packing import BestFit, Packing, Stream, segments_of, tokens_of
from openbook.tokens.plan import plan
from openbook.tokens.shards import Shard


class Rows:
    """Training rows by arithmetic. A row is `context` inputs and the token after each: context + 1 tokens. See openbook.tokens.packing."""

    def __init__(self, shards: Mapping[str, Shard], recipe: Recipe) -> None:
        self.shards, self.recipe = shards, recipe
        self.context = recipe.model.context
        self.microbatch_rows, self.batches = recipe.train.microbatch_rows, recipe.train.batches
        self.packing = {name: self._packed(shard) for name, shard in shards.items()}
        counts = {name: len(packing) for name, packing in self.packing.items()}
        if not any(counts.values()):
            raise InputError(f"no component holds a row of {self.context + 1} tokens; use a shorter model.context or more text")
        self.mixture = plan(recipe, counts)
        self.order = Order(self.mixture, recipe.seed)

    def _packed(self, shard: Shard) -> Packing:
        return BestFit(shard.ends, self.context) if self.recipe.train.packing == "best-fit" else Stream(len(shard), self.context)

    @classmethod
    def open(cls, run: Run, check: bool = True) -> Rows:
        """The rows of a run whose shards are what the manifest records: every byte is checked. Raises OpenbookError otherwise.

        Without `check`, the rows of whatever lies there.
        """
        dtype = dtype_for(run.recipe.tokenizer.vocab_size)
        record = run.stage_record("tokenize") or {"artifacts": {}}
        files = [name for name in record["artifacts"] if name.startswith("tokens/train/") and name.endswith((".bin", ".idx"))]
        paths = [run.verified("tokenize", name) if check else run.path / name for name in files]
        return cls({path.stem: Shard(path, dtype) for path in paths if path.suffix == ".bin"}, run.recipe)

    def require(self, skipped: int = 0) -> None:
        """Raises InputError if the corpus holds fewer rows than the whole run needs, besides `skipped` microbatches."""
        make_up = skipped if self.recipe.corpus.measure == "weight" else 0  # the others come round again
        self.order.require((self.batches.total + make_up) * self.microbatch_rows)

    @cached_property
    def drawn(self) -> dict[str, int]:
        """How many rows of each component the whole run reads, if it passes over no data."""
        return self.order.drawn(min(self.batches.total * self.microbatch_rows, self.mixture.samples))

    def sample(self, step: int, microbatch: int, row: int, skipped: int = 0) -> int:
        """The sample number of a row."""
        return (self.batches.first_microbatch(step) + skipped + microbatch) * self.microbatch_rows + row

    def __call__(self, step: int, microbatch: int, skipped: int = 0) -> npt.NDArray[np.int64]:
        """(microbatch_rows, context + 1) token ids. `skipped` whole microbatches were left out before this step."""
        rows = np.empty((self.microbatch_rows, self.context + 1), dtype=np.int64)
        for row in range(self.microbatch_rows):
            name, index = self.order.locate(self.sample(step, microbatch, row, skipped))
            rows[row] = tokens_of(self.shards[name].tokens, self.packing[name].pieces(index))
        return rows

    def segments(self, step: int, microbatch: int, skipped: int = 0) -> npt.NDArray[np.int64]:
        """(microbatch_rows, context): for the tokens that are read, the number of their document within the row."""
        segments = np.empty((self.microbatch_rows, self.context), dtype=np.int64)
        for row in range(self.microbatch_rows):
            name, index = self.order.locate(self.sample(step, microbatch, row, skipped))
            segments[row] = segments_of(self.shards[name].ends, self.packing[name].pieces(index))
        return segments
