"""Who computes what in a step, and how the parts come together: one process alone, or one of a group.

Both kinds answer to the protocol `Workers`, so the step does not know how many there are. A group sends the bytes of a ring all-reduce
and gets the bits of the tree: each worker receives everybody's nodes for its own slice of the elements, folds them in the tree's order,
and the folded slices are gathered. Every worker can work out everybody's nodes, so nothing but gradients travels.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from openbook.errors import InputError, OpenbookError
from openbook.recipe import TrainSection
from openbook.train.tree import Gradients, Place, TreeSum, alone, nodes, share

JOIN_SECONDS = 180.0
"""How long a worker waits for the others to appear; importing torch on busy machines takes a good part of a minute."""
STEP_SECONDS = 1800.0
"""How long a worker waits for the others in a step, where rank 0 may be validating or saving. A dead one is noticed at once."""
LOOPBACK = "127.0.0.1"
ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LostWorker(OpenbookError):
    """Another worker is gone; the newest checkpoint is where all of them go on. Exit status 76: try again, without having saved."""

    status = 76


class Disagreement(OpenbookError):
    """The workers do not hold what they all should hold; every one of them finds that out at once."""


@dataclass(frozen=True)
class Seat:
    """Which worker of how many this process is, as torchrun's environment says. `attempt` counts restarts of the whole group."""

    rank: int
    world: int
    host: str
    port: int
    local_rank: int = 0
    attempt: int = 0
    agent_store: bool = False
    """Whether the launcher already serves the store at host:port, as torchrun does; rank 0 serves it otherwise."""


def seat(environment: Mapping[str, str]) -> Seat | None:
    """Reads torchrun's environment; None if there is none of it. Raises InputError if it is incomplete or contradicts itself."""
    present = next((name for name in ADDRESS[:2] if environment.get(name)), None)
    if present is None:
        return None
    missing = [name for name in ADDRESS if not environment.get(name)]
    if missing:
        raise InputError(
            f"the environment has {present} but not {', '.join(missing)}; start workers with --workers N or torchrun, or unset {present}"
        )
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"):
        text = environment.get(name, "0")
        if not text.isdecimal():
            raise InputError(f"the environment's {name} = {text!r} should be a whole number; torchrun sets it")
        numbers[name] = int(text)
    rank, world, port, local_rank, attempt = numbers.values()
    if rank >= world:
        raise InputError(f"the environment's RANK = {rank} should be less than WORLD_SIZE = {world}; ranks count from 0")
    if not 0 < port < 65536:
        raise InputError(f"the environment's MASTER_PORT = {port} should be a port, from 1 to 65535")
    agent_store = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Seat(rank, world, environment["MASTER_ADDR"], port, local_rank, attempt, agent_store)


def require_enough_work(world: int, section: TrainSection) -> None:
    """Raises InputError if `world` workers cannot be cut into models of `shards` workers each, or some would have nothing to compute."""
    shards, least = section.shards, section.batches.microbatches_at(0)
    if shards & (shards - 1):
        raise InputError(f"train.shards = {shards} should be a power of two, so that one model's microbatches are a branch of the tree")
    if world > 1 and world % shards:  # one alone holds all of a model
        raise InputError(f"{world} workers cannot hold models of train.shards = {shards} workers each; use a multiple of {shards}")
    if world > least:
        needed = 1 << (world - 1).bit_length()
        key = "train.ramp.start" if section.ramp else "train.microbatches"
        raise InputError(
            f"{world} workers are too many: a step of this recipe has {key} = {least}, so at most {least} "
            f"can take part (another run with {key} = {needed} could use {world})"
        )


def require_agreement(workers: Workers, digest: str, what: str) -> None:
    """Raises Disagreement, on all workers, if their digests (in hexadecimal) of one thing differ."""
    digests = [number for (number,) in workers.gather(int(digest[:13], 16))]
    others = [str(rank) for rank, found in enumerate(digests) if found != digests[0]]
    if others:
        raise Disagreement(f"{what}: worker {', '.join(others)} and worker 0 differ; look for a faulty or a different machine among them")


