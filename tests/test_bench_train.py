"""The comparison with nanoGPT says what it lacks, and fails for nothing that is merely absent."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from train.common import Absent, character_loss  # noqa: E402
from train.nanogpt import checked  # noqa: E402


def test_without_texts_every_part_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_train.py"), "--json", "--part", "small", "--part", "corpus"]
    done = subprocess.run(command, env=os.environ | {"OPENBOOK_DATA": str(tmp_path)}, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)
    assert "tinyshakespeare.txt is not there; set OPENBOOK_DATA" in results["small"]["absent"]
    assert "corpus is not there" in results["corpus"]["absent"]


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary() -> None:
    ids = np.arange(700) % 11
    seen: list[torch.Tensor] = []

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens)
        return torch.zeros(*tokens.shape, 11)

    assert math.isclose(character_loss(logits, ids, 8), math.log(11), rel_tol=1e-6)
    assert torch.equal(torch.cat(seen).flatten(), torch.from_numpy(ids[:696]))


def test_an_absent_checkout_is_named(tmp_path: Path) -> None:
    for path, expected in ((None, "--nanogpt PATH"), (tmp_path, "has no train.py")):
        with pytest.raises(Absent, match=expected):
            checked(path)
