"""Programs that a model wrote, executed where they can do no harm: a process of their own without network, with little memory, time,
disk, and few processes; see `confined`, which is what runs inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

from openbook.errors import OpenbookError

TOLD = 300
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Limits:
    """wall, cpu: seconds. memory: of addresses; disk: of the folder; file: of one file; all bytes."""

    wall: float = 10.0
    cpu: int = 5
    memory: int = 512 << 20
    disk: int = 16 << 20
    file: int = 4 << 20
    files: int = 32
    processes: int = 8
    core: int = 0
    separate: bool = True
    """Whether to try namespaces; without them, audit hooks guard."""


@dataclass(frozen=True)
class Verdict:
    """why: empty for a program that came to its end; else its last error, or what it was ended for. apart: whether in namespaces."""

    passed: bool
    why: str
    apart: bool


def run_program(source: str, limits: Limits | None = None) -> Verdict:
    """Executes a program to its end. Whatever it started is gone when this returns. Raises OpenbookError if the sandbox does not work."""
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="openbook-sandbox-") as place, tempfile.TemporaryFile() as told:
        program, folder = Path(place) / "program.py", Path(place) / "own"
        program.write_text(source, encoding="utf-8", errors="replace")
        folder.mkdir()
        Path(place).chmod(0o711)
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        inside = str(Path(__file__).with_name("confined.py"))
        command = [sys.executable, "-I", "-S", "-B", inside, str(program), str(folder), str(writing), json.dumps(asdict(limits))]
        try:
            why = _carry_out(command, writing, told, limits, place)
        finally:
            os.close(writing)
            with os.fdopen(reading, "rb") as pipe:
                said = pipe.read() or b""
    if not said:
        raise OpenbookError(f"the sandbox did not start: {why or 'it ended without a word'}")
    passed = said.endswith(b" passed") and not why
    return Verdict(passed, "" if passed else why or "it ended itself before its tests", said.startswith(b"apart"))


def _carry_out(command: list[str], writing: int, told: IO[bytes], limits: Limits, place: str) -> str:
    """Empty for exit status 0, else why it ended. What it prints is thrown away, but for the end of its errors."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": place, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told, env=environment, cwd=place, pass_fds=(writing,),
        start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(limits.wall)
    except subprocess.TimeoutExpired:
        return f"took longer than {limits.wall:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode == 0:
        return ""
    told.seek(max(0, told.seek(0, os.SEEK_END) - 4000))
    lines = told.read().decode(errors="replace").strip().splitlines()
    number = -process.returncode if process.returncode < 0 else 256 - process.returncode
    ended = f"ended by signal {number}" if process.returncode not in range(128) else f"exit status {process.returncode}"
    return lines[-1][:TOLD] if lines else ended


def run_programs(sources: Sequence[str], limits: Limits | None = None) -> list[Verdict]:
    """Several programs, as many at a time as there are processors."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(partial(run_program, limits=limits), sources))