class Workers(Protocol):
    """`share`, then `combine`, in every step; all workers call the same methods in the same order, and all get the same answers."""

    rank: int
    world: int
    attempt: int
    mesh: DeviceMesh | None
    """(replicas, shards), where a model is cut over several workers; None where each worker holds all of it."""
    host: DeviceMesh | None
    """The workers that hold one model together, as CPUs with a process group of their own, in which a thread may save."""
    hosts: list[str]
    """The machines, by rank, as far as they are known."""

    def share(self, leaves: int, distance: int = 0) -> range:
        """The tree's leaves that this worker, or the workers that hold one model together, compute; or the replica `distance` after."""

    def combine(self, tree: TreeSum, leaves: int) -> Gradients:
        """The root over all leaves, from every replica's fold of its share."""

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        """Everybody's numbers by rank, once everybody has come here. Whole numbers stay whole up to 2^53."""

    def leave(self) -> None: ...


class Solo:
    """One process that does everything."""

    rank, world, attempt = 0, 1, 0
    mesh: DeviceMesh | None = None
    host: DeviceMesh | None = None

    def __init__(self) -> None:
        self.hosts = [socket.gethostname()]

    def share(self, leaves: int, distance: int = 0) -> range:
        return range(leaves)

    def combine(self, tree: TreeSum, leaves: int) -> Gradients:
        return tree.total()

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        return alone(*numbers)

    def leave(self) -> None:
        pass


