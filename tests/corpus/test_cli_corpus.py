"""What `openbook corpus` answers about a corpus: the same facts as its files, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reading import BESIDE

from openbook import cli
from openbook.corpus.compare import recipe_differences
from openbook.recipe import load_recipe

RECIPE = """
name = "looked-at"
[corpus]
holdout = 0.2
[corpus.components.notes]
source = "files"
path = "notes.jsonl"
weight = 1.0
licence = "CC0-1.0"
[[corpus.decisions]]
action = "exclude"
what = "drafts"
why = "they are not finished"
evidence = "each says so"
text = "^DRAFT"
[[corpus.decisions]]
action = "rewrite"
what = "rivers are brooks"
why = "to see what happens"
evidence = "none"
share = 0.5
swap = [["river", "brook"]]
[[corpus.steps]]
step = "length"
min_bytes = 40
[[corpus.steps]]
step = "pii"
[[corpus.steps]]
step = "minhash"
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `openbook corpus …` in this process: status, output, errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["openbook", "corpus", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return (int(stopped.value.code or 0), *capfd.readouterr())

    return command


def write(folder: Path) -> Path:
    texts = [f"Note {number}: the river runs by the town of {'abcdefghij'[number % 10] * 5}{number} to the sea" for number in range(40)]
    texts[3] = "DRAFT of a note about the river and the town by the sea"
    texts[4] = "too short"
    texts[5] = texts[6]
    texts[7] = "write to someone@example.com about the market in the morning, with \x1b[31m red \x1b[0m letters in it"
    texts[8] = " ".join(f"word{number}" for number in range(200))
    texts[9] = texts[8] + " more"
    (folder / "notes.jsonl").write_text(
        "".join(json.dumps({"text": text, "meta": {"title": f"t{n}"}}) + "\n" for n, text in enumerate(texts))
    )
    recipe = folder / "looked-at.toml"
    recipe.write_text(RECIPE + BESIDE)
    return recipe


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a corpus, built by the command."""
    folder = tmp_path_factory.mktemp("looked-at")
    command = [sys.executable, "-m", "openbook.cli", "corpus", "build", str(write(folder)), "--out", str(folder / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0 and json.loads(done.stdout)["stages"]["corpus"]["skipped"] is False, done.stderr
    return folder / "run"


def test_build_audits_as_well_and_does_it_once(built: Path, corpus: Command) -> None:
    assert list(json.loads((built / "manifest.json").read_bytes())["stages"]) == ["corpus", "corpus-audit", "corpus-report"]
    assert (built / "data-report.html").stat().st_size and (built / "DATASHEET.md").stat().st_size
    status, out, _ = corpus("build", built.parent / "looked-at.toml", "--out", built)
    assert status == 0 and "Nothing to do" in out and "texts were left out" in out
    status, out, _ = corpus(built, "--json")
    assert status == 0 and json.loads(out)["stages"]["corpus"]["skipped"] is True
    status, _, err = corpus("build", built.parent / "looked-at.toml", "--out", built, "--on", "mars")
    assert status == 2 and err == "openbook: --on mars: should be here, ray or ray://HOST:PORT\n"


def test_why_one_is_out_and_of_what_it_is_a_copy(built: Path, corpus: Command) -> None:
    status, out, _ = corpus("why", built, "notes.jsonl:4", "--json")
    told = json.loads(out)
    assert status == 0 and told["status"] == "out"
    assert (told["records"][0]["reason"], told["records"][0]["detail"], told["records"][0]["step"]) == ("decision 1", "drafts", "decision")
    _, out, _ = corpus("why", built, "notes.jsonl:5")
    assert "by length" in out and "length: bytes 9 < 40" in out
    _, out, _ = corpus("why", built, "notes.jsonl:10", "--json")
    told = json.loads(out)
    assert told["records"][0]["reason"] == "near-duplicate" and told["records"][0]["other"]["origin"] == "notes.jsonl:9"
    _, out, _ = corpus("why", built, "notes.jsonl:10")
    assert "copy of    " in out and "notes.jsonl:9)" in out


def test_why_one_is_in_changed_by_what_and_how_it_was(built: Path, corpus: Command) -> None:
    _, out, _ = corpus("why", built, "notes.jsonl:8", "--json")
    told = json.loads(out)
    assert (
        told["status"] == "changed" and told["records"][0]["split"] in ("train", "valid") and told["records"][0]["meta"] == {"title": "t7"}
    )
    assert [(trace["step"], trace["number"]) for trace in told["traces"]] == [("pii", 2)]
    assert {"email": 1, "ip": 0, "iban": 0, "card": 0, "phone": 0} in [row["values"] for row in told["annotations"]]
    rewritten = next(row for row in pq.read_table(built / "corpus/notes/traces.parquet").to_pylist() if row["step"] == "decision")
    _, out, _ = corpus("why", built, rewritten["id"][:12])
    assert "changed by decision 2: rivers are brooks (1 words)" in out
    _, out, _ = corpus("why", built, rewritten["id"], "--original")
    assert out.rstrip("\n") == rewritten["text"] and "river" in out
    _, out, _ = corpus("why", built, "notes.jsonl:7", "--json")
    assert len(json.loads(out)["records"]) == 2  # itself, and the exact copy that stands before it or after it


def test_questions_about_nothing_or_too_much_are_one_line(built: Path, corpus: Command, tmp_path: Path) -> None:
    for asked, message in (
        (("why", built, "no such thing"), "no document of"),
        (("why", built, "notes.jsonl:8", "--original"), "no decision has rewritten this document"),
        (("show", built, "--component", "books"), "--component books: no such component; there are notes"),
        (("show", built, "--reason", "near"), "add --dropped"),
        (("show", built, "--split", "test"), "should be train or valid"),
        (("show", built, "--grep", "("), "should be a regular expression"),
        (("show", tmp_path), "not a run directory"),
    ):
        status, out, err = corpus(*asked)
        assert status == 2 and not out and message in err and len(err.splitlines()) == 1, err


def test_show_chooses_and_prints_plainly(built: Path, corpus: Command) -> None:
    lines = [json.loads(line) for line in corpus("show", built, "--json")[1].splitlines()]
    assert len(lines) == 36 and {line["split"] for line in lines} == {"train", "valid"}
    train = [json.loads(line) for line in corpus("show", built, "--json", "--split", "train", "--component", "notes")[1].splitlines()]
    assert train == [line for line in lines if line["split"] == "train"]
    dropped = [json.loads(line) for line in corpus("show", built, "--dropped", "--json")[1].splitlines()]
    assert {line["reason"] for line in dropped} == {"decision 1", "length", "duplicate", "near-duplicate"}
    assert next(line for line in dropped if line["reason"] == "decision 1")["text"].startswith("DRAFT of a note")
    near = corpus("show", built, "--dropped", "--reason", "near")[1]
    assert near.count("────") == 1 and "left out by minhash" in near and "word199" in near
    found = corpus("show", built, "--grep", "letters in it")[1]
    assert found.count("────") == 1 and "\x1b" not in found and "␛[31m red" in found  # a text cannot command the terminal


def test_a_reader_who_has_seen_enough_ends_it(built: Path) -> None:
    command = f"{sys.executable} -m openbook.cli corpus show {built} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.startswith("──── notes") and done.stderr == ""


def test_diff_says_what_differs_and_why(built: Path, corpus: Command) -> None:
    other = built.parent / "other"
    settings = built.parent / "other.toml"
    settings.write_text(
        RECIPE.replace("min_bytes = 40", "min_bytes = 5").replace("share = 0.5", "share = 0.05").replace('"^DRAFT"', '"^Note 2:"') + BESIDE
    )
    assert corpus("build", settings, "--out", other)[0] == 0
    told = json.loads(corpus("diff", built, other, "--json")[1])
    assert told["recipe"] == [
        "corpus.steps.length.min_bytes: 40 -> 5",
        "corpus.decisions.drafts.text: ^DRAFT -> ^Note 2:",
        "corpus.decisions.rivers are brooks.share: 0.5 -> 0.05",
    ]
    part = told["components"]["notes"]
    assert {why: len(keys) for why, keys in part["only_b"].items()} == {"decision 1": 1, "length: length": 1}
    assert {why: len(keys) for why, keys in part["only_a"].items()} == {"decision 1": 1}
    assert list(part["changed"]) == ["decision 2 in a"] and len(part["changed"]["decision 2 in a"]) > 5
    assert part["same"] + len(part["changed"]["decision 2 in a"]) + 1 == 36
    words = corpus("diff", built, other)[1]
    assert "1 in b only, because in a: length: length" in words and "changed by: decision 2 in a" in words
    assert "the same corpus" in corpus("diff", built, built)[1]


def test_diff_tells_of_a_step_or_a_component_that_only_one_has(tmp_path: Path) -> None:
    one, _ = load_recipe(write(tmp_path))
    (tmp_path / "less.toml").write_text(
        RECIPE.replace('[[corpus.steps]]\nstep = "pii"\n', "").replace("components.notes", "components.texts") + BESIDE
    )
    other, _ = load_recipe(tmp_path / "less.toml")
    told = ["corpus.components.notes: in a only", "corpus.components.texts: in b only", "corpus.steps.pii: in a only"]
    assert recipe_differences(one, other) == told
