"""How many microbatches each step has, as arithmetic on whole numbers: the batch may grow early in a run, by doubling.

GPT-3's batch grows linearly with the tokens seen, from 32,000 tokens to the whole over the first 4 to 12 billion (Brown et al. 2020,
section 2.3). Rounded down to a power of two, a batch that grows linearly with the tokens doubles after equal numbers of steps: a batch
twice as large passes twice as many tokens a step and waits for twice as many to double again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Batches:
    """`start`, 2 * start … microbatches for `stage` steps each, then `microbatches` to the end. All powers of two but the steps."""

    steps: int
    microbatches: int
    start: int = 0
    stage: int = 0

    @classmethod
    def growing(cls, steps: int, microbatches: int, start: int, over: float) -> Batches:
        """The batch is whole after about the share `over` of all microbatches."""
        doublings = (microbatches // start).bit_length() - 1
        # Growth = stage * (microbatches - start) = over * total; total = growth + (steps - stage * doublings) * microbatches.
        share = (microbatches - start) * (1 - over) + over * doublings * microbatches
        return cls(steps, microbatches, start, round(over * steps * microbatches / share)) if doublings else cls(steps, microbatches)

    def microbatches_at(self, step: int) -> int:
        """How many a step (from 0) has."""
        if not self.stage or step // self.stage >= (self.microbatches // self.start).bit_length() - 1:
            return self.microbatches
        return self.start << step // self.stage

    def first_microbatch(self, step: int) -> int:
        """How many all steps before `step` have together, which is the number of its first one."""
        if not self.stage:
            return step * self.microbatches
        doublings = (self.microbatches // self.start).bit_length() - 1
        stage, into = divmod(step, self.stage) if step < doublings * self.stage else (doublings, step - doublings * self.stage)
        return self.stage * self.start * ((1 << stage) - 1) + into * (self.start << stage)

    @property
    def total(self) -> int:
        """Microbatches in the whole run."""
        return self.first_microbatch(self.steps)
