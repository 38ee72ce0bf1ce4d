"""The numerics contract: what the bits of a training depend on besides its recipe, its data and this project's code.

Another instruction set, library or precision switch rounds differently, so that going on under it would join two trainings in one
curve. The contract is logged with every attempt and kept in every checkpoint; `openbook train` goes on under another one only when
told to, on record. The number of threads is not part of it: no operation used here depends on it on a CPU.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import torch

from openbook.errors import InputError
from openbook.logbook import environment

Contract = Mapping[str, str | bool]

SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)
"""Variables of the environment by which torch's libraries choose their kernels; one that is not set is not in the contract."""


def choose_device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError('train.device = "cuda": torch sees no CUDA device here; use "auto" or "cpu"')
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def compute_alike(device: torch.device) -> None:
    """Makes a GPU give the same bits each time, where torch leaves a choice. A CPU does so by itself."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False


def contract(device: torch.device, precision: str) -> Contract:
    """The contract under which this process computes on a device. `build` digests how torch was built, its BLAS and oneDNN."""
    here = environment()
    facts: dict[str, str | bool] = {name: here[name] for name in ("torch", "numpy", "processor", "capability")}
    built = [line for line in torch.__config__.show().splitlines() if "CPU capability" not in line]  # that one is about this process
    facts["build"] = hashlib.sha256("\n".join(built).encode()).hexdigest()[:16]
    facts["device"] = device.type
    facts["precision"] = precision
    facts["matmul_precision"] = torch.get_float32_matmul_precision()
    facts["deterministic"] = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["gpu_capability"] = "{}.{}".format(*torch.cuda.get_device_capability(device))
        facts["cuda"] = str(torch.version.cuda)
        facts["cudnn"] = str(torch.backends.cudnn.version())
        facts["cudnn_deterministic"] = torch.backends.cudnn.deterministic
    return facts | {name: os.environ[name] for name in SWITCHES if name in os.environ}


def changes(old: Contract, new: Contract) -> list[str]:
    """What differs between two contracts, as "name: old -> new"."""
    names = sorted({*old, *new})
    return [f"{name}: {old.get(name, 'not set')} -> {new.get(name, 'not set')}" for name in names if old.get(name) != new.get(name)]
