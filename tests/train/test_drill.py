"""The smaller form of `make drill`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import drill
from drill_rig import Claim


def test_what_openbook_says_it_survives_it_survives() -> None:
    """In a process of its own: what forks must not have threads."""
    command = [sys.executable, drill.__file__, "--small", "--only", "kills,worlds,anomalies,verify", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert len(told["claims"]) == 11
    assert not told["failed"], json.dumps(told, indent=2)
    assert done.returncode == 0


def test_a_claim_that_does_not_hold_is_the_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(drill, "PARTS", {"saves": lambda rig: iter([Claim("saves", "it can fail", "0/1", False)])})
    monkeypatch.setattr(drill, "Rig", lambda *_: None)  # nothing is trained
    monkeypatch.setattr(sys, "argv", ["drill.py", "--only", "saves"])
    with pytest.raises(SystemExit) as stopped:
        drill.main()
    assert stopped.value.code == 1
    assert "FAILS saves     it can fail" in capsys.readouterr().out


def test_a_part_that_is_none_is_refused() -> None:
    done = subprocess.run([sys.executable, drill.__file__, "--only", "kils"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "drill: --only kils: no such part; parts are kills, worlds" in done.stderr
