"""The drill's claims about what goes wrong: kills, crashes in saves, lost and hanging workers, bad data, flipped bits."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import crash_save
import hot
import warm
from drill_rig import Claim, Rig, ended, events, killed, newest_step, wait_for_step, workers_of

PHASES = ("forward", "backward", "reduce", "optimizer", "save", "rename")


def kills(rig: Rig) -> Iterator[Claim]:
    """Some of two workers of one run, in every phase; the others of processes alone, at any moment from their first on."""
    together, alone, steps = (3, 3, 40) if rig.small else (40, 60, 200)
    chance, settings = random.Random(rig.seed), ["train.checkpoint_every=3", f"train.steps={steps}"]
    expected, run = rig.reference(settings), rig.fresh("killed", settings)
    phases = [PHASES[number % len(PHASES)] for number in range(together)]
    chance.shuffle(phases)
    span = (steps - 4) / together
    faults = []
    for number, phase in enumerate(phases):
        rank = 0 if phase in ("save", "rename") else chance.randrange(2)  # only worker 0 saves
        faults.append(f"kill@{phase}:{1 + int(number * span + chance.random() * span)}:{rank}")
    status = rig.train(run, 2, faults)
    hit = len(list((run / "chaos").iterdir()))
    exact = status == 0 and ended(run) == expected
    yield Claim(
        "kills", f"{together} workers killed in one run of 2, in every phase: same bits", f"{hit if exact else 0}/{together}", exact
    )
    right, done, attempts = 0, 0, 0
    while done < alone and attempts < 20:
        run = rig.fresh(f"alone-{attempts}", settings)
        hits = _killed_alone(rig, run, alone - done, chance)
        right, done, attempts = right + hits * (ended(run) == expected), done + hits, attempts + 1
    yield Claim("kills", f"{alone} processes killed at random moments: same bits", f"{right}/{alone}", right == alone)


def _killed_alone(rig: Rig, run: Path, most: int, chance: random.Random) -> int:
    """Kills a run's process again and again until it is done; returns how often it could."""
    hits = 0
    while hits < most:
        before, process = newest_step(run), rig.begin(run)
        time.sleep(chance.random() * 0.5)
        aim = before + chance.randrange(40)  # some die before their first step, most in the midst of them
        if not _reached(run, aim, process):
            return hits
        os.kill(process, signal.SIGKILL)
        hits += killed(warm.end(process))
    rig.train(run)
    return hits


def _reached(run: Path, step: int, process: int) -> bool:
    """Waits for a step; False if the process has ended before."""
    while newest_step(run) < step:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            warm.end(process)
            return False
        time.sleep(0.005)
    return True


def saves(rig: Rig) -> Iterator[Claim]:
    cases = 100 if rig.small else 1000
    with crash_save.scratch() as top:
        operations = crash_save.record(top)
    cut = crash_save.power_cuts(cases, rig.seed, operations)
    claim = f"power cut at any of {len(operations) + 1} moments of saving: the newest checkpoint is whole and right"
    yield Claim("saves", claim, f"{cases - len(cut)}/{cases}", not cut)
    count, failed = crash_save.failures(4 if rig.small else 1)
    yield Claim(
        "saves", "no space for an operation or a byte: no checkpoint lost, no rubbish left", f"{count - len(failed)}/{count}", not failed
    )


def stall(rig: Rig) -> Iterator[Claim]:
    """Real processes that python starts, as a user's are; a worker other than 0 is killed, three times."""
    run, said = rig.fresh("stall", ["train.steps=100000", "train.checkpoint_every=10"]), rig.folder / "stall.said"
    command = [sys.executable, "-m", "openbook.cli", "train", str(run), "--workers", "2"]
    seconds = []
    with said.open("a") as file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as process:
        for _ in range(1 if rig.small else 3):
            wait_for_step(run, newest_step(run) + 25)
            os.kill(workers_of(said)[1], signal.SIGKILL)
            begin, step = time.monotonic(), newest_step(run)
            wait_for_step(run, step + 2)  # the one after the step that may have been on its way
            seconds.append(time.monotonic() - begin)
        process.kill()
    claim = "worker killed: seconds until a step is committed that was not before (all workers start again)"
    yield Claim("stall", claim, f"{statistics.median(seconds):.1f} s (median of {len(seconds)})", max(seconds) < 60)


