"""Workers that outlive each other: who takes part is agreed on anew before every step, through torchft's lighthouse.

The lighthouse hears every worker's heartbeat. Workers that want to take a step ask it for a quorum; it answers all of them at once, with
the same list, when all who live have asked and they are a majority. A list that differs from the last one, or an exchange that failed,
makes a new process group. Nobody can go on without a majority, and each tells how much it has: who has less than another is handed it.

Only this module knows torchft (https://github.com/meta-pytorch/torchft); of it, the lighthouse, the heartbeats and the process group that
can be made anew are used. What torchft does with gradients is not: our sums have the same bits for any number of workers.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from openbook.errors import InputError
from openbook.train.workers import LOOPBACK, STEP_SECONDS, Group, LostWorker, exchange, gathered

LIGHTHOUSE, STORE, NUMBER, CREW = "OPENBOOK_LIGHTHOUSE", "OPENBOOK_STORE", "OPENBOOK_NUMBER", "OPENBOOK_CREW"
"""What the supervisor says to its workers in the environment: two ports on the loopback device, how many it started before, and how many
take part."""
HEARTBEAT_SECONDS = 1.0
"""A worker that is silent for so long is held to be dead."""
BEAT_SECONDS = 0.1
CONNECT_SECONDS = 10.0
"""How long the members of a quorum may take to connect; one that died in between is missed after that."""
ASK_SECONDS = 2.0
"""After so long without a quorum, a worker looks whether it has been asked to stop, and asks again."""
FOREVER = timedelta(days=365)


def require_torchft() -> None:
    """Raises InputError if torchft is not installed."""
    if find_spec("torchft") is None:
        raise InputError("--hot needs torchft: pip install 'openbook[hot]' (Linux on x86-64); without --hot, a restart takes longer")


@contextmanager
def hushed() -> Iterator[None]:
    """Sends nowhere what native code writes to standard error, where Python goes on writing: torchft tells every quorum, unasked."""
    before, own = sys.stderr, os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with open(own, "w", buffering=1, encoding="utf-8", closefd=False) as sys.stderr:
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            sys.stderr = before
            os.close(own)
            os.close(nowhere)


@dataclass(frozen=True)
class Place:
    """What a worker is told by its supervisor. `number` counts the processes that were started before it."""

    lighthouse: int
    store: int
    number: int
    crew: int


def place(environment: Mapping[str, str]) -> Place | None:
    """Reads the supervisor's word; None if there is no such supervisor."""
    if LIGHTHOUSE not in environment:
        return None
    return Place(*(int(environment[name]) for name in (LIGHTHOUSE, STORE, NUMBER, CREW)))


@contextmanager
def lighthouse(crew: int) -> Iterator[int]:
    """Serves what a crew agrees through, to this machine alone. Gives its port."""
    from torchft.coordination import LighthouseServer

    server = LighthouseServer(
        bind=f"{LOOPBACK}:0",
        min_replicas=crew // 2 + 1,
        join_timeout_ms=FOREVER // timedelta(milliseconds=1),  # whoever lives is waited for
        quorum_tick_ms=20,
        heartbeat_timeout_ms=int(HEARTBEAT_SECONDS * 1000),
    )
    try:
        yield int(re.findall(r":(\d+)$", server.address())[0])
    finally:
        server.shutdown()


@dataclass(frozen=True)
class Member:
    """One of a quorum. `count` tells how much it has: more is newer, and the same is the same to the bit; 0 is nothing."""

    process: int
    count: int


class Hot(Group):
    """A worker of a crew whose members come and go. `rank` 0 is who has taken part for longest."""

    def __init__(self, place: Place) -> None:
        from torchft.process_group import ProcessGroupGloo

        super().__init__(rank=-1, world=0, attempt=0)  # nobody's, until it meets the others
        self.place = place
        self.members: list[Member] = []
        self.group: Any = ProcessGroupGloo(timeout=timedelta(seconds=CONNECT_SECONDS))
        self._epoch: tuple[int, int] | None = None
        self._failures = 0

    def appear(self) -> None:
        """Lets the heart beat, which native code does while Python is busy. The clock that makes the name never goes back on a machine."""
        from torchft.coordination import LighthouseClient, ManagerServer

        self._name = f"{time.monotonic_ns():020d}-{os.getpid()}"
        address, patience = f"http://{LOOPBACK}:{self.place.lighthouse}", timedelta(seconds=CONNECT_SECONDS)
        self._heart = ManagerServer(
            replica_id=self._name,
            lighthouse_addr=address,
            hostname=LOOPBACK,
            bind=f"{LOOPBACK}:0",
            store_addr="",
            world_size=1,
            heartbeat_interval=timedelta(seconds=BEAT_SECONDS),
            connect_timeout=patience,
            quorum_retries=0,
        )
        self._lighthouse = LighthouseClient(address, connect_timeout=patience)

    def meet(self, count: int) -> bool | None:
        """Waits for all who live. Whether the process group is a new one; None if no majority has come within ASK_SECONDS.

        `members` are then those who take part, by rank. Raises LostWorker if one is gone before all have connected.
        """
        try:
            quorum = self._lighthouse.quorum(
                self._name,
                timedelta(seconds=ASK_SECONDS),
                address="",
                store_address="",
                step=count,
                world_size=1,
                shrink_only=False,
                data={"process": os.getpid(), "failures": self._failures},
            )
        except TimeoutError:
            return None
        found = sorted(quorum.participants, key=lambda member: member.replica_id)
        self.members = [Member(member.data["process"], member.step) for member in found]
        epoch = (quorum.quorum_id, sum(member.data["failures"] for member in found))
        if epoch == self._epoch:
            return False
        self.rank = self.replica = [member.replica_id for member in found].index(self._name)
        self.world = self.replicas = len(found)
        with exchange():
            where = f"{LOOPBACK}:{self.place.store}/{epoch[0]}.{epoch[1]}"
            self.group.configure(where, self._name, self.rank, self.world, epoch[0], 0, 1, list(range(self.world)))
            _be_patient(self.group)
        self._epoch = epoch
        return True

    def fail(self) -> None:
        """After an exchange that failed: lets go of the others, so that theirs fail too and all meet again, in a new process group."""
        self._epoch = None
        self._failures += 1
        self.group.abort()

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        self._require_group()
        return gathered(numbers, self.group)

    def combine(self, tree: Any, leaves: int) -> Any:
        self._require_group()
        return super().combine(tree, leaves)

    def broadcast(self, tensors: list[Tensor], source: int) -> None:
        """Makes everybody's tensors those of rank `source`, in place."""
        self._require_group()
        with exchange():
            for tensor in tensors:
                self.group.broadcast_one(tensor.view(-1).view(torch.uint8), source).wait()

    def _require_group(self) -> None:
        if self._epoch is None:
            raise LostWorker("lost another worker before this exchange began")


def _be_patient(group: Any) -> None:
    """Connecting is quick; in a step, rank 0 may be validating or saving."""
    backend = group.parent._get_backend(torch.device("cpu"))
    backend._set_default_timeout(timedelta(seconds=STEP_SECONDS))
