"""`rows(step, microbatch)`: the tokens of one microbatch, straight from the shards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from openbook.errors import InputError
from openbook.recipe import Recipe
from openbook.run import Run
from openbook.tokens.order import Mixture, Order
from openbook.tokens.shards import Shard, dtype_for


class Rows:
    """Training rows by arithmetic. A row is `context` inputs and the token after each: context + 1 tokens, one shared with the next row."""

    def __init__(self, shards: Mapping[str, Shard], recipe: Recipe) -> None:
        self.shards = shards
        self.context = recipe.model.context
        self.microbatch_rows, self.batches = recipe.train.microbatch_rows, recipe.train.batches
        parts = recipe.corpus.components
        counts = {name: max(0, (len(shard) - 1) // self.context) for name, shard in shards.items()}
        if not any(counts.values()):
            raise InputError(f"no component holds a row of {self.context + 1} tokens; use a shorter model.context or more text")
        self.mixture = Mixture(counts, {name: parts[name].weight for name in counts}, {name: parts[name].max_epochs for name in counts})
        self.order = Order(self.mixture, recipe.seed)

    @classmethod
    def open(cls, run: Run, check: bool = True) -> Rows:
        """The rows of a run whose shards are what the manifest records: every byte is checked. Raises OpenbookError otherwise.

        Without `check`, the rows of whatever lies there.
        """
        dtype = dtype_for(run.recipe.tokenizer.vocab_size)
        record = run.stage_record("tokenize") or {"artifacts": {}}
        names = [name for name in record["artifacts"] if name.startswith("tokens/train/") and name.endswith(".bin")]
        paths = [run.verified("tokenize", name) if check else run.path / name for name in names]
        return cls({path.stem: Shard(path, dtype) for path in paths}, run.recipe)

    def require(self, skipped: int = 0) -> None:
        """Raises InputError if the corpus holds fewer rows than the whole run needs, besides `skipped` microbatches."""
        self.order.require((self.batches.total + skipped) * self.microbatch_rows)

    def sample(self, step: int, microbatch: int, row: int, skipped: int = 0) -> int:
        """The sample number of a row."""
        return (self.batches.first_microbatch(step) + skipped + microbatch) * self.microbatch_rows + row

    def __call__(self, step: int, microbatch: int, skipped: int = 0) -> npt.NDArray[np.int64]:
        """(microbatch_rows, context + 1) token ids. `skipped` whole microbatches were left out before this step."""
        rows = np.empty((self.microbatch_rows, self.context + 1), dtype=np.int64)
        for row in range(self.microbatch_rows):
            name, index = self.order.locate(self.sample(step, microbatch, row, skipped))
            start = index * self.context
            rows[row] = self.shards[name].tokens[start : start + self.context + 1]
        return rows
