"""A model cut over workers (FSDP2, HSDP): the bits of one process, whatever is trained and however many hold it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from crowd import CREWS, SETTINGS, STORED

from tiny import write_recipe


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each constellation came to, by its name and what was trained."""
    folder = tmp_path_factory.mktemp("crowd")
    command = [str(write_recipe(folder)), str(folder), *free_ports(2 * len(CREWS))]
    script = Path(__file__).with_name("crowd.py")
    crowd = [
        subprocess.Popen(
            [sys.executable, script, str(rank), *command],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    said = [process.communicate(timeout=300) for process in crowd]
    assert [process.returncode for process in crowd] == [0] * 4, "\n".join(err for _, err in said)
    return json.loads(said[0][0])


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("crew", [name for name in CREWS if name != "one"])
def test_any_constellation_has_the_bits_of_one_process(found: dict[str, dict[str, Any]], crew: str, setting: str) -> None:
    assert found[crew][setting] == found["one"][setting]


def test_what_should_make_a_difference_does(found: dict[str, dict[str, Any]]) -> None:
    assert len({str(found["one"][setting]) for setting in SETTINGS}) == len(SETTINGS) - 1  # an audit makes none


@pytest.mark.parametrize("crew", CREWS)
def test_what_any_constellation_saves_any_other_loads(found: dict[str, dict[str, Any]], crew: str) -> None:
    expected = found["one"][STORED][-1]
    assert {other: found[crew][f"from {other}"] for other in CREWS} == dict.fromkeys(CREWS, expected)
