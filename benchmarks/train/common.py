"""What the parts share: where the texts are, what a process costs, how a model of characters is scored."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
AT_ONCE = 256
"""Windows scored in one pass."""


class Absent(Exception):
    """Something that a part needs is not on this machine; the part is left out, and the reason is said."""


def data_file(*names: str) -> Path:
    """A file of the data folder: $OPENBOOK_DATA, or ../shared/data beside the repository. Raises Absent."""
    folder = Path(os.environ.get("OPENBOOK_DATA") or ROOT.parent / "shared" / "data")
    path = folder.joinpath(*names)
    if not path.exists():
        raise Absent(f"{path} is not there; set OPENBOOK_DATA to the folder that holds {'/'.join(names)}")
    return path.resolve()


@dataclass(frozen=True)
class Cost:
    """`cpu` and `wall` seconds of a whole process, interpreter and imports included; `output` is what it printed."""

    cpu: float
    wall: float
    output: str


def measured(command: Sequence[str], folder: Path = ROOT) -> Cost:
    """Runs a command on one thread. Raises RuntimeError with the end of its output if it fails."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), _now()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    wall, after = _now() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-2000:]}")
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, done.stdout)


def _now() -> float:
    return os.times().elapsed


def openbook(*arguments: str) -> Cost:
    return measured([sys.executable, "-m", "openbook.cli", *arguments])


def split(path: Path) -> tuple[str, str]:
    """nanoGPT's split of tiny Shakespeare: the first nine tenths of the characters, and the rest."""
    text = path.read_text(encoding="utf-8")
    return text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]


@torch.no_grad()
def character_loss(logits: Callable[[torch.Tensor], torch.Tensor], ids: npt.NDArray[np.int64], context: int) -> float:
    """Mean cross-entropy in nats of every character after the first, by windows of `context` characters side by side: what nanoGPT
    estimates from random windows. `logits` takes (windows, context) ids and gives (windows, context, vocabulary)."""
    windows = (len(ids) - 1) // context
    inputs = torch.from_numpy(ids[: windows * context].reshape(windows, context))
    targets = torch.from_numpy(ids[1 : windows * context + 1].reshape(windows, context))
    total = 0.0
    for start in range(0, windows, AT_ONCE):
        scores = logits(inputs[start : start + AT_ONCE]).flatten(0, 1).float()
        total += float(F.cross_entropy(scores, targets[start : start + AT_ONCE].flatten(), reduction="sum"))
    return total / (windows * context)
