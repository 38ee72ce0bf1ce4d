"""The train stage: from rows to weights, through checkpoints that let any interruption continue to the same bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from openbook.logbook import read
from openbook.model.count import flops_per_token
from openbook.model.exchange import save_weights
from openbook.run import Outcome, Run, Stage
from openbook.train.contract import choose_device
from openbook.train.session import Session
from openbook.train.shards import whole_model
from openbook.train.workers import Seat, Solo, Workers, join, require_enough_work

NOTHING_TO_DO = -1
ARTIFACTS = ["weights/config.json", "weights/model.safetensors"]


def parameters(run: Run) -> Any:
    """What shapes the weights, and nothing that does not: how often to look or to save may change in mid-run."""
    shaping = run.recipe.shaping()
    section = run.recipe.corpus
    mixture = {name: [part.amount, part.max_epochs] for name, part in section.components.items()}
    found = {"seed": shaping["seed"], "model": shaping["model"], "train": shaping["train"], "mixture": mixture}
    return found if section.measure == "weight" else found | {"measure": section.measure}


def build(run: Run, workers: Workers | None = None) -> Outcome:
    crew: Workers = workers or Solo()
    crew.gather(1 + NOTHING_TO_DO)
    session = Session(run, crew, run.key(STAGE))
    session.carry_out()
    save_weights(whole_model(session.trainer.model, keep=True), run.path / "weights", session.validation.tokenizer.end_of_document)
    return Outcome(ARTIFACTS, summary(session))


def dismiss(workers: Workers) -> None:
    """Worker 0's word to those who `follow` that the training is up to date."""
    workers.gather(NOTHING_TO_DO)


def follow(run: Run, workers: Workers) -> None:
    """What a worker other than 0 does: the same steps, to the same bits, and nothing written but its parts of checkpoints.

    Raises LostWorker when worker 0 cannot begin, or when any worker is gone; Stopped, NotFinite and Disagreement as worker 0 does.
    """
    if workers.gather(0)[0][0] == NOTHING_TO_DO:
        return
    session = Session(run, workers, run.key(STAGE))
    session.carry_out()
    whole_model(session.trainer.model, keep=False)


def join_for(run: Run, seat: Seat) -> Workers:
    """Takes this process's seat among the workers of a run's training. Raises OpenbookError if the others do not come."""
    section = run.recipe.train
    require_enough_work(seat.world, section)
    return join(seat, choose_device(section.device).type == "cuda", section.shards)


def summary(session: Session) -> dict[str, Any]:
    state, model = session.state, session.trainer.model
    events = list(read(session.run.logbook_path))
    last = next(event for event in reversed(events) if event["event"] == "step")
    validation: dict[str, Any] = next((event for event in reversed(events) if event["event"] == "validation"), {"bits_per_byte": {}})
    speed = state.tokens / state.seconds
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 1),
        "tokens_per_second": round(speed, 1),
        "flops_per_second": speed * flops_per_token(model.config),
        "peak_flops_per_second": session.peak,
        "utilisation": round(speed * flops_per_token(model.config) / session.peak, 4),
        "loss": last["loss"],
        "bits_per_byte": validation["bits_per_byte"],
        "interruptions": session.past.interruptions,
        "device": str(session.device),
        "workers": session.workers.world,
        "precision": session.section.precision,
        "threads": torch.get_num_threads(),
    }


STAGE = Stage("train", 2, ("tokenize",), parameters, build)


def stage_with(workers: Workers) -> Stage:
    """The train stage, carried out as one of these workers; for rank 0, which is the one that writes."""
    return replace(STAGE, carry_out=lambda run: build(run, workers))
