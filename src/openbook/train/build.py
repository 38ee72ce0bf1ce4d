"""The train stage: from rows to weights, through checkpoints that let any interruption continue to the same bits."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openbook.documents import read_documents
from openbook.errors import InputError, Stopped
from openbook.files import remove, sha256_json
from openbook.integrity import damage
from openbook.logbook import read
from openbook.model.exchange import save_weights
from openbook.model.score import document_bits
from openbook.model.tokenizer import load_tokenizer
from openbook.progress import say, track
from openbook.recipe import TrainSection
from openbook.run import Outcome, Run, Stage
from openbook.tokens import Rows
from openbook.train.checkpoint import State, load, newest_first, read_state, save
from openbook.train.contract import Contract, changes, contract
from openbook.train.fingerprint import fingerprint
from openbook.train.history import History, history
from openbook.train.peak import matmul_flops_per_second
from openbook.train.step import PRECISIONS, Trainer
from openbook.train.workers import Solo, Workers, require_agreement, require_enough_work


def parameters(run: Run) -> Any:
    """What shapes the weights, and nothing that does not: how often to look or to save may change in mid-run."""
    shaping = run.recipe.shaping()
    mixture = {name: [part.weight, part.max_epochs] for name, part in run.recipe.corpus.components.items()}
    return {"seed": shaping["seed"], "model": shaping["model"], "train": shaping["train"], "mixture": mixture}


def choose_device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError('train.device = "cuda": torch sees no CUDA device here; use "auto" or "cpu"')
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that receives the signals that ask to stop; the loop looks at it between steps, where the state is whole."""
    asked: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda received, _: asked.append(received)) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def combined_peak(workers: Workers, device: torch.device, precision: str) -> float:
    """What all workers can do together, measured while all of them measure: floating-point operations a second."""
    workers.gather(0)  # none begins while another is still loading
    return sum(workers.gather(matmul_flops_per_second(device, PRECISIONS[precision])))


def require_one_contract(workers: Workers, own: Contract) -> None:
    """Raises Disagreement if workers round differently: then the bits would depend on who computes what."""
    require_agreement(workers, sha256_json(own), "the numerics contract")


def require_one_state(workers: Workers, step: int, mark: str) -> None:
    """Raises Disagreement if the fingerprints of what workers hold differ: then something failed without a word."""
    require_agreement(workers, mark, f"the weights after step {step}")


def is_due(section: TrainSection, step: int, *periods: int | None) -> bool:
    """Whether one of the periods ends with a step; the last step ends all of them."""
    return step == section.steps or any(period and step % period == 0 for period in periods)


