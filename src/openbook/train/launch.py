"""Workers on this machine: N processes of the same command, started together, ended together, started again when one dies or hangs.

The process that starts them computes nothing. Each worker's standard input is a pipe that only this process can write to: when it ends,
however it ends, the pipe closes and the workers end too.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from openbook.errors import AlreadyTold, OpenbookError, Stopped
from openbook.progress import say
from openbook.train.session import ENDED_BY, STOP_REQUESTS
from openbook.train.workers import LOOPBACK, LostWorker

SUPERVISED = "OPENBOOK_SUPERVISED"
"""Set in the environment of workers that this module started."""
RESTARTS = 3
"""How often in a row all workers are started again without a new checkpoint in between."""
GRACE_SECONDS = 10.0
"""What is left to the others to notice that one has ended, and to say so in the logbook."""
STOPPED = (Stopped.INTERRUPTED, Stopped.REQUEUE)
TOLD = (0, 1, 2, *STOPPED)
"""Exit statuses of a worker that came to an end by itself and has said why."""
ANSWER_SECONDS = 3.0
"""How long a worker may take to say what it is doing."""
Worker = subprocess.Popen[bytes]


def supervise(run: Path, world: int, hang_seconds: float, arguments: Sequence[str] = ()) -> None:
    """Carries out a run's train stage in `world` processes, through the death of any of them. `arguments` are handed on to them.

    When the logbook has not grown for `hang_seconds`, what each worker is doing is kept in RUN/evidence, and all are started again.

    Raises AlreadyTold with rank 0's exit status where rank 0 has said what is wrong; Stopped; OpenbookError when workers keep dying.
    """
    command = [sys.executable, "-m", "openbook.cli", "train", str(run), *arguments]
    futile, why = 0, ""
    with stop_requests() as (asked, crew):
        for attempt in range(sys.maxsize):
            before = _newest_checkpoint(run)
            crew[:] = _start(command, world, attempt, why)
            say(f"  {world} workers: processes {' '.join(str(process.pid) for process in crew)}")
            statuses, hung = _wait(crew, run, hang_seconds)
            told = None if hung else _told(statuses)
            if told == 0:
                return
            if told is not None:
                raise AlreadyTold(told)
            if asked:
                raise Stopped(f"{run}: stopped by {asked[0].name}; the same command continues", cause=asked[0].name)
            futile = 0 if _newest_checkpoint(run) != before else futile + 1
            why = f"hang: {hung}" if hung else _how_it_ended(statuses)
            if futile > RESTARTS:
                raise OpenbookError(f"{run}: {what(why)}, {futile} times in a row without a new checkpoint; the logbook has every attempt")
            say(f"  {what(why)}; starting all workers again from the newest checkpoint")


def what(cause: str) -> str:
    """A cause's detail: "killed: worker 1 was …" without its first word, which is for the logbook."""
    return cause.partition(": ")[2]


def _told(statuses: Sequence[int | None]) -> int | None:
    """The status that ends the matter: rank 0's if it ended by itself, else that of a worker that failed and said why."""
    if statuses[0] in TOLD:
        return statuses[0]
    return next((status for status in statuses if status in (1, 2)), None)


def _how_it_ended(statuses: Sequence[int | None]) -> str:
    for rank, status in enumerate(statuses):
        if status is not None and status < 0:
            return f"killed: worker {rank} was killed by {signal.Signals(-status).name}"
    for rank, status in enumerate(statuses):
        if status not in (None, 0, LostWorker.status, *STOPPED):
            return f"killed: worker {rank} ended with status {status}"
    return "lost-worker: the workers lost each other"


def _start(command: Sequence[str], world: int, attempt: int, ended_by: str) -> list[Worker]:
    """Starts all workers, with torchrun's environment, in process groups of their own: Ctrl-C is this process's to hand on."""
    common = {**on_loopback(world), **_meeting_point(), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), SUPERVISED: "1"}
    common |= {"TORCHELASTIC_RESTART_COUNT": str(attempt), ENDED_BY: ended_by}
    return [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
        for rank in range(world)
    ]


