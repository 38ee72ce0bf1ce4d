"""How long a training with `--hot` stands still when one of its workers is killed.

    python benchmarks/hot.py runs/pocket [--workers 3]

RUN has its tokens; its training happens in a copy, in a temporary directory. Prints, as JSON, seconds from SIGKILL to the next committed
step when a worker and when the leader dies, until a spare and until a new process takes part, and from SIGSTOP to the next step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from openbook.logbook import read

PATIENCE = 120.0


class Training:
    """`openbook train RUN --hot` as a process; `said` is what it has said so far."""

    def __init__(self, run: Path, *arguments: object) -> None:
        self.run, self.said = run, ""
        command = [sys.executable, "-m", "openbook.cli", "train", str(run), "--hot", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read(self.run / "logbook.jsonl") if event["event"] == kind]

    def members(self) -> list[int]:
        """The processes that take part, the leader first."""
        told = self.events("membership")
        return list(told[-1]["processes"]) if told else []

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """The condition's value, once it is true."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"it did not come to that; the training said:\n{self.said}")
            time.sleep(0.01)
        return value

    def wait_for_members(self, count: int, without: int = 0) -> float:
        """When so many took part, `without` not among them, in seconds since the epoch."""

        def complete() -> list[float]:
            told = self.events("membership")
            return [when(event) for event in told[-1:] if len(event["processes"]) == count and without not in event["processes"]]

        return float(self.wait_for(complete)[0])

    def step_after(self, moment: float) -> float:
        """When the first step after a moment was committed."""
        return float(self.wait_for(lambda: [when(event) for event in self.events("step") if when(event) > moment])[0])

    def kill(self, process: int, number: int = signal.SIGKILL) -> tuple[float, float]:
        """When it was done, and when the first step was committed by those who had noticed."""
        self.step_after(time.time())  # not while they are busy with something else
        known = len(self.events("membership"))
        moment = time.time()
        os.kill(process, number)
        noticed = self.wait_for(lambda: self.events("membership")[known:])[0]
        return moment, self.step_after(max(moment, when(noticed)))

    def end(self) -> int:
        status = self.process.wait(PATIENCE)
        self._listener.join()
        return status


def when(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def measure(run: Path, workers: int = 3) -> dict[str, float]:
    """Trains `run`, which has no training yet, and kills. Seconds, by what happened."""
    training = Training(run, "--workers", workers, "--spares", 1)
    training.wait_for_members(workers)
    time.sleep(10)  # until the spare is ready
    victim = training.members()[-1]
    moment, step = training.kill(victim)
    taken_over = training.wait_for_members(workers, victim)
    found = {"worker_loss": step - moment, "spare_takes_over": taken_over - moment}
    time.sleep(10)
    leader = training.members()[0]
    moment, step = training.kill(leader)
    found["leader_loss"] = step - moment
    training.wait_for_members(workers, leader)
    moment, step = training.kill(training.members()[-1], signal.SIGSTOP)
    found["worker_stopped"] = step - moment
    stop(training)
    training = Training(run, "--workers", workers)
    training.wait_for_members(workers)
    victim = training.members()[-1]
    moment, _ = training.kill(victim)
    found["new_process_takes_part"] = training.wait_for_members(workers, victim) - moment
    stop(training)
    return {what: round(seconds, 2) for what, seconds in found.items()}


def strip_training(run: Path) -> None:
    """Makes a finished run one that has not been trained."""
    for name in ("checkpoints", "weights", "scores"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "logbook.jsonl").unlink()
    manifest = json.loads((run / "manifest.json").read_bytes())
    manifest["stages"] = {name: record for name, record in manifest["stages"].items() if name in ("corpus", "tokenize")}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def stop(training: Training) -> None:
    training.process.terminate()
    if training.end() != 75:
        raise AssertionError(training.said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(options.run, run, symlinks=True)
        strip_training(run)
        print(json.dumps(measure(run, options.workers)))


if __name__ == "__main__":
    sys.exit(main())