class Session:
    """One attempt at a run's training: from the newest whole checkpoint, or from the beginning, to the end."""

    def __init__(self, run: Run, workers: Workers) -> None:
        self.run, self.section, self.workers = run, run.recipe.train, workers
        require_enough_work(workers.world, self.section.microbatches)
        if self.section.threads:
            torch.set_num_threads(self.section.threads)
        self.rows = Rows.open(run)
        self.rows.order.require(self.section.steps * self.section.microbatches * self.section.microbatch_rows)
        self.device = choose_device(self.section.device)
        self.trainer = Trainer(run.recipe, self.device, workers)
        self.key = run.key(STAGE)
        self.past: History = history(read(run.logbook_path), self.key)
        self.root = run.path / "checkpoints"
        self.contract = contract(self.device, self.section.precision)
        self.state = self._resume()
        workers.gather(self.state.step)
        require_one_contract(workers, self.contract)
        self.peak = combined_peak(workers, self.device, self.section.precision)
        self.validation = Validation(run)

    @property
    def tokens_per_step(self) -> int:
        return self.section.microbatches * self.section.microbatch_rows * self.rows.context

    def _resume(self) -> State:
        """Loads the newest checkpoint of this training that is undamaged."""
        book = self.run.logbook
        state = State(self.key, 0, 0, 0.0, self.contract)
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
            state = self._under_contract(read_state(folder))
            load(folder, self.trainer.tensors())
            break
        lost_steps, lost_seconds = self.past.lost_after(state.step)
        if self.past.killed or (lost_steps and not self.past.earlier[-1].finished):
            cause = "killed without a word" if self.past.killed else self.past.earlier[-1].fate
            book.append("interruption", cause=cause, lost_steps=lost_steps, lost_seconds=round(lost_seconds, 3))
        if self.past.earlier:
            book.append("resume", step=state.step, checkpoint=f"checkpoints/step-{state.step:08d}" if state.step else None)
            say(f"  continuing after step {state.step} of {self.section.steps}")
        return state

    def _under_contract(self, state: State) -> State:
        """The state of a checkpoint, to be continued here. Raises InputError if that needs a change which nobody has accepted."""
        changed = changes(state.contract, self.contract) if state.contract else []
        if changed and self.run.accepted_change is None:
            raise InputError(
                f"{self.run.path}: step {state.step} was computed under another numerics contract ({'; '.join(changed)}), so that going on"
                ' changes the bits; go back, or repeat the command with --accept-change "why"'
            )
        if changed:
            self.run.logbook.append("contract.amended", step=state.step, changed=changed, why=self.run.accepted_change)
        return replace(state, contract=self.contract)

    def carry_out(self) -> None:
        """Steps until the recipe's last. Raises Stopped, with everything saved, when asked to stop."""
        config = self.trainer.model.config
        self.run.logbook.append("membership", world=self.workers.world, attempt=self.workers.attempt)
        self.run.logbook.append(
            "train.begin",
            parameters=sum(parameter.numel() for parameter in self.trainer.model.parameters()),
            flops_per_token=config.flops_per_token(),
            peak_flops_per_second=self.peak,
            steps=self.section.steps,
            tokens_per_step=self.tokens_per_step,
            device=str(self.device),
            contract=self.contract,
        )
        with stop_requests() as asked, track("train", self.section.steps) as bar:
            while self.state.step < self.section.steps:
                loss, speed = self._step()
                done = self.state.step
                stop = int(max(self.workers.gather(max(asked, default=0))))
                if done % self.section.validate_every == 0 or done == self.section.steps:
                    self._validate()
                if stop or is_due(self.section, done, self.section.checkpoint_every, self.section.permanent_every):
                    self._save()
                elif is_due(self.section, done, self.section.fingerprint_every):
                    self.run.logbook.append("fingerprint", step=done, fingerprint=fingerprint(self.trainer.tensors()))
                if stop and done < self.section.steps:
                    self._part()
                    cause = signal.Signals(stop).name
                    raise Stopped(f"{self.run.path}: stopped by {cause} after step {done}; the same command continues", cause=cause)
                share = speed * config.flops_per_token() / self.peak
                bar.update(done, f"step {done}  loss {loss:.3f}  {self.validation.note}{speed:,.0f} tokens/s  {share:.0%} of peak")
        # A neighbour on the machine may have spoilt the first measurement: what was reached at least once is the peak.
        self.peak = max(self.peak, combined_peak(self.workers, self.device, self.section.precision))
        self._part()

    def _part(self) -> None:
        """Lets the other workers go, now that everything is saved, and adds what they cost to this attempt's cost."""
        elsewhere = sum(self.workers.gather(0))
        if self.run.meter:
            self.run.meter.elsewhere += elsewhere

    def _step(self) -> tuple[float, float]:
        begin = time.perf_counter()
        result = self.trainer.step(self.state.step, self.rows)
        seconds = time.perf_counter() - begin
        state = self.state
        tokens = state.tokens + self.tokens_per_step
        self.state = replace(state, step=state.step + 1, tokens=tokens, seconds=round(state.seconds + seconds, 4))
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
        tensors = self.trainer.tensors()
        mark = fingerprint(tensors)
        require_one_state(self.workers, self.state.step, mark)
        folder = save(self.root, self.state, tensors, self.section.keep_checkpoints, self.section.permanent_every)
        size = sum(file.stat().st_size for file in folder.iterdir())
        seconds = round(time.perf_counter() - begin, 4)
        self.run.logbook.append(
            "checkpoint",
            step=self.state.step,
            path=str(folder.relative_to(self.run.path)),
            bytes=size,
            seconds=seconds,
            fingerprint=mark,
            cost=self.run.meter.cost() if self.run.meter else {},  # the last that is known of it if the process is killed
        )
        self.run.logbook.sync()


def validation_texts(path: Path, limit: int) -> list[str]:
    """Documents that together have at most `limit` bytes; where each of them is longer than that, the beginning of the first one."""
    texts: list[str] = []
    size, first = 0, ""
    for document in read_documents(path):
        first = first or document.text
        if size + document.bytes <= limit:
            texts.append(document.text)
            size += document.bytes
    return texts or ([first.encode()[:limit].decode(errors="ignore")] if first else [])


class Validation:
    """A fixed part of each component's held-out documents, scored now and then while training."""

    def __init__(self, run: Run) -> None:
        self.tokenizer = load_tokenizer(run.path / "tokenizer" / "tokenizer.json")
        self.stride = run.recipe.model.context  # windows side by side: half the work of the final evaluation
        self.note = ""
        self.documents: dict[str, tuple[list[list[int]], int]] = {}
        for name in run.recipe.corpus.components:
            texts = validation_texts(run.path / "corpus" / name / "valid.parquet", run.recipe.train.validate_bytes)
            if texts:
                self.documents[name] = ([self.tokenizer.encode(text) for text in texts], sum(len(text.encode()) for text in texts))

    def score(self, trainer: Trainer) -> tuple[dict[str, float], float]:
        """Bits per byte of each component, and of all the bytes together."""
        bits: dict[str, float] = {}
        for name, (ids, _) in self.documents.items():
            bits[name] = math.fsum(part for _, part in document_bits(trainer.model, ids, self.tokenizer.end_of_document, self.stride))
        total = sum(size for _, size in self.documents.values())
        mean = sum(bits.values()) / total if total else math.nan
        return {name: round(bits[name] / size, 4) for name, (_, size) in self.documents.items()}, round(mean, 4)


def build(run: Run, workers: Workers | None = None) -> Outcome:
    session = Session(run, workers or Solo())
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
        "workers": session.workers.world,
        "precision": session.section.precision,
        "threads": torch.get_num_threads(),
    }


STAGE = Stage("train", 1, ("tokenize",), parameters, build)


def stage_with(workers: Workers) -> Stage:
    """The train stage, carried out as one of these workers; for rank 0, which is the one that writes."""
    return replace(STAGE, carry_out=lambda run: build(run, workers))
