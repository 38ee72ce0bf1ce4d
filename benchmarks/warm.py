"""Starts openbook by forking a process that has imported torch: a start takes a tenth of a second, where python takes many.

What is started is openbook as it is, but for the measurement of the machine's peak: processes with arguments, environment, files and
signals of their own, which a kill ends like any other. Workers that it starts are forks as well. Faults of chaos.py may be built in.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar, Never

import torch

import chaos


def begin(arguments: Sequence[str], faults: Sequence[str] = (), said: Path | None = None, result: Path | None = None) -> int:
    """`openbook arguments` with faults as a process; returns its number. What it says goes to `said`, what it prints to `result`."""
    chaos.imports()
    child = os.fork()
    if child == 0:
        _become(lambda: _openbook(arguments, faults), said, result)
    return child


def end(process: int) -> int:
    """Waits; the exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def openbook(*arguments: object, faults: Sequence[str] = (), said: Path | None = None, result: Path | None = None) -> int:
    """The same to its end; returns its exit status."""
    return end(begin([str(argument) for argument in arguments], faults, said, result))


def _openbook(arguments: Sequence[str], faults: Sequence[str]) -> None:
    launch: Any = importlib.import_module("openbook.train.launch")
    session: Any = importlib.import_module("openbook.train.session")
    launch.subprocess = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    session.combined_peak = lambda *_: 1e11  # to measure it takes longer than a tiny training, and no drill asks for it
    if faults:
        chaos.main([*faults, "--", *arguments])
    _command(arguments)


def _command(arguments: Sequence[str]) -> None:
    from openbook.cli import main

    sys.argv = ["openbook", *arguments]
    main()


def _become(work: Callable[[], None], said: Path | None = None, result: Path | None = None) -> Never:
    """What a child does instead of all that its parent had in mind."""
    status = 99
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        torch.set_num_threads(1)
        _to_file(result or Path(os.devnull), 1)
        if said:
            _to_file(said, 2)
        work()
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _to_file(path: Path, number: int) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, number)
    os.close(opened)
    stream = os.fdopen(os.dup(number), "w", buffering=1)
    setattr(sys, "stdout" if number == 1 else "stderr", stream)


class Forked:
    """What the supervisor needs of subprocess.Popen."""

    pipes: ClassVar[list[int]] = []
    """Ends of workers' pipes that are this process's, and must not be a worker's as well."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], **_: Any) -> None:
        cut = command.index("--" if "--" in command else "openbook.cli")
        theirs, ours = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            os.dup2(theirs, 0)
            for pipe in (theirs, ours, *self.pipes):
                os.close(pipe)
            os.environ.update(env)
            _become(lambda: _command(command[cut + 1 :]))
        os.close(theirs)
        self.stdin: IO[bytes] = os.fdopen(ours, "wb")
        self.pipes.append(ours)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ended(0)

    def _ended(self, how: int) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, how)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
                self.pipes.remove(self.stdin.fileno())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