class Group:
    """One of several processes that talk through torch.distributed: gloo, and nccl for tensors on a GPU.

    Whatever fails in an exchange is raised as LostWorker: that another process is gone is by far the likeliest reason.
    """

    def __init__(self, rank: int, world: int, attempt: int, shards: int = 1, device: str = "cpu") -> None:
        self.rank, self.world, self.attempt = rank, world, attempt
        self.hosts: list[str] = []
        self.mesh = self.host = None
        if shards > 1:
            self.mesh = init_device_mesh(device, (world // shards, shards), mesh_dim_names=("replicas", "shards"))
            group, _ = dist.new_subgroups(shards, backend="gloo")
            self.host = DeviceMesh.from_group(group, "cpu")
        self.replica, self.replicas = (self.mesh.get_local_rank("replicas"), self.mesh.size(0)) if self.mesh else (rank, world)
        self.group = self.mesh.get_group("replicas") if self.mesh else None  # of those who hold the same part of the model

    def share(self, leaves: int, distance: int = 0) -> range:
        return share(leaves, (self.replica + distance) % self.replicas, self.replicas)

    def combine(self, tree: TreeSum, leaves: int) -> Gradients:
        if self.replicas == 1:
            return tree.total()
        everybodys = [nodes(share(leaves, replica, self.replicas)) for replica in range(self.replicas)]
        parts = [value for _, value in tree.partial]
        shapes = {name: tensor.shape for name, tensor in parts[0].items()}
        length = -(-sum(tensor.numel() for tensor in parts[0].values()) // self.replicas)  # of a slice, the last one padded
        outgoing = parts[0]["loss"].new_zeros(self.replicas, len(parts), length)
        for index, part in enumerate(parts):
            flat = torch.cat([part[name].reshape(-1) for name in shapes])
            flat = torch.nn.functional.pad(flat, (0, self.replicas * length - flat.numel()))
            outgoing[:, index] = flat.view(self.replicas, length)
        parts.clear()
        incoming = outgoing.new_empty(sum(map(len, everybodys)), length)
        whole = outgoing.new_empty(self.replicas * length)
        lengths = [len(places) * length for places in everybodys]
        with exchange():
            sizes = [outgoing[0].numel()] * self.replicas
            dist.all_to_all_single(incoming.view(-1), outgoing.view(-1), lengths, sizes, group=self.group)
            dist.all_gather(list(whole.view(self.replicas, length)), _folded(everybodys, incoming), group=self.group)
        sizes = [shape.numel() for shape in shapes.values()]
        pieces = whole[: sum(sizes)].split(sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        return gathered(numbers, None)

    def leave(self) -> None:
        dist.destroy_process_group()


def gathered(numbers: Sequence[float], group: dist.ProcessGroup | None) -> list[tuple[float, ...]]:
    """Everybody's numbers in a group, by rank; they travel in float64 between CPUs."""
    everybodys = torch.empty(dist.get_world_size(group), len(numbers), dtype=torch.float64)
    with exchange():
        dist.all_gather(list(everybodys.unbind()), torch.tensor(numbers, dtype=torch.float64), group=group)
    return [tuple(row) for row in everybodys.tolist()]


def _folded(everybodys: list[list[Place]], incoming: Tensor) -> Tensor:
    """One slice's root. incoming: (nodes of all workers, elements of a slice)."""
    tree = TreeSum()
    for place, slice_ in zip((place for places in everybodys for place in places), incoming.unbind(), strict=True):
        tree.add(place, {"slice": slice_})
    return tree.total()["slice"]


@contextmanager
def exchange() -> Iterator[None]:
    """Whatever fails in an exchange is raised as LostWorker."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = re.sub(r"\[/\S+\] ", "", str(error).splitlines()[0]).split(". ")[0]  # gloo adds a path of its own, and advice
        raise LostWorker(f"lost another worker ({reason}); the same command continues from the newest checkpoint") from None


def join(place: Seat, cuda: bool, shards: int = 1, seconds: float = JOIN_SECONDS) -> Workers:
    """Takes this process's seat; returns when everybody has. `shards` workers hold one model together.

    Raises OpenbookError if somebody has not come within `seconds`.
    """
    if place.world == 1:
        return Solo()
    if cuda:
        if place.local_rank >= torch.cuda.device_count():
            raise InputError(f"worker {place.local_rank} of this machine needs a GPU of its own; torch sees {torch.cuda.device_count()}")
        torch.cuda.set_device(place.local_rank)
    store = _meet(place, timedelta(seconds=seconds))
    with exchange():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=timedelta(seconds=STEP_SECONDS))
        group = Group(place.rank, place.world, place.attempt, shards, "cuda" if cuda else "cpu")
        group.hosts = [""] * place.world
        dist.all_gather_object(group.hosts, socket.gethostname())
    return group


def _meet(place: Seat, patience: timedelta) -> dist.Store:  # type: ignore[name-defined]
    """The group's store, once everybody is present in it."""
    where = f"{place.host}:{place.port}"
    serves = place.rank == 0 and not place.agent_store
    try:
        # torch's own socket would listen on every device, and whoever connects may write to the store.
        listener = socket.create_server((place.host, place.port)).detach() if serves and place.host == LOOPBACK else None
        shared = dist.TCPStore(  # type: ignore[attr-defined]
            place.host, place.port, None, serves, patience, wait_for_workers=False, master_listen_fd=listener
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        if serves:
            raise LostWorker(f"worker 0: cannot serve the workers' meeting point {where}: {reason}") from None
        raise OpenbookError(f"worker {place.rank}: cannot reach the workers' meeting point {where}: {reason}") from None
    # A launcher's store may live through restarts: what an earlier attempt left in it must not be found.
    store = dist.PrefixStore(f"openbook/{place.attempt}", shared)  # type: ignore[attr-defined]
    store.set(f"present/{place.rank}", "")
    everybody = [f"present/{rank}" for rank in range(place.world)]
    try:
        store.wait(everybody, patience)
    except RuntimeError:
        absent = [str(rank) for rank, key in enumerate(everybody) if not store.check([key])]
        waited = f"after {patience.total_seconds():.0f} s at {where}"
        raise OpenbookError(f"worker {place.rank}: {waited}, no sign of worker {', '.join(absent)}") from None
    return store
