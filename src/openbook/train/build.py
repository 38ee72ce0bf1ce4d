"""The train stage: from rows to weights, through checkpoints that let any interruption continue to the same bits."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from openbook.documents import read_documents
from openbook.errors import InputError, Stopped
from openbook.files import remove
from openbook.logbook import read
from openbook.model.exchange import save_weights
from openbook.model.score import document_bits
from openbook.model.tokenizer import load_tokenizer
from openbook.progress import say, track
from openbook.run import Outcome, Run, Stage
from openbook.tokens import Rows
from openbook.train.checkpoint import State, damage, load, newest_first, read_state, save
from openbook.train.history import History, history
from openbook.train.peak import matmul_flops_per_second
from openbook.train.step import PRECISIONS, Trainer


def parameters(run: Run) -> Any:
    """What shapes the weights, and nothing that does not: how often to look or to save may change in mid-run."""
    recipe = run.recipe
    train = recipe.train.model_dump(
        mode="json", exclude={"threads", "validate_every", "validate_bytes", "checkpoint_every", "keep_checkpoints"}
    )
    weights = {name: [part.weight, part.max_epochs] for name, part in recipe.corpus.components.items()}
    return {"seed": recipe.seed, "model": recipe.model.model_dump(mode="json"), "train": train, "mixture": weights}


def choose_device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError('train.device = "cuda": torch sees no CUDA device here; use "auto" or "cpu"')
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def stop_requests() -> Iterator[list[str]]:
    """A list that receives the name of a signal that asks to stop; the loop looks at it between steps, where the state is whole."""
    asked: list[str] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda received, _: asked.append(signal.Signals(received).name)) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Session:
    """One attempt at a run's training: from the newest whole checkpoint, or from the beginning, to the end."""

    def __init__(self, run: Run) -> None:
        self.run, self.section = run, run.recipe.train
        if self.section.threads:
            torch.set_num_threads(self.section.threads)
        self.rows = Rows.open(run)
        self.rows.order.require(self.section.steps * self.section.microbatches * self.section.microbatch_rows)
        self.device = choose_device(self.section.device)
        self.trainer = Trainer(run.recipe, self.device)
        self.key = run.key(STAGE)
        self.past: History = history(read(run.logbook_path), self.key)
        self.root = run.path / "checkpoints"
        self.state = self._resume()
        self.peak = matmul_flops_per_second(self.device, PRECISIONS[self.section.precision])
        self.validation = Validation(run)

    @property
    def tokens_per_step(self) -> int:
        return self.section.microbatches * self.section.microbatch_rows * self.rows.context

    def _resume(self) -> State:
        """Loads the newest checkpoint of this training that is undamaged."""
        book = self.run.logbook
        state = State(self.key, 0, 0, 0.0)
        for folder in newest_first(self.root):
            problem = damage(folder)
            if problem:
                book.append("checkpoint.damaged", path=str(folder.relative_to(self.run.path)), why=problem)
                say(f"  {folder}: {problem}; using the one before it")
                remove(folder)
                continue
            if read_state(folder).key != self.key:
                say(f"  {folder}: belongs to another recipe or corpus; removed")
                remove(folder)
                continue
            state = read_state(folder)
            load(folder, self.trainer.tensors())
            break
        lost_steps, lost_seconds = self.past.lost_after(state.step)
        if self.past.killed:
            book.append("interruption", cause="killed without a word", lost_steps=lost_steps, lost_seconds=round(lost_seconds, 3))
        if self.past.earlier:
            book.append("resume", step=state.step, checkpoint=f"checkpoints/step-{state.step:08d}" if state.step else None)
            say(f"  continuing after step {state.step} of {self.section.steps}")
        return state

    def carry_out(self) -> None:
        """Steps until the recipe's last. Raises Stopped, with everything saved, when asked to stop."""
        config = self.trainer.model.config
        self.run.logbook.append(
            "train.begin",
            parameters=sum(parameter.numel() for parameter in self.trainer.model.parameters()),
            flops_per_token=config.flops_per_token(),
            peak_flops_per_second=self.peak,
            steps=self.section.steps,
            tokens_per_step=self.tokens_per_step,
            device=str(self.device),
        )
        with stop_requests() as asked, track("train", self.section.steps) as bar:
            while self.state.step < self.section.steps:
                loss, speed = self._step()
                done = self.state.step
                if done % self.section.validate_every == 0 or done == self.section.steps:
                    self._validate()
                if asked or done % self.section.checkpoint_every == 0 or done == self.section.steps:
                    self._save()
                if asked and done < self.section.steps:
                    message = f"{self.run.path}: stopped by {asked[0]} after step {done}; the same command continues"
                    raise Stopped(message, cause=asked[0])
                share = speed * config.flops_per_token() / self.peak
                bar.update(done, f"step {done}  loss {loss:.3f}  {self.validation.note}{speed:,.0f} tokens/s  {share:.0%} of peak")

    def _step(self) -> tuple[float, float]:
        begin = time.perf_counter()
        result = self.trainer.step(self.state.step, self.rows)
        seconds = time.perf_counter() - begin
        state = self.state
        self.state = State(self.key, state.step + 1, state.tokens + self.tokens_per_step, round(state.seconds + seconds, 4))
        speed = self.tokens_per_step / seconds
        book = self.run.logbook
        if self.past.contradicts(self.state.step, result.loss, result.norm):
            book.append("replay.mismatch", step=self.state.step, loss=result.loss, before=self.past.steps[self.state.step]["loss"])
            say(f"  step {self.state.step} gave another result than before the interruption: has the machine or a library changed?")
        facts = {"step": self.state.step, "tokens": self.state.tokens, "seconds": self.state.seconds}
        book.append("step", **facts, loss=result.loss, norm=result.norm, rate=result.rate, tokens_per_second=round(speed, 1))
        return result.loss, speed

    def _validate(self) -> None:
        scores, mean = self.validation.score(self.trainer)
        self.validation.note = f"{mean:.3f} bits/byte  "
        facts = {"step": self.state.step, "tokens": self.state.tokens, "seconds": self.state.seconds}
        self.run.logbook.append("validation", **facts, bits_per_byte=scores, mean=mean)

    def _save(self) -> None:
        begin = time.perf_counter()
        folder = save(self.root, self.state, self.trainer.tensors(), self.section.keep_checkpoints)
        size = sum(file.stat().st_size for file in folder.iterdir())
        seconds = round(time.perf_counter() - begin, 4)
        self.run.logbook.append(
            "checkpoint", step=self.state.step, path=str(folder.relative_to(self.run.path)), bytes=size, seconds=seconds
        )
        self.run.logbook.sync()


