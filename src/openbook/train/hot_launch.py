"""A crew on this machine that is never started again as a whole: whoever dies is replaced, and the others go on.

The process that starts the workers computes nothing. It serves what they meet through, calls a spare the moment a worker dies, and starts
a process in its place. A worker that was stopped is as good as dead, and may have the run's lock: it is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from openbook.errors import AlreadyTold, InputError, OpenbookError, Stopped
from openbook.progress import say
from openbook.recipe import TrainSection
from openbook.train.contract import choose_device
from openbook.train.hot import CREW, HEARTBEAT_SECONDS, LIGHTHOUSE, NUMBER, STORE, hushed, lighthouse, require_torchft
from openbook.train.launch import RESTARTS, SUPERVISED, TOLD, Worker, odd_one, on_loopback, remove_empty_evidence, size, stop_requests
from openbook.train.workers import LOOPBACK

LOOK_SECONDS = 0.02


def require_hot(section: TrainSection) -> None:
    """Raises InputError if a training cannot go on without a restart."""
    require_torchft()
    if section.shards > 1:
        raise InputError(f"--hot: each worker must hold the whole model; train.shards = {section.shards} should be 1")
    if choose_device(section.device).type != "cpu":
        raise InputError('--hot: workers exchange gradients between CPUs; train.device should be "cpu"')


def supervise_hot(run: Path, world: int, spares: int, hang_seconds: float, arguments: Sequence[str] = ()) -> None:
    """Carries out a run's train stage in `world` processes, with `spares` more that stand by. `arguments` are handed on to them.

    Raises AlreadyTold with the status of the leader where it has said what is wrong; Stopped; OpenbookError when workers keep dying.
    """
    command = [sys.executable, "-m", "openbook.cli", "train", str(run), *arguments]
    with hushed(), lighthouse(world) as light, _store() as store, stop_requests(slice(None)) as (asked, processes):
        environment = {**on_loopback(world), SUPERVISED: "1", LIGHTHOUSE: str(light), STORE: str(store), CREW: str(world)}
        crew = Crew(command, environment, world, spares, processes)
        watch = Watch(run, hang_seconds)
        try:
            while (status := _ended_with(crew, watch, asked)) is None:
                if asked and not crew.active:
                    raise Stopped(f"{run}: stopped by {asked[0].name}; the same command continues", cause=asked[0].name)
                if watch.losses > RESTARTS * world:
                    why = f"workers ended {watch.losses} times in a row without a step in between"
                    raise OpenbookError(f"{run}: {why}; the logbook has what they said")
                if not asked:
                    crew.fill()
                time.sleep(LOOK_SECONDS)
        finally:
            for worker in processes:
                remove_empty_evidence(run, worker)
    if status != 0:
        raise AlreadyTold(status)


def _ended_with(crew: Crew, watch: Watch, asked: Sequence[signal.Signals]) -> int | None:
    """The status with which the training has ended; None if it goes on. Who speaks for all ends with such a status, and nobody else."""
    watch.look(crew)
    for worker in crew.collect():
        remove_empty_evidence(watch.run, worker)
        if worker.returncode in TOLD:
            return worker.returncode
        watch.losses += 1
        if not asked:
            say(f"  process {worker.pid} {_how(worker.returncode)}")
    return None


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


@contextmanager
def _store() -> Iterator[int]:
    """Serves the addresses of workers to each other, on the loopback device: torch's own socket would listen everywhere. Gives its port."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    store = dist.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK, port, None, True, timedelta(seconds=60), wait_for_workers=False, master_listen_fd=listener.detach()
    )
    yield port
    del store


class Crew:
    """`active` were called to take part; `spares` are ready, or getting ready, to be. `processes` is to hold all that live."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], world: int, spares: int, processes: list[Worker]) -> None:
        self._command, self._environment = command, environment
        self._world, self._spares = world, spares
        self._processes = processes
        self._started = 0
        self.active: list[Worker] = []
        self.spares: list[Worker] = []

    def fill(self) -> None:
        """Calls spares, and starts processes, until as many as there should be take part and stand by."""
        if len(self.active) == self._world and len(self.spares) == self._spares:
            return
        while len(self.active) < self._world:
            worker = self.spares.pop(0) if self.spares else self._start()
            assert worker.stdin
            try:
                worker.stdin.write(b"!")
                worker.stdin.flush()
            except BrokenPipeError:
                pass  # it has ended, and will be found
            self.active.append(worker)
        while len(self.spares) < self._spares:
            self.spares.append(self._start())
        numbers = [" ".join(str(worker.pid) for worker in group) for group in (self.active, self.spares)]
        say(f"  {self._world} workers: processes {numbers[0]}" + (f"; standing by: {numbers[1]}" if numbers[1] else ""))

    def _start(self) -> Worker:
        environment = {**self._environment, NUMBER: str(self._started)}
        quiet, loud = subprocess.DEVNULL, sys.stderr  # which is not what file descriptor 2 is while native code is hushed
        worker = subprocess.Popen(self._command, env=environment, stdin=subprocess.PIPE, stdout=quiet, stderr=loud, process_group=0)
        self._started += 1
        self._processes.append(worker)
        return worker

    def collect(self) -> list[Worker]:
        """Those that have ended since the last time; they are no longer of the crew."""
        ended = [worker for worker in self._processes if worker.poll() is not None]
        for worker in ended:
            assert worker.stdin
            worker.stdin.close()
            for group in (self._processes, self.active, self.spares):
                if worker in group:
                    group.remove(worker)
        return ended


class Watch:
    """Looks after a crew: kills who was stopped, and all of them when the logbook no longer grows."""

    def __init__(self, run: Path, hang_seconds: float) -> None:
        self.run, self._hang_seconds = run, hang_seconds
        self.losses = 0
        """How many workers have ended since the newest step."""
        self._seen, self._heard = size(run / "logbook.jsonl"), time.monotonic()
        self._stopped: dict[int, float] = {}

    def look(self, crew: Crew) -> None:
        now = time.monotonic()
        for worker in crew.active + crew.spares:
            if not _is_stopped(worker):
                self._stopped.pop(worker.pid, None)
            elif now - self._stopped.setdefault(worker.pid, now) > HEARTBEAT_SECONDS:
                worker.kill()
        grown = size(self.run / "logbook.jsonl")
        if grown == self._seen:
            if now - self._heard > self._hang_seconds:
                say(f"  no word for {self._hang_seconds:g} s; {odd_one(crew.active, self.run)}; all workers are killed")
                for worker in crew.active:
                    worker.kill()
                self._heard = now
            return
        with (self.run / "logbook.jsonl").open("rb") as file:
            file.seek(self._seen)
            news = file.read()
        self._seen, self._heard = grown, now
        if b'"event":"step"' in news:
            self.losses = 0


def _is_stopped(worker: Worker) -> bool:
    """Whether a process does nothing since a SIGSTOP, or the like."""
    try:
        return os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it has ended
        return False
