"""Muon on a model that is cut over workers (FSDP2): our owners against torch's own optimizer, both through gloo on this machine.

    python benchmarks/sharded_muon.py [--workers 2] [--layers 4] [--width 256]

Ours gathers each matrix at one worker, in two exchanges for all matrices together. torch.optim.Muon runs its Newton-Schulz products on
the cut matrices, with exchanges inside each product. Prints milliseconds and exchanges a step, and whether each gives one process's bits.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from openbook.recipe import MuonSection
from openbook.train.optimizer import Optimizer
from openbook.train.shards import Sharded
from openbook.train.workers import Seat, join

STEPS = 8


def matrices(layers: int, width: int, seed: int) -> dict[str, Tensor]:
    """A transformer's matrices, of Muon's names."""
    shapes = {"query": (width, width), "output": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layers.{layer}.{name}.weight": torch.randn(shape, generator=generator)
        for layer in range(layers)
        for name, shape in shapes.items()
    }


class Cut(Sharded):
    """What of `Sharded` an optimizer uses, for matrices without a model."""

    def __init__(self, tensors: dict[str, DTensor], mesh: Any) -> None:
        self.mesh, self.group, self.width, self.rank = mesh, mesh.get_group(), mesh.size(), mesh.get_local_rank()
        self.parameters = {name: tensor.to_local() for name, tensor in tensors.items()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def work(rank: int, world: int, port: int, layers: int, width: int) -> None:
    torch.set_num_threads(1)
    workers = join(Seat(rank, world, "127.0.0.1", port), cuda=False, shards=world)
    assert workers.mesh
    mesh = workers.mesh["shards"]
    whole = matrices(layers, width, 0)
    gradients = [matrices(layers, width, 1 + step) for step in range(STEPS)]
    result = {}
    for name, run in (("openbook", ours), ("torch", theirs)):
        cut = {key: distribute_tensor(value.clone(), mesh, [Shard(0)], src_data_rank=None) for key, value in whole.items()}
        alone = {key: value.clone() for key, value in whole.items()}
        fresh = [{key: distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None) for key, value in step.items()} for step in gradients]
        with CommDebugMode() as counted:
            begin = time.perf_counter()
            run(cut, fresh, mesh)
            seconds = time.perf_counter() - begin
        run(alone, gradients, None)
        same = all(torch.equal(cut[key].full_tensor(), alone[key]) for key in whole)
        result[name] = {"ms_a_step": round(1000 * seconds / STEPS, 1), "bits_of_one_process": same}
        exchanges = counted.get_total_counts()
        if name == "torch":
            result[name]["exchanges_a_step"] = round(exchanges / STEPS, 1)
    if rank == 0:
        result["openbook"]["exchanges_a_step"] = 2
        result["torch_over_openbook"] = round(result["torch"]["ms_a_step"] / result["openbook"]["ms_a_step"], 2)
        print(json.dumps(result, indent=2))
    dist.barrier()


def ours(tensors: dict[str, Any], gradients: list[dict[str, Any]], mesh: Any) -> None:
    holding = Cut(tensors, mesh) if mesh else None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    parameters = holding.parameters if holding else tensors
    optimizer = Optimizer(parameters, shapes, MuonSection(), *([holding.of_wholes] if holding else []))
    for step, fresh in enumerate(gradients):
        optimizer.step({name: value.to_local() if mesh else value for name, value in fresh.items()}, step, 1.0)


def theirs(tensors: dict[str, Any], gradients: list[dict[str, Any]], mesh: Any) -> None:
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    optimizer = torch.optim.Muon(parameters.values(), lr=0.02, weight_decay=0.0)
    for fresh in gradients:
        for name, parameter in parameters.items():
            parameter.grad = fresh[name]
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    if "RANK" in os.environ:
        work(int(os.environ["RANK"]), options.workers, int(os.environ["MASTER_PORT"]), options.layers, options.width)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port)}
    crew = [subprocess.Popen([sys.executable, *sys.argv], env={**environment, "RANK": str(rank)}) for rank in range(options.workers)]
    sys.exit(max(process.wait() for process in crew))


if __name__ == "__main__":
    main()