class Validation:
    """A fixed part of each component's held-out documents, scored now and then while training."""

    def __init__(self, run: Run) -> None:
        self.tokenizer = load_tokenizer(run.path / "tokenizer" / "tokenizer.json")
        self.stride = run.recipe.model.context  # windows side by side: half the work of the final evaluation
        self.note = ""
        self.documents: dict[str, tuple[list[list[int]], int]] = {}
        for name in run.recipe.corpus.components:
            ids: list[list[int]] = []
            size = 0
            for document in read_documents(run.path / "corpus" / name / "valid.parquet"):
                if size + document.bytes <= run.recipe.train.validate_bytes:
                    ids.append(self.tokenizer.encode(document.text))
                    size += document.bytes
            if size:
                self.documents[name] = (ids, size)

    def score(self, trainer: Trainer) -> tuple[dict[str, float], float]:
        """Bits per byte of each component, and of all the bytes together."""
        bits: dict[str, float] = {}
        for name, (ids, _) in self.documents.items():
            bits[name] = math.fsum(part for _, part in document_bits(trainer.model, ids, self.tokenizer.end_of_document, self.stride))
        total = sum(size for _, size in self.documents.values())
        mean = sum(bits.values()) / total if total else math.nan
        return {name: round(bits[name] / size, 4) for name, (_, size) in self.documents.items()}, round(mean, 4)


def build(run: Run) -> Outcome:
    session = Session(run)
    session.carry_out()
    save_weights(session.trainer.model, run.path / "weights", session.validation.tokenizer.end_of_document)
    return Outcome(["weights/config.json", "weights/model.safetensors"], _summary(session))


def _summary(session: Session) -> dict[str, Any]:
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
        "flops_per_second": speed * model.config.flops_per_token(),
        "peak_flops_per_second": session.peak,
        "utilisation": round(speed * model.config.flops_per_token() / session.peak, 4),
        "loss": last["loss"],
        "bits_per_byte": validation["bits_per_byte"],
        "interruptions": session.past.interruptions,
        "device": str(session.device),
        "precision": session.section.precision,
        "threads": torch.get_num_threads(),
    }


STAGE = Stage("train", 1, ("tokenize",), parameters, build)
