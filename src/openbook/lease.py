"""Who may write a run: the process that has taken the newest number.

The run's lock keeps two processes of one machine apart. Where a file system does not share locks between machines, or a process slept
while another one took over, two may believe that the run is theirs. So whoever gets the lock takes a lease: a number one higher than the
last one, in RUN/.lease. Before each write that counts, the holder looks whether the lease is still its own; if not, it stops.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openbook.errors import OpenbookError
from openbook.files import write_text

NAME = ".lease"


class Overtaken(OpenbookError):
    """Another process has taken the run over, and this one writes nothing more."""


def holder(run: Path) -> dict[str, Any]:
    """The newest lease of a run: number, host, process, since. Number 0 and nothing else if there is none, or the disk has spoilt it."""
    try:
        facts: dict[str, Any] = json.loads((run / NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return {"number": 0}
    return facts


class Lease:
    """Taken when it is made, by a process that has the run's lock."""

    def __init__(self, run: Path) -> None:
        self._run, self.number = run, holder(run)["number"] + 1
        since = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._text = json.dumps({"number": self.number, "host": socket.gethostname(), "process": os.getpid(), "since": since}) + "\n"
        write_text(run / NAME, self._text)

    def require(self) -> None:
        """Raises Overtaken if the newest lease is not this one."""
        try:
            found = (self._run / NAME).read_bytes()
        except FileNotFoundError:
            found = b""
        if found != self._text.encode():
            other = holder(self._run)
            who = f"process {other['process']} on {other['host']}, since {other['since']}" if other["number"] else "its .lease is gone"
            raise Overtaken(f"{self._run}: another process took over this run ({who}); this one stops and writes nothing more")