def _meeting_point() -> Mapping[str, str]:
    """A free port on the loopback device, a new one for each attempt. Nothing here has a password, so nothing listens elsewhere."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    return {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}


def on_loopback(world: int) -> dict[str, str]:
    """The environment of workers that share this machine, and talk over the loopback device."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    interface = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // world)), **os.environ, **interface}


def _wait(crew: Sequence[Worker], run: Path, hang_seconds: float) -> tuple[list[int | None], str]:
    """Exit statuses by rank, negative for a signal, None for a worker that had to be ended because another one had ended; and, if the
    workers had to be ended because they hung, which one was seen to hang."""
    deadline: float | None = None
    written, heard, hung = 0, time.monotonic(), ""
    while any(process.poll() is None for process in crew):
        failed = any(process.returncode not in (None, 0, *STOPPED) for process in crew)
        now = time.monotonic()
        if deadline is None and (failed or crew[0].returncode is not None):
            deadline = now + GRACE_SECONDS
        if deadline is not None and now > deadline:
            break
        if size(run / "logbook.jsonl") != written:
            written, heard = size(run / "logbook.jsonl"), now
        elif now - heard > hang_seconds:
            hung = f"no word for {hang_seconds:g} s; {odd_one(crew, run)}"
            break
        time.sleep(0.05)
    statuses = [process.poll() for process in crew]
    _end(crew)
    for process in crew:
        remove_empty_evidence(run, process)
    return statuses, hung


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def odd_one(crew: Sequence[Worker], run: Path) -> str:
    """Asks all workers what they are doing, and names those that do not answer."""
    files = [evidence_file(run, process.pid) for process in crew]
    for process in crew:
        process.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline and not all(map(size, files)):
        time.sleep(0.05)
    mute = [str(rank) for rank, file in enumerate(files) if not size(file)]
    where = f"what the others were doing is in {files[0].parent}"
    return f"worker {', '.join(mute)} did not answer, {where}" if mute else f"all workers answered, {where}"


def _end(crew: Sequence[Worker]) -> None:
    for process in crew:
        process.kill()
    for process in crew:
        process.wait()
        if process.stdin:
            process.stdin.close()


@contextmanager
def stop_requests(told: slice = slice(1)) -> Iterator[tuple[list[signal.Signals], list[Worker]]]:
    """Hands requests to stop on to a part of the crew: to rank 0, which tells the others. Whatever happens, no worker is left behind."""
    asked: list[signal.Signals] = []
    crew: list[Worker] = []

    def hand_on(number: int, _: object) -> None:
        asked.append(signal.Signals(number))
        for process in crew[told]:
            process.send_signal(number)  # which does nothing if it has ended

    before = {number: signal.signal(number, hand_on) for number in STOP_REQUESTS}
    try:
        yield asked, crew
    finally:
        _end(crew)
        for number, handler in before.items():
            signal.signal(number, handler)


def _newest_checkpoint(run: Path) -> str:
    return max((path.name for path in (run / "checkpoints").glob("step-????????")), default="")


def evidence_file(run: Path, process: int) -> Path:
    """Where a worker writes what it is doing when it is asked to, by SIGUSR2."""
    return run / "evidence" / f"process-{process}.txt"


def remove_empty_evidence(run: Path, process: Worker) -> None:
    """Of a worker that was never asked what it is doing."""
    if not size(evidence_file(run, process.pid)):
        evidence_file(run, process.pid).unlink(missing_ok=True)


def end_with_supervisor(run: Path) -> threading.Event:
    """Ends this process at once when the one that started it has gone: its end of our standard input closes. Answers it until then.

    What is returned is set when that process calls this one, by writing to it.
    """
    called = threading.Event()
    file = evidence_file(run, os.getpid())
    file.parent.mkdir(exist_ok=True)
    faulthandler.register(signal.SIGUSR2, file=file.open("w"), all_threads=True)

    def watch() -> None:
        while os.read(0, 1):
            called.set()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return called
