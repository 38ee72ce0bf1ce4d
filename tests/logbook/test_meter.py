"""The meter: phases add up, counters that wrap or are reset are seen through, and what cannot be read is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from openbook.logbook import Meter
from openbook.logbook.meter import Counter

RANGE = 262_143_328_850
"""Microjoules after which a common package's counter wraps."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "intel-rapl:0"
    folder.mkdir()
    (folder / "max_energy_range_uj").write_text(str(RANGE))
    (folder / "energy_uj").write_text("1000000")
    return folder


def test_time_is_measured_and_energy_left_out_without_a_counter(tmp_path: Path) -> None:
    with Meter(powercap=tmp_path / "absent") as meter, meter.phase("step"):
        sum(range(200_000))
    cost = meter.cost()
    assert 0 < cost["cpu_seconds"] <= cost["seconds"] * 4 + 0.1
    assert cost["peak_bytes"] > 1_000_000
    assert "measured:rapl" not in cost.get("joules", {}) and "measured:rapl" not in cost["phases"]["step"].get("joules", {})


def test_phases_share_the_cost(package: Path) -> None:
    with Meter(powercap=package.parent) as meter:
        for joules in (3, 5):
            with meter.phase("step"):
                (package / "energy_uj").write_text(str(joules * 1_000_000))
        with pytest.raises(ZeroDivisionError), meter.phase("save"):
            (package / "energy_uj").write_text("5500000")
            raise ZeroDivisionError
        (package / "energy_uj").write_text("6000000")
    cost = meter.cost()
    assert cost["joules"] == {"measured:rapl": 5.0}
    assert cost["phases"]["step"]["joules"] == {"measured:rapl": 4.0} and cost["phases"]["save"]["joules"] == {"measured:rapl": 0.5}
    parts = cost["phases"].values()
    assert sum(part["seconds"] for part in parts) <= cost["seconds"] + 0.002
    assert sum(part["cpu_seconds"] for part in parts) <= cost["cpu_seconds"] + 0.002


def test_a_counter_that_wraps_is_followed_again_and_again(package: Path) -> None:
    (package / "energy_uj").write_text(str(RANGE - 99_999))
    with Meter(powercap=package.parent) as meter:
        for reading in (400_000, RANGE - 99_999):  # over the top, and most of the way up again
            (package / "energy_uj").write_text(str(reading))
            meter.cost()
        (package / "energy_uj").write_text("200000")
    assert meter.cost()["joules"]["measured:rapl"] == pytest.approx((RANGE + 1) / 1e6 + 0.3, abs=0.002)


def test_a_counter_that_was_reset_counts_what_it_has_shown_since() -> None:
    readings, clock = iter([500.0, 700.0, 30.0, 50.0]), iter([0.0, 100.0, 110.0, 120.0])
    counter = Counter("measured:nvml", lambda: next(readings), now=lambda: next(clock))
    assert [counter.joules() for _ in range(3)] == [200.0, 230.0, 250.0]


def test_a_fall_that_no_package_could_have_wrapped_into_is_a_reset() -> None:
    for seconds, expected in ((1.0, 5.0), (600.0, 62_148.32885)):  # 62 kJ in a second, or in ten minutes
        readings, clock = iter([200_000.0, 5.0]), iter([0.0, seconds])
        counter = Counter("measured:rapl", lambda r=readings: next(r), top=RANGE / 1e6, now=lambda c=clock: next(c))
        assert counter.joules() == pytest.approx(expected)


def test_a_counter_that_vanishes_takes_its_joules_with_it_and_nothing_else(package: Path) -> None:
    with Meter(powercap=package.parent) as meter:
        with meter.phase("step"):
            (package / "energy_uj").write_text("9000000")
        (package / "energy_uj").unlink()
    cost = meter.cost()
    assert "measured:rapl" not in cost.get("joules", {}) and "measured:rapl" not in cost["phases"]["step"].get("joules", {})
    assert cost["seconds"] >= 0
