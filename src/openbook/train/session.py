"""One attempt at a run's training, by one worker of any number: from the newest whole checkpoint, or from the beginning, to the end.

All workers take the same steps and come to the same decisions; worker 0 alone writes. What it alone knows, where to begin and when to
save, it tells the others.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from openbook.errors import InputError, OpenbookError, Stopped
from openbook.files import remove, sha256_json
from openbook.integrity import damage
from openbook.logbook import read
from openbook.model.count import flops_per_token
from openbook.progress import say, track
from openbook.recipe import TrainSection
from openbook.run import Run
from openbook.tokens import Rows
from openbook.train import cadence
from openbook.train.checkpoint import Saved, Saver, State, load, newest_first, read_state, save, step_of
from openbook.train.contract import changes, choose_device, compute_alike, contract
from openbook.train.fingerprint import fingerprint
from openbook.train.history import History, cause_of, history
from openbook.train.peak import combined_peak
from openbook.train.policy import Memory, straggler
from openbook.train.shards import whole_model
from openbook.train.step import PRECISIONS, StepResult, Trainer
from openbook.train.validation import Validation
from openbook.train.workers import LostWorker, Workers, exchange, require_agreement, require_enough_work

ENDED_BY = "OPENBOOK_ENDED_BY"
"""Set by the supervisor in the environment of workers that it starts again: what ended the ones before."""
STOP_REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LOOKED_AT = 32
"""Steps over which workers' speeds are compared."""
AT_THE_START = 0.05
"""What a save is held to cost, in seconds, before one has been made."""


class NotFinite(OpenbookError):
    """The training cannot go on by itself; every worker comes to the same conclusion in the same step."""


