"""A training whose workers come and go between two steps, without a restart and without a bit of difference.

Until a step is committed, nothing has changed: when an exchange fails, whoever is left meets again and takes the same step, with the whole
batch. A committed step is the same for everybody: who has missed it is handed it by one who has not. Rank 0, who has taken part for
longest, leads: it has the run's lock, and writes. When it dies, the next one goes on writing, in an attempt of its own.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import torch

from openbook.errors import AlreadyTold, InputError, OpenbookError, Stopped
from openbook.lease import holder
from openbook.logbook import read
from openbook.model.exchange import save_weights
from openbook.progress import say, track
from openbook.run import Outcome, Run
from openbook.train.build import ARTIFACTS, STAGE, summary
from openbook.train.checkpoint import State, load, newest_first, step_of
from openbook.train.contract import changes
from openbook.train.history import History, history
from openbook.train.hot import Hot, Place
from openbook.train.peak import matmul_flops_per_second
from openbook.train.policy import Memory
from openbook.train.session import Detour, Session, Silent, is_due, stop_requests
from openbook.train.shards import whole_model
from openbook.train.step import PRECISIONS, StepResult
from openbook.train.workers import LostWorker

LOCK_SECONDS = 10.0
"""How long a new leader waits for the run's lock: the one before may have been stopped, and must be killed first."""
COMMITS_BITS = 32
"""A worker's count of what it has: the number of the lease under which it came from disk, then so many bits for the commits since."""
MEMORY = "memory"
"""Where the logbook says that a training goes on from if no checkpoint was needed."""


class Listening(Silent):
    """The logbook of a worker that writes none; it knows the newest step in case it has to go on writing."""

    def __init__(self) -> None:
        self.step: dict[str, Any] = {}

    def append(self, event: str, **fields: Any) -> None:
        if event == "step":
            self.step = fields


def take_part(run: Run, place: Place, called: threading.Event) -> None:
    """What a worker's process does: gets ready, waits until it is called, and takes part until the training ends or the supervisor ends it.

    Only one process says what is wrong, and ends with that status: the leader, or, where there is none yet, the first to be started.
    Any other raises AlreadyTold with LostWorker's status, and is replaced.
    """
    session: HotSession | None = None
    try:
        session = HotSession(run, Hot(place), run.key(STAGE))
        called.wait()
        session.carry_out()
    except Exception as error:
        if session.writes if session else not 0 < place.number < place.crew:
            raise
        if isinstance(error, Unfit):
            say(f"  {error}")
        elif not isinstance(error, OpenbookError):
            traceback.print_exc()  # nobody else knows of it; the others go on
        raise AlreadyTold(LostWorker.status) from None


