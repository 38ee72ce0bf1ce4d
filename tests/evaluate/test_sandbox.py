"""Generated programs can fork, write, loop, allocate, print and call the network as they like: nothing comes of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from openbook.errors import __file__ as errors
from openbook.evaluate.sandbox import Limits, run_program
from openbook.evaluate.sandbox import __file__ as sandbox

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


PYTHON = "/usr/bin/python3"
"""One that every user may execute."""
NOBODY = 65_534
AS_NOBODY = """
import json, os
from openbook.sandbox import run_program
verdicts = [run_program(source) for source in json.loads(input())]
print(json.dumps([os.getuid(), [[verdict.passed, verdict.why, verdict.apart] for verdict in verdicts]]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else; the other tests have run as this user")
def test_a_user_without_rights_has_a_sandbox_too() -> None:
    if subprocess.run([PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False, cwd="/").returncode:
        pytest.skip(f"{PYTHON} is older than 3.11")
    sources = [
        "assert True",
        "import os; os.setuid(0)",
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "open('/tmp/out', 'w')",
    ]
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        package = Path(place) / "openbook"
        package.mkdir()
        for file in (errors, sandbox, Path(sandbox).with_name("confined.py")):
            shutil.copy(file, package)
        Path(place).chmod(0o755)
        command = [PYTHON, "-c", AS_NOBODY]
        done = subprocess.run(
            command, input=json.dumps(sources), capture_output=True, text=True, cwd=place, user=NOBODY, group=NOBODY, extra_groups=[],
            env={"PYTHONPATH": place},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    user, (right, *wrong) = json.loads(done.stdout)
    if not right[2]:
        pytest.skip("this system allows users no namespaces")
    assert (user, right) == (NOBODY, [True, "", True])
    for verdict, why in zip(wrong, ("Invalid argument", "Network is unreachable", "Read-only file system"), strict=True):
        assert why in verdict[1]
