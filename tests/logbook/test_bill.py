"""What was in vain, where each joule comes from, and the carbon that follows or does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from chronicle import Chronicle
from openbook.logbook import Account
from openbook.logbook.bill import carbon_line
from openbook.recipe import EnergySection


def killed_and_finished(tmp_path: Path, joules: bool) -> Account:
    """Ten seconds a step; two steps saved, two lost, read by a meter; one more lost without a reading; then three that count."""
    book = Chronicle(tmp_path)

    def cost(seconds: float) -> dict[str, object]:
        return {"seconds": seconds, "cpu_seconds": seconds / 2} | ({"joules": {"measured:rapl": 100 * seconds}} if joules else {})

    book.begin()
    book.steps(2)
    book.save(0, **cost(20))
    book.steps(2)
    book.save(0, **cost(40))
    book.steps(1)
    book.begin(after=100)
    book.interrupted("killed", back=2)  # the newest checkpoint was damaged
    book.steps(3)
    book.end(0, **cost(30))
    return Account(book.events(), {}, EnergySection(declared_watts=None if joules else 50.0, pue=1.5, grid_g_per_kwh=100.0))


def test_useful_and_wasted_are_what_the_meters_read(tmp_path: Path) -> None:
    account = killed_and_finished(tmp_path, joules=True)
    assert account.waste.useful == {"cpu_seconds": pytest.approx(25), "measured:rapl": pytest.approx(5000)}
    assert account.waste.wasted == {"cpu_seconds": pytest.approx(10), "measured:rapl": pytest.approx(2000)}
    assert account.waste.unread_seconds == pytest.approx(10)
    [train] = account.costs
    assert train.joules == {"measured:rapl": 7000} and train.absent_seconds == 0


def test_declared_watts_count_where_no_counter_was_read(tmp_path: Path) -> None:
    account = killed_and_finished(tmp_path, joules=False)
    [train] = account.costs
    assert train.joules == {"declared:watts": pytest.approx(50 * 80)}
    assert account.waste.useful["declared:watts"] == pytest.approx(50 * 50)
    assert account.waste.wasted["declared:watts"] == pytest.approx(50 * 30)
    assert account.carbon.kwh == pytest.approx(4000 / 3.6e6)
    assert account.carbon.grams == pytest.approx(4000 / 3.6e6 * 1.5 * 100)


def test_a_measured_attempt_is_never_declared(tmp_path: Path) -> None:
    book = Chronicle(tmp_path)
    book.begin()
    book.steps(1)
    book.stop("SIGTERM", seconds=10.0, cpu_seconds=1.0, joules={"measured:nvml": 7.0})
    book.begin(after=5)
    book.interrupted("stopped", back=1)
    book.steps(1)
    book.end(0, seconds=10.0, cpu_seconds=1.0)
    [train] = Account(book.events(), {}, EnergySection(declared_watts=2.0)).costs
    assert train.joules == {"measured:nvml": 7.0, "declared:watts": 20.0}
    [bare] = Account(book.events(), {}, EnergySection()).costs
    assert bare.joules == {"measured:nvml": 7.0} and bare.absent_seconds == 10


@pytest.mark.parametrize(
    ("declared", "missing"),
    [
        (EnergySection(grid_g_per_kwh=56.0), "energy.pue"),
        (EnergySection(pue=1.1), "energy.grid_g_per_kwh"),
        (EnergySection(), "energy.pue, energy.grid_g_per_kwh"),
    ],
)
def test_without_a_factor_there_is_no_carbon_and_the_line_says_which(tmp_path: Path, declared: EnergySection, missing: str) -> None:
    book = Chronicle(tmp_path)
    book.begin()
    book.steps(1)
    book.end(0, seconds=10.0, cpu_seconds=1.0, joules={"measured:rapl": 3.6e6})
    account = Account(book.events(), {}, declared)
    assert account.carbon.grams is None
    assert carbon_line(account.carbon).startswith("1 kWh × ") and carbon_line(account.carbon).endswith(
        f"no carbon figure without {missing}"
    )


def test_without_any_energy_the_line_asks_for_watts(tmp_path: Path) -> None:
    line = carbon_line(Account([], {}, EnergySection(pue=1.0, grid_g_per_kwh=0.0)).carbon)
    assert "no kWh × PUE 1 × 0 g/kWh" in line and "energy.declared_watts" in line


def test_a_stage_s_phases_add_up_over_its_attempts(tmp_path: Path) -> None:
    book = Chronicle(tmp_path)
    phases = {"validate": {"seconds": 2.0, "cpu_seconds": 1.5, "joules": {"measured:rapl": 9.0}}}
    for _ in range(2):
        book.begin()
        book.stop("SIGTERM", seconds=3.0, cpu_seconds=2.0, joules={"measured:rapl": 20.0}, phases=phases)
    [train] = Account(book.events(), {}, EnergySection()).costs
    assert train.as_cost()["phases"] == {"validate": {"seconds": 4.0, "cpu_seconds": 3.0, "joules": {"measured:rapl": 18.0}}}
