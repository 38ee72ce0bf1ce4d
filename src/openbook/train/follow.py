"""What a worker other than rank 0 does: the same steps, to the same bits, and nothing written."""

from __future__ import annotations

import time

from openbook.run import Run
from openbook.tokens import Rows
from openbook.train.build import choose_device, combined_peak, is_due, require_one_contract, require_one_state, stop_requests
from openbook.train.checkpoint import folder_name, load
from openbook.train.contract import contract
from openbook.train.fingerprint import fingerprint
from openbook.train.step import Trainer
from openbook.train.workers import Seat, Workers, join

NOTHING_TO_DO = -1


def join_for(run: Run, seat: Seat) -> Workers:
    """Takes this process's seat among the workers of a run's training. Raises OpenbookError if the others do not come."""
    return join(seat, choose_device(run.recipe.train.device).type == "cuda")


def dismiss(workers: Workers) -> None:
    """Rank 0's word to those who `follow` that the training is up to date."""
    workers.gather(NOTHING_TO_DO)


def follow(run: Run, workers: Workers) -> None:
    """Waits for rank 0 to say after which step to begin, then takes part to the end, or until any worker is asked to stop.

    Raises LostWorker when rank 0 cannot begin, or when any worker is gone; NotFinite and Disagreement as rank 0 does.
    """
    begin = int(workers.gather(NOTHING_TO_DO)[0])
    if begin == NOTHING_TO_DO:
        return
    section = run.recipe.train
    trainer = Trainer(run.recipe, choose_device(section.device), workers)
    rows = Rows.open(run)
    if begin:
        load(run.path / "checkpoints" / folder_name(begin), trainer.tensors())
    require_one_contract(workers, contract(trainer.device, section.precision))
    combined_peak(workers, trainer.device, section.precision)
    with stop_requests() as asked:
        for step in range(begin, section.steps):
            trainer.step(step, rows)
            stop = any(workers.gather(max(asked, default=0)))
            if stop or is_due(section, step + 1, section.checkpoint_every, section.permanent_every):
                require_one_state(workers, step + 1, fingerprint(trainer.tensors()))
            if stop:
                break
        else:
            combined_peak(workers, trainer.device, section.precision)
        workers.gather(time.process_time())  # rank 0 comes here when all is saved