class Silent:
    """The logbook of a worker that writes none."""

    def append(self, event: str, **fields: Any) -> None:
        pass

    def take_notes(self) -> None:
        pass

    def sync(self) -> None:
        pass


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that receives the signals that ask to stop; the loop looks at it between steps, where the state is whole."""
    asked: list[int] = []
    before = {number: signal.signal(number, lambda received, _: asked.append(received)) for number in STOP_REQUESTS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_due(section: TrainSection, step: int, *periods: int | None) -> bool:
    """Whether one of the periods ends with a step; the last step ends all of them."""
    return step == section.steps or any(period and step % period == 0 for period in periods)


class Detour(NamedTuple):
    """The way back to an anchor: the steps up to it as they were, and there the memory with which to go on."""

    anchor: int
    memory: Memory


class Session:
    def __init__(self, run: Run, workers: Workers, key: str) -> None:
        self.run, self.section, self.workers, self.key = run, run.recipe.train, workers, key
        self.writes = workers.rank == 0
        self.book: Any = run.logbook if self.writes else Silent()
        require_enough_work(workers.world, self.section)
        if self.section.threads:
            torch.set_num_threads(self.section.threads)
        self.rows = Rows.open(run)
        self.device = choose_device(self.section.device)
        if self.section.offload and self.device.type == "cpu":
            raise InputError("train.offload = true: there is no GPU here whose memory it could save; leave it out")
        compute_alike(self.device)
        self.trainer = Trainer(run.recipe, self.device, workers)
        self.root = run.path / "checkpoints"
        self.contract = contract(self.device, self.section.precision)
        self.detour: Detour | None = None
        self.validation = Validation(run)
        self.saver = Saver(self._write, workers.host)
        self.save_cost, self.saved_at = AT_THE_START, time.monotonic()
        self.anchor_every = self.section.anomalies.anchor_every if self.section.anomalies.enabled else None
        self.speeds: deque[list[float]] = deque(maxlen=LOOKED_AT)
        self._begin()

    def _begin(self) -> None:
        """Where this training goes on, and what all workers together can do."""
        self.past: History = history(read(self.run.logbook_path), self.key)
        self.state = self._resume()
        self.rows.require(self.state.memory.skipped)
        require_agreement(self.workers, sha256_json(self.contract), "the numerics contract")
        self.peak = combined_peak(self.workers, self.device, PRECISIONS[self.section.precision])

    def tokens_in(self, step: int) -> int:
        """Tokens of a step (from 0)."""
        return self.section.batches.microbatches_at(step) * self.section.microbatch_rows * self.rows.context

    def _resume(self) -> State:
        """Where worker 0 finds that this training can go on, with the tensors of that."""
        state = self._newest() if self.writes else State(self.key, 0, 0, 0.0)
        step = int(self.workers.gather(state.step)[0][0])
        if step and not self.writes:
            state = read_state(self.root / f"step-{step:08d}")
        if step:
            load(self.root / f"step-{step:08d}", self.trainer.tensors())
        return replace(state, contract=self.contract)

    def _newest(self) -> State:
        """The state in the newest checkpoint of this training that is undamaged."""
        state = State(self.key, 0, 0, 0.0, self.contract)
        for folder in newest_first(self.root):
            problem = damage(folder)
            if problem:
                self.book.append("checkpoint.damaged", path=str(folder.relative_to(self.run.path)), why=problem)
                say(f"  {folder}: {problem}; using the one before it")
                remove(folder)
                continue
            if read_state(folder).key != self.key:
                say(f"  {folder}: belongs to another recipe or corpus; removed")
                remove(folder)
                continue
            state = read_state(folder)
            self._require_contract(state)
            break
        self._tell_of_the_past(state, f"checkpoints/step-{state.step:08d}" if state.step else None)
        return state

    def _tell_of_the_past(self, state: State, checkpoint: str | None) -> None:
        """What ended the attempt before, if there was one, and where this one goes on."""
        lost_steps, lost_seconds = self.past.lost_after(state.step)
        ended_by = os.environ.get(ENDED_BY, "")
        if self.past.killed or ended_by or (lost_steps and not self.past.earlier[-1].finished):
            cause, detail = cause_of(self.past, ended_by)
            self.book.append("interruption", cause=cause, detail=detail, lost_steps=lost_steps, lost_seconds=round(lost_seconds, 3))
        if self.past.earlier:
            self.book.append("resume", step=state.step, checkpoint=checkpoint)
            say(f"  continuing after step {state.step} of {self.section.steps}")

    def _require_contract(self, state: State) -> None:
        """Raises InputError if going on from a checkpoint needs a change which nobody has accepted."""
        changed = changes(state.contract, self.contract) if state.contract else []
        if changed and self.run.accepted_change is None:
            raise InputError(
                f"{self.run.path}: step {state.step} was computed under another numerics contract ({'; '.join(changed)}), so that going on"
                ' changes the bits; go back, or repeat the command with --accept-change "why"'
            )
        if changed:
            self.book.append("contract.amended", step=state.step, changed=changed, why=self.run.accepted_change)

    def carry_out(self) -> None:
        """Steps until the recipe's last. Raises Stopped, with everything saved, when asked to stop."""
        self._announce()
        try:
            with stop_requests() as asked, self._progress() as bar:
                while self.state.step < self.section.steps:
                    self._advance(asked, bar)
            self._collect(wait=True)
        except LostWorker:
            self._collect(wait=True)  # a save that failed is what made the others leave, if one has
            raise
        finally:
            self.saver.close()
        # A neighbour on the machine may have spoilt the first measurement: what was reached at least once is the peak.
        self.peak = max(self.peak, combined_peak(self.workers, self.device, PRECISIONS[self.section.precision]))
        self._part()

    def _announce(self, **more: Any) -> None:
        """Who takes part, and in what."""
        shards, config = self.trainer.holding.width, self.trainer.model.config
        self.book.append(
            "membership", world=self.workers.world, attempt=self.workers.attempt, shards=shards, hosts=self.workers.hosts, **more
        )
        self.book.append(
            "train.begin",
            parameters=sum(parameter.numel() for parameter in self.trainer.model.parameters()),
            flops_per_token=flops_per_token(config),
            peak_flops_per_second=self.peak,
            steps=self.section.steps,
            tokens_per_step=self.tokens_in(self.section.steps),
            device=str(self.device),
            contract=self.contract,
        )

    @contextmanager
    def _progress(self) -> Iterator[Any]:
        if self.writes:
            with track("train", self.section.steps) as bar:
                yield bar
        else:
            yield None

    def _advance(self, asked: list[int], bar: Any) -> None:
        """One step and what is due after it; or the way back, where the policy says so."""
        self.book.take_notes()
        begin = time.perf_counter()
        with self._phase("step"):
            result = self.trainer.step(self.state.step, self.rows, self.state.memory)
        seconds = time.perf_counter() - begin
        for event, facts in result.findings:
            self.book.append(event, **facts, **self._host_of(facts.get("worker")))
            if event == "action" and self.writes:
                say(f"  {facts['why']}")
        if result.decision.kind == "stop":
            self.book.sync()
            raise NotFinite(result.decision.why)
        if result.decision.kind == "rollback":
            self._go_back(result)
            return
        self._committed(result, seconds)
        done = self.state.step
        table = self._exchange(max(asked, default=0), self._save_is_due(), result.computing)
        stop, save_now = int(max(row[0] for row in table)), bool(table[0][1])
        self._compare_speeds([row[2] for row in table])
        if done % self.section.validate_every == 0 or done == self.section.steps:
            self._validate()
        self._evaluate(done)
        self._collect()
        if stop or save_now or is_due(self.section, done, self.section.checkpoint_every, self.section.permanent_every, self.anchor_every):
            self._save()
        elif is_due(self.section, done, self.section.fingerprint_every):
            mark = fingerprint(self.trainer.tensors())
            self.book.append("fingerprint", step=done, branch=self.state.memory.branch, fingerprint=mark)
        if stop and done < self.section.steps:
            self._collect(wait=True)
            self._part()
            cause = signal.Signals(stop).name
            raise Stopped(f"{self.run.path}: stopped by {cause} after step {done}; the same command continues", cause=cause)
        if bar:
            speed = self.tokens_in(done - 1) / seconds
            share = speed * flops_per_token(self.trainer.model.config) / self.peak
            bar.update(done, f"step {done}  loss {result.loss:.3f}  {self.validation.note}{speed:,.0f} tokens/s  {share:.0%} of peak")

    def _exchange(self, *news: float) -> list[tuple[float, ...]]:
        """Everybody's news by rank, between steps."""
        return self.workers.gather(*news)

    def _committed(self, result: StepResult, seconds: float) -> None:
        state = self.state
        memory, tokens = result.memory, self.tokens_in(state.step)
        self.state = replace(
            state, step=state.step + 1, tokens=state.tokens + tokens, seconds=round(state.seconds + seconds, 4), memory=memory
        )
        if self.past.contradicts(memory.branch, self.state.step, result.loss, result.norm):
            before = self.past.steps[memory.branch, self.state.step]["loss"]
            self.book.append("replay.mismatch", step=self.state.step, loss=result.loss, before=before)
            say(f"  step {self.state.step} gave another result than before the interruption: has the machine or a library changed?")
        facts = {"step": self.state.step, "tokens": self.state.tokens, "seconds": self.state.seconds, "branch": memory.branch}
        times = {"compute_seconds": round(result.computing, 4), "exchange_seconds": round(result.waiting, 4)}
        speed = round(tokens / seconds, 1)
        more = {"experts": result.experts} if result.experts else {}
        self.book.append("step", **facts, **times, loss=result.loss, norm=result.norm, rate=result.rate, tokens_per_second=speed, **more)
        if self.detour and self.state.step == self.detour.anchor:
            self._arrive()

    def _go_back(self, result: StepResult) -> None:
        """Back to the newest state at or before the anchor. From there to the anchor, nothing is new."""
        anchor = result.decision.anchor
        assert anchor is not None
        self.detour = Detour(anchor, result.memory)
        self._collect(wait=True)
        self._exchange(0)  # nobody loads what is being written, and nobody removes what is being loaded
        folders = [folder for folder in newest_first(self.root) if damage(folder) is None]
        if self.writes:
            for folder in folders:
                if step_of(folder) > anchor:
                    remove(folder)
        at = next((folder for folder in folders if step_of(folder) <= anchor), None)
        if at:
            self.state = replace(read_state(at), contract=self.contract)
            load(at, self.trainer.tensors())
        else:
            self.trainer.begin_again()
            self.state = State(self.key, 0, 0, 0.0, self.contract)
        self._exchange(0)
        if self.state.step == anchor:
            self._arrive()

    def _arrive(self) -> None:
        """At the anchor: from here on, the training takes another way. What lies on disk says so at once."""
        assert self.detour
        self.state = replace(self.state, memory=self.detour.memory)
        self.detour = None
        if self.state.step:
            self._save()

    def _compare_speeds(self, seconds: list[float]) -> None:
        self.speeds.append(seconds)
        if len(seconds) > 1 and self.state.step % LOOKED_AT == 0 and len(self.speeds) == LOOKED_AT:
            for rank, score in straggler(list(zip(*self.speeds, strict=True))):
                evidence = {"median_seconds": [round(sorted(own)[LOOKED_AT // 2], 4) for own in zip(*self.speeds, strict=True)]}
                found = {"kind": "straggler", "step": self.state.step, "worker": rank, "score": round(score, 2), "evidence": evidence}
                self.book.append("anomaly", **found, **self._host_of(rank))

    def _host_of(self, rank: int | None) -> dict[str, str]:
        return {"host": self.workers.hosts[rank]} if rank is not None and rank < len(self.workers.hosts) else {}

    def _validate(self) -> None:
        if self.writes or self.workers.mesh:  # the parts of a sharded model meet in every pass
            with self._phase("validate"), exchange() if self.workers.mesh else nullcontext():
                scores, mean = self.validation.score(self.trainer)
            facts = {"step": self.state.step, "tokens": self.state.tokens, "seconds": self.state.seconds}
            self.book.append("validation", **facts, bits_per_byte=scores, mean=mean)

    def _evaluate(self, done: int) -> None:
        section = self.run.recipe.evaluate
        if not (section.tasks and is_due(self.section, done, section.every)):
            return
        with self._phase("validate"), torch.random.fork_rng(devices=[]):
            model = whole_model(self.trainer.model, keep=self.writes)
            if not (self.writes and self.run.watch):
                return
            found = self.run.watch(model, f"{self.key} branch {self.state.memory.branch}", done)
        self.book.append("evaluation", step=done, tokens=self.state.tokens, seconds=self.state.seconds, tasks=found)

    def _save_is_due(self) -> bool:
        """Where the recipe does not say how often to save: whether it pays by now."""
        if self.section.checkpoint_every:
            return False
        hours = cadence.mean_time_between_failures(self.section.hours_between_failures, self.past.hours, self.past.interruptions)
        interval = cadence.interval_seconds(self.save_cost, hours) / 2**self.past.futile
        return cadence.is_due(time.monotonic(), self.saved_at, interval)

    def _save(self) -> None:
        self._collect(wait=True)
        begin = time.perf_counter()
        with self._phase("save"):
            tensors = self.trainer.tensors()
            mark = fingerprint(tensors)
            self._agree(mark)
            if self.workers.rank < self.trainer.holding.width:
                self.saver.begin(self.state, tensors, mark, begin)
        self.saved_at = time.monotonic()

    def _agree(self, mark: str) -> None:
        require_agreement(self.workers, mark, f"the weights after step {self.state.step}")

    def _phase(self, name: str) -> AbstractContextManager[None]:
        """Books what a piece of work costs under its name, where there is a meter."""
        return self.run.meter.phase(name) if self.run.meter else nullcontext()

    def _write(self, state: State, tensors: Any) -> Path:
        group = self.workers.host.get_group() if self.workers.host else None
        keep, permanent_every = self.section.keep_checkpoints, self.section.permanent_every
        return save(self.root, state, tensors, keep, permanent_every, self.anchor_every, group, self.run.require_lease)

    def _collect(self, wait: bool = False) -> None:
        """Tells of a save that is done."""
        saved: Saved | None = self.saver.collect(wait)
        if saved is None or not self.writes:
            return
        self.save_cost = saved.blocking
        self.book.append(
            "checkpoint",
            step=saved.state.step,
            branch=saved.state.memory.branch,
            path=str(saved.folder.relative_to(self.run.path)),
            bytes=sum(file.stat().st_size for file in saved.folder.iterdir()),
            seconds=round(saved.seconds, 4),
            blocking_seconds=round(saved.blocking, 4),
            fingerprint=saved.fingerprint,
            cost=self.run.meter.cost() if self.run.meter else {},  # the last that is known of it if the process is killed
        )
        self.book.sync()

    def _part(self) -> None:
        """Lets the other workers go, now that everything is saved, and adds what they cost to this attempt's cost."""
        elsewhere = self.workers.gather(0 if self.writes else time.process_time())
        if self.writes and self.run.meter:
            self.run.meter.elsewhere += sum(seconds for (seconds,) in elsewhere)