class HotSession(Session):
    workers: Hot

    def __init__(self, run: Run, workers: Hot, key: str) -> None:
        super().__init__(run, workers, key)
        self.writes, self.book = False, Listening()
        self.listening: Listening = self.book

    def _begin(self) -> None:
        """With nothing: what there is comes from a peer, or the leader gets it from a checkpoint."""
        self.past = History([], {})
        self.state = State(self.key, 0, 0, 0.0, self.contract)
        self.count = 0
        self.office = ExitStack()
        self.bar: Any = None
        self.going_back = False
        self.told: list[int] = []
        self.committed_at = time.monotonic()
        self.peak = self.workers.place.crew * matmul_flops_per_second(self.device, PRECISIONS[self.section.precision])

    def carry_out(self) -> None:
        """Steps until the recipe's last; the leader then makes the weights and the record, while the others stand by to take over.

        Returns for the leader only. Raises Stopped, with everything saved, when asked to stop.
        """
        self.workers.appear()
        with stop_requests() as asked, self.office:
            try:
                while not self._finished():
                    try:
                        self._meet(asked)
                        if self.state.step < self.section.steps:
                            self._advance(asked, self.bar)
                        if self.state.step == self.section.steps and not self.writes:
                            self._part()
                    except LostWorker:
                        self.workers.fail()
            finally:
                self.saver.close()
            self._collect(wait=True)
            self._part()
            save_weights(whole_model(self.trainer.model, keep=True), self.run.path / "weights", self.validation.tokenizer.end_of_document)
            self.finish(Outcome(ARTIFACTS, summary(self)))

    def _finished(self) -> bool:
        return self.writes and self.state.step == self.section.steps

    def _meet(self, asked: list[int]) -> None:
        """All who live agree on who takes part, and all of these then have the same."""
        while (anew := self.workers.meet(self.count)) is None:
            if asked:
                self._stop(asked[0])
        counts = [member.count for member in self.workers.members]
        newest = max(counts)
        if newest == 0 and self.workers.rank == 0:
            self._lead()
            self._start_from_disk()
        if min(counts) < max(newest, 1):
            self._hand_over(counts.index(newest), self.count == newest > 0)
        if anew:
            self.speeds.clear()
            if self.workers.rank == 0:
                self._tell_of_members()

    def _start_from_disk(self) -> None:
        self.state = replace(self._newest(), contract=self.contract)
        self.rows.require(self.state.memory.skipped)
        if self.state.step:
            load(self.root / f"step-{self.state.step:08d}", self.trainer.tensors())
        self.count = holder(self.run.path)["number"] << COMMITS_BITS  # more than any earlier office ever had

    def _hand_over(self, source: int, has_it: bool) -> None:
        """Makes what everybody has that of rank `source`. A copy that is cut short counts for nothing, except over the same bits."""
        mine = {"state": asdict(self.state), "count": self.count, "last": self.listening.step, "detour": None}
        if self.detour:
            mine["detour"] = {"anchor": self.detour.anchor, "memory": asdict(self.detour.memory)}
        text = torch.frombuffer(bytearray(json.dumps(mine).encode()), dtype=torch.uint8)
        size = torch.tensor([len(text)])
        before, gives = self.count, self.workers.rank == source
        self.count = before if gives or has_it else 0
        self.workers.broadcast([size], source)
        text = text if gives else torch.empty(int(size), dtype=torch.uint8)
        self.workers.broadcast([text, *self.trainer.tensors().values()], source)
        if not (gives or has_it):
            self._take(json.loads(bytes(text.tolist())), before)

    def _take(self, given: Mapping[str, Any], before: int) -> None:
        """Takes over a peer's state, whose tensors have come; a leader that was one step behind tells of the step."""
        state = State(**{**given["state"], "memory": Memory.of(given["state"]["memory"])})
        if changed := changes(state.contract, self.contract):
            raise Unfit(f"a new worker would compute under another numerics contract than its peers: {'; '.join(changed)}")
        ahead = state.step > self.state.step
        self.state, self.count = state, given["count"]
        self.detour = Detour(given["detour"]["anchor"], Memory.of(given["detour"]["memory"])) if given["detour"] else None
        self.listening.step = given["last"]
        if self.writes and before and ahead:
            self.book.append("step", **given["last"])
            self._make_up()

    def _tell_of_members(self) -> None:
        """Rank 0 tells who takes part now and, if it has just come into office, what there is to know of the past."""
        took_over = not self.writes
        if took_over:
            self._lead()
            self._tell_of_the_past(self.state, MEMORY)
            newest = self.listening.step
            if newest and newest["step"] == self.state.step and (newest["branch"], newest["step"]) not in self.past.steps:
                self.book.append("step", **newest)
        processes = [member.process for member in self.workers.members]
        lost, joined = sorted(set(self.told) - set(processes)), sorted(set(processes) - set(self.told))
        stall = round(time.monotonic() - self.committed_at, 3)
        if lost and not took_over:
            names = f"process {' and '.join(map(str, lost))}"
            self.book.append("interruption", cause="killed", detail=f"{names} takes part no more", lost_steps=0, lost_seconds=stall)
            self.book.append("resume", step=self.state.step, checkpoint=MEMORY)
        if not self.told:
            self._announce(processes=processes)
        elif lost or joined:
            facts = {"world": self.workers.world, "attempt": self.workers.attempt, "shards": 1, "processes": processes}
            self.book.append("membership", **facts, joined=joined, lost=lost, seconds=stall)
            say(f"  {self.workers.world} workers take part from step {self.state.step + 1} on")
        self.told = processes
        if took_over:
            self._make_up()

    def _lead(self) -> None:
        """Comes into office: the run's lock, and an attempt in the logbook. Raises Unfit if somebody else has the lock."""
        if self.writes:
            return
        try:
            self.office.enter_context(self.run.locked(LOCK_SECONDS))
        except InputError as error:
            raise Unfit(str(error)) from None
        self.finish: Callable[[Outcome], Any] = self.office.enter_context(self.run.attempt(STAGE))
        self.bar = self.office.enter_context(track("train", self.section.steps))
        self.writes, self.book = True, self.run.logbook
        self.past = history(read(self.run.logbook_path), self.key)
        self.workers.attempt = len(self.past.earlier)

    def _make_up(self) -> None:
        """What was due after the newest step, and for which there was no leader."""
        if self.state.step and is_due(self.section, self.state.step, self.section.validate_every):
            self._validate()
        newest = max((step_of(folder) for folder in newest_first(self.root)), default=0)
        periods = (self.section.checkpoint_every, self.section.permanent_every, self.anchor_every)
        if any(is_due(self.section, step, *periods) for step in range(newest + 1, self.state.step + 1)):
            self._save_alone()

    def _committed(self, result: StepResult, seconds: float) -> None:
        self.count += 1
        super()._committed(result, seconds)
        self.committed_at = time.monotonic()

    def _go_back(self, result: StepResult) -> None:
        """The leader goes back, and hands over what it finds: at the next meeting, the others have less than it has."""
        if not self.writes:
            return
        self.going_back = True
        super()._go_back(result)
        self.going_back = False
        self.count += 1

    def _exchange(self, *news: float) -> list[tuple[float, ...]]:
        """Nothing depends on this news alone: who was asked to stop, or would save, says so again after the next step."""
        if self.going_back:
            return [news]
        try:
            return super()._exchange(*news)
        except LostWorker:
            self.workers.fail()
            return [(0.0,) * len(news)]

    def _agree(self, mark: str) -> None:
        if self.going_back:
            return
        try:
            super()._agree(mark)
        except LostWorker:
            self.workers.fail()

    def _part(self) -> None:
        try:
            super()._part()
        except LostWorker:
            self.workers.fail()

    def _save_alone(self) -> None:
        self.going_back = True
        self._save()
        self.going_back = False

    def _stop(self, number: int) -> None:
        """Raises Stopped, where there is no majority to go on with."""
        if self.writes:
            if self.count and self.state.step:
                self._save_alone()
            self._collect(wait=True)
        cause = signal.Signals(number).name
        raise Stopped(f"{self.run.path}: stopped by {cause} after step {self.state.step}; the same command continues", cause=cause)


class Unfit(OpenbookError):
    """This worker cannot take part; another one may."""

    status = LostWorker.status
