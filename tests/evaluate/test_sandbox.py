"""Generated programs can fork, write, loop, allocate, print and call the network as they like: nothing comes of it."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from openbook.evaluate.sandbox import Limits, run_program

QUICK = Limits(wall=5.0, cpu=1, memory=256 << 20)
GUARDED = replace(QUICK, separate=False)


@pytest.fixture(params=[QUICK, GUARDED], ids=["namespaces", "audit hooks"])
def limits(request: pytest.FixtureRequest) -> Limits:
    wanted: Limits = request.param
    if wanted.separate and not run_program("", wanted).apart:
        pytest.skip("this system allows no namespaces")
    return wanted


def test_a_program_passes_only_at_its_end(limits: Limits) -> None:
    assert run_program("import math\nassert math.sqrt(4) == 2\nopen('own.txt', 'w').write('x' * 100)", limits).passed
    for source, why in (
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "ended itself"),
        ("import os; os._exit(0)", "ended itself"),
    ):
        verdict = run_program(source, limits)
        assert not verdict.passed
        assert why in verdict.why


def test_loops_memory_and_output_are_bounded(limits: Limits) -> None:
    begin = time.monotonic()
    assert not run_program("while True: pass", limits).passed
    assert run_program("import time; time.sleep(60)", replace(limits, wall=1.0)).why == "took longer than 1 s"
    assert "MemoryError" in run_program("x = bytearray(4 << 30)", limits).why
    assert not run_program("import sys\nwhile True: print('x' * 1_000_000), print('y' * 1_000_000, file=sys.stderr)", limits).passed
    assert "File too large" in run_program("open('big', 'wb').write(bytes(64 << 20))", limits).why
    assert time.monotonic() - begin < 20


FORKS = """
import os, time
for _ in range(200):
    if os.fork() == 0:
        os.setsid()
        time.sleep(30)
        os._exit(0)
"""


def test_forks_are_few_and_none_outlives_the_program(limits: Limits) -> None:
    def alike() -> int:
        return sum(path.joinpath("cmdline").read_bytes().count(b"confined.py") for path in Path("/proc").glob("[0-9]*") if _ours(path))

    before = alike()
    verdict = run_program(FORKS, limits)
    assert not verdict.passed
    assert "temporarily unavailable" in verdict.why or "not allowed" in verdict.why
    deadline = time.monotonic() + 5
    while alike() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert alike() == before


def _ours(process: Path) -> bool:
    try:
        return (process / "cmdline").read_bytes() != b""
    except OSError:
        return False


def test_nothing_outside_its_folder_is_written_or_reached(limits: Limits, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for source in (
            f"open({str(kept)!r}, 'w')",
            f"open({str(tmp_path / 'new.txt')!r}, 'w')",
            f"import os; os.remove({str(kept)!r})",
            f"import os; os.kill({os.getpid()}, 9)",
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            "import subprocess; subprocess.run(['mount', '-o', 'remount,rw', '/'], check=True)",
        ):
            assert not run_program(source, limits).passed, source
    assert kept.read_text() == "kept"
    assert not (tmp_path / "new.txt").exists()
