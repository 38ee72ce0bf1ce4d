"""Who computes wrong is named: by arithmetic, and in a training whose worker's bits are flipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chaos
from openbook.files import sha256_file
from openbook.logbook import read
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run
from openbook.train.audit import accused, audited, disputed

Table = list[tuple[float, ...]]


def tables(world: int, wrong: dict[tuple[int, int, int], float]) -> tuple[Table, Table]:
    """What is gathered in both rounds. wrong: (round, worker, how far the replica is) to what is added to the right mark."""
    right = [100.0 * rank for rank in range(world)]

    def seen(round_: int, rank: int, distance: int) -> float:
        return right[(rank + distance) % world] + wrong.get((round_, rank, distance), 0.0)

    first = [tuple(seen(0, rank, distance) for distance in (0, 1)) for rank in range(world)]
    return first, [tuple(seen(1, rank, distance) for distance in (0, 1, 2)) for rank in range(world)]


@given(world=st.integers(1, 9))
def test_nobody_is_disputed_where_nothing_is_wrong(world: int) -> None:
    first, second = tables(world, {})
    assert disputed(first, 1) == accused(first, second, 1) == []


@settings(max_examples=200)
@given(world=st.integers(3, 9), data=st.data())
def test_of_three_or_more_one_that_computes_wrong_in_any_way_is_named(world: int, data: st.DataObject) -> None:
    """Always, once, in its own microbatch or in its neighbour's; with the same wrong bits or others each time."""
    bad = data.draw(st.integers(0, world - 1))
    places = [(0, bad, 0), (0, bad, 1), (1, bad, 0), (1, bad, 1), (1, bad, 2)]
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, unique=True))
    first, second = tables(world, {place: data.draw(st.sampled_from([1.0, 2.0, 3.0])) for place in chosen})
    seen = any(round_ == 0 for round_, *_ in chosen)
    assert bool(disputed(first, 1)) == seen
    assert accused(first, second, 1) == ([bad] if seen else [])


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)])
def test_of_two_one_that_was_wrong_once_is_named(place: tuple[int, int, int]) -> None:
    first, second = tables(2, {place: 1.0})
    assert accused(first, second, 1) == [place[1]]


def test_of_two_that_never_agree_both_are_named() -> None:
    first, second = tables(2, {(round_, 1, distance): 1.0 for round_ in (0, 1) for distance in (0, 1)})
    assert accused(first, second, 1) == [0, 1]


def test_one_process_notices_its_own_passing_fault() -> None:
    first, second = tables(1, {(0, 0, 0): 1.0})
    assert accused(first, second, 1) == [0]


@given(step=st.integers(0, 10**6), start=st.integers(0, 60), size=st.integers(1, 8))
def test_an_audited_round_is_one_of_the_share(step: int, start: int, size: int) -> None:
    share = range(start, start + size)
    assert audited(step, start, share) in share
    assert {audited(other, start, share) for other in range(step, step + 200)} == set(share)


def fresh(tokenized: Run, folder: Path) -> Run:
    shutil.copytree(tokenized.path, folder)
    source = tokenized.recipe_folder / "tiny.toml"
    wanted = ["train.microbatches=4", "train.audit_every=1", "train.validate_every=12"]
    return open_run(folder, load_recipe(source, wanted)[0], source)


def train(run: Run, *faults: str) -> tuple[int, str]:
    command = [sys.executable, chaos.__file__, *faults, "--", "train", str(run.path), "--workers", "3"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def corruptions(run: Run) -> list[dict[str, Any]]:
    return [event for event in read(run.logbook_path) if event["event"] == "anomaly" and event["kind"] == "corruption"]


def test_a_flipped_bit_is_named_and_costs_no_bit(tokenized: Run, tmp_path: Path) -> None:
    run, straight = fresh(tokenized, tmp_path / "run"), fresh(tokenized, tmp_path / "straight")
    list(update(straight, ["train"]))
    number = audited(4, 1, range(1, 2))  # worker 1 of three computes one of the four microbatches
    status, said = train(run, f"flip@5:1:{number}")
    assert status == 0, said
    assert "worker 1 computed other bits than the others" in said
    assert [(event["step"], event["worker"], event["workers"]) for event in corruptions(run)] == [(5, 1, [1])]
    retries = [event for event in read(run.logbook_path) if event["event"] == "action"]
    assert [(event["kind"], event["step"]) for event in retries] == [("retry", 5)]
    assert sha256_file(run.path / "weights/model.safetensors") == sha256_file(straight.path / "weights/model.safetensors")


def test_a_worker_that_goes_on_computing_wrong_ends_the_training(tokenized: Run, tmp_path: Path) -> None:
    run = fresh(tokenized, tmp_path / "run")
    status, said = train(run, "flip-always@5:2")
    assert status == 1
    lines = [line for line in said.splitlines() if line.startswith("openbook: ")]
    assert lines == ["openbook: step 5: worker 2 computes other bits than the others, again and again; take its machine out"]
    assert json.loads(run.logbook_path.read_text().splitlines()[-1])["cause"].startswith("Corruption: step 5: worker 2")
    assert max(event["step"] for event in read(run.logbook_path) if event["event"] == "step") == 4
