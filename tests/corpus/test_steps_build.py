"""Steps in a build: same bytes whatever the workers and interruptions, nothing computed twice, nothing dropped in silence."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reading import BESIDE, NOTES

from openbook.corpus import STAGE
from openbook.corpus.steps import shards as shard_files
from openbook.errors import InputError
from openbook.recipe import load_recipe
from openbook.run import Run, open_run

RECIPE = f"""
name = "steps"
{NOTES}[[corpus.steps]]
step = "unicode"
[[corpus.steps]]
step = "licence"
allow = ["CC0-*"]
[[corpus.steps]]
step = "length"
min_bytes = 100
[[corpus.steps]]
step = "gopher-quality"
min_words = 20
[[corpus.steps]]
step = "minhash"
[[corpus.steps]]
step = "substring"
[[corpus.steps]]
step = "profanity"
word_list = "words.txt"
[[corpus.steps]]
step = "pii"
"""
PROSE = ["the", "be", "to", "of", "and", "river", "town", "people", "lantern", "morning", "walked", "seven", "bridge", "market"]


def write(folder: Path, texts: int = 60) -> Path:
    (folder / "notes").mkdir(parents=True)
    for number in range(texts):
        words = " ".join(random.Random(number).choices(PROSE, k=80))
        (folder / "notes" / f"{number:03}.txt").write_text(f"{words} someone{number}@example.com")
    (folder / "notes" / "short.txt").write_text("the be to of")
    (folder / "notes" / "near.txt").write_text((folder / "notes" / "001.txt").read_text() + " again")
    (folder / "notes" / "numbers.txt").write_text("1234 the 5678 be 91011 " * 20)
    (folder / "words.txt").write_text("blast\n")
    (folder / "notes" / "rude.txt").write_text("blast the river and " * 21)
    recipe = folder / "steps.toml"
    recipe.write_text(RECIPE + BESIDE)
    return recipe


def build(recipe: Path, out: Path, *overrides: str) -> Run:
    run = open_run(out, load_recipe(recipe, overrides)[0], recipe)
    with run.locked():
        run.carry_out(STAGE)
    return run


def digest(run: Run) -> str:
    record = run.stage_record("corpus")
    assert record
    return str(record["sha256"])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "SHARD_BYTES", 5_000)


def test_every_removal_is_on_record_with_step_and_evidence(tmp_path: Path) -> None:
    run = build(write(tmp_path), tmp_path / "run")
    dropped = {row["origin"]: row for row in pq.read_table(run.path / "corpus/notes/dropped.parquet").to_pylist()}
    assert {origin: (row["step"], row["reason"]) for origin, row in dropped.items()} == {
        "short.txt": ("length", "length"),
        "numbers.txt": ("gopher-quality", "alphabetic words"),
        "rude.txt": ("profanity", "profanity"),
        next(iter({"near.txt", "001.txt"} & set(dropped))): ("minhash", "near-duplicate"),
    }
    assert dropped["numbers.txt"]["detail"] == "alphabetic words: alphabetic_words 0.4 < 0.8" and len(dropped["numbers.txt"]["id"]) == 32
    texts = [
        text
        for split in ("train", "valid")
        for text in pq.read_table(run.path / f"corpus/notes/{split}.parquet").column("text").to_pylist()
    ]
    assert len(texts) == 60 and all("<EMAIL>" in text and "@" not in text for text in texts)


def test_workers_change_no_byte(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    one, two = build(recipe, tmp_path / "one"), build(recipe, tmp_path / "two", "corpus.engine.workers=2")
    assert digest(one) == digest(two) and one.key(STAGE) == two.key(STAGE)


def test_another_threshold_annotates_nothing_again(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    first = build(recipe, tmp_path / "run")
    before = {path.name: path.stat().st_ino for path in (first.path / "corpus.work").iterdir()}
    recipe.write_text(RECIPE.replace("min_words = 20", "min_words = 90").replace("min_bytes = 100", "min_bytes = 120") + BESIDE)
    with pytest.raises(InputError, match=r"number 4 \(gopher-quality\) leaves nothing of component 'notes': .*short"):
        build(recipe, tmp_path / "run")
    recipe.write_text(RECIPE.replace("min_words = 20", "min_words = 81") + BESIDE)
    assert digest(build(recipe, tmp_path / "run")) == digest(first)
    assert {path.name: path.stat().st_ino for path in (first.path / "corpus.work").iterdir()} == before


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    recipe = write(tmp_path, 300)
    whole = digest(build(recipe, tmp_path / "whole"))
    run = open_run(tmp_path / "run", load_recipe(recipe)[0], recipe)
    command = (
        "import sys; from openbook.corpus.steps import shards; shards.SHARD_BYTES = 5_000; from openbook.corpus import STAGE;"
        "from openbook.run import Run; from pathlib import Path; run = Run(Path(sys.argv[1]));\nwith run.locked(): run.carry_out(STAGE)"
    )
    for seen in (5, 70, 130):
        process = subprocess.Popen([sys.executable, "-c", command, str(run.path)], stderr=subprocess.DEVNULL, env=dict(os.environ))
        while process.poll() is None and len(list((run.path / "corpus.work").glob("*.parquet"))) < seen:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = Run(run.path)
    with again.locked():
        again.carry_out(STAGE)
    assert digest(again) == whole


def test_a_step_without_its_keys_is_one_line(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    for broken, message in (
        ('[[corpus.steps]]\nstep = "gopher"\n', "should be one of"),
        ("[[corpus.steps]]\nmin_words = 3\n", "needs a key 'step'"),
        ('[[corpus.steps]]\nstep = "minhash"\ntreshold = 0.5\n', "did you mean 'threshold'"),
    ):
        recipe.write_text(RECIPE + broken + BESIDE)
        with pytest.raises(InputError, match=message):
            load_recipe(recipe)
