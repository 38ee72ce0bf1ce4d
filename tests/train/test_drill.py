"""The smaller form of `make drill`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import drill
from drill_rig import Claim


def test_what_openbook_says_it_survives_it_survives() -> None:
    told: list[str] = []
    claims = drill.drill(
        ["kills", "worlds", "anomalies", "verify"], True, 1, lambda claim, seconds: told.append(drill.line(claim, seconds))
    )
    assert len(claims) == 11
    assert all(claim.holds for claim in claims), "\n".join(told)


def test_a_claim_that_does_not_hold_is_the_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(drill, "PARTS", {"saves": lambda rig: iter([Claim("saves", "it can fail", "0/1", False)])})
    monkeypatch.setattr(sys, "argv", ["drill.py", "--only", "saves"])
    with pytest.raises(SystemExit) as stopped:
        drill.main()
    assert stopped.value.code == 1
    assert "FAILS saves     it can fail" in capsys.readouterr().out


def test_a_part_that_is_none_is_refused() -> None:
    done = subprocess.run([sys.executable, drill.__file__, "--only", "kils"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "drill: --only kils: no such part; parts are kills, worlds" in done.stderr