HOT = {
    "worker_loss": ("worker killed: seconds until the next step, by those who are left (--hot)", 3.0),
    "leader_loss": ("the one that writes killed: seconds until the next step (--hot)", 5.0),
    "worker_stopped": ("worker stopped without dying: seconds until the next step (--hot)", 5.0),
    "spare_takes_over": ("worker killed: seconds until a spare takes part in its place (--hot --spares 1)", 5.0),
    "new_process_takes_part": ("worker killed, no spare: seconds until a new process takes part (--hot)", 60.0),
}
"""What hot.py measures, and what would be too long."""


def hot_recovery(rig: Rig) -> Iterator[Claim]:
    """Real processes that python starts; the bits that such a training ends in are the tests' business."""
    found = hot.measure(rig.fresh("hot", ["train.steps=100000", "train.checkpoint_every=50", "train.microbatches=8"]))
    for what, (claim, most) in HOT.items():
        yield Claim("hot", claim, f"{found[what]:.1f} s", found[what] <= most)


WATCHFUL = ["train.anomalies.min_history=8", "train.anomalies.window=16", "train.checkpoint_every=8"]


def anomalies(rig: Rig) -> Iterator[Claim]:
    run, straight = rig.fresh("poisoned", WATCHFUL), rig.fresh("poisoned-by-two", WATCHFUL)
    fine = [rig.train(run, 1, ["poison@20"]), rig.train(straight, 2, ["poison@20", "kill@optimizer:20:1"])] == [0, 0]
    skips = [event["step"] - 20 for event in events(run, "action") if event["kind"] == "skip"]
    holds = fine and skips == [0] and ended(run) == ended(straight)
    yield Claim("anomalies", "poisoned batch is found and skipped, by one process and by two with a kill", f"{skips} steps after it", holds)
    run = rig.fresh("nan", WATCHFUL)
    holds = rig.train(run, 1, ["nan@20"]) == 0 and ended(run) == rig.reference(WATCHFUL)
    kinds = [event["kind"] for event in events(run, "action")]
    yield Claim(
        "anomalies", "a gradient that is no number once is computed again: same bits", ", ".join(kinds), holds and kinds == ["retry"]
    )
    settings = ["train.audit_every=1"]
    run, step = rig.fresh("flipped", settings), 21  # worker 1 of three computes one of the four microbatches, the second
    holds = rig.train(run, 3, [f"flip@{step}:1:1"]) == 0 and ended(run) == rig.reference(settings)
    named = [(event["step"], event["workers"]) for event in events(run, "anomaly") if event["kind"] == "corruption"]
    said = ", ".join(f"worker {workers} in step {at}" for at, workers in named)
    yield Claim("anomalies", "one flipped gradient bit is named to worker 1 in step 21; same bits", said, holds and named == [(step, [1])])


BIGGER = [
    "model.width=128",
    "model.layers=4",
    "model.context=128",
    "train.microbatch_rows=4",
    "train.hours_between_failures=0.006",
    "train.hang_seconds=5",
]


def siege(rig: Rig) -> Iterator[Claim]:
    """A fault every 20 s: now a worker is killed, now one stops in its tracks. How often to save is left to the cost and the failures."""
    seconds, every = (25.0, 8.0) if rig.small else (120.0, 20.0)
    probe = rig.fresh("probe", [*BIGGER, "train.steps=20"])
    rig.train(probe)
    pace = events(probe, "step")[-1]["seconds"] / 20
    settings = [*BIGGER, f"train.steps={int(seconds / 2 / pace)}"]
    expected, run, said = rig.reference(settings), rig.fresh("siege", settings), rig.folder / "siege.said"
    begin, faults = time.monotonic(), 0
    process = warm.begin(["train", str(run), "--workers", "2"], said=said)
    while not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.1)
        if time.monotonic() - begin > every * (faults + 1):
            victim = workers_of(said)[faults // 2 % 2]
            with suppress(ProcessLookupError):  # between two attempts there is nobody
                os.kill(victim, signal.SIGSTOP if faults % 2 else signal.SIGKILL)
            faults += 1
    status, wall = warm.end(process), time.monotonic() - begin
    share = events(run, "step")[-1]["seconds"] / wall
    measured = f"{share:.0%} of {wall:.0f} s, {faults} faults, {len(events(run, 'interruption'))} interruptions"
    yield Claim(
        "siege", f"a fault every {every:g} s: share of time in steps that stay; same bits", measured, status == 0 and ended(run) == expected
    )
