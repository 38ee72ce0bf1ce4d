"""Decisions do what they say, are on record with their effect, and are heard of where they do nothing or too much."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import BESIDE

from openbook.corpus.decisions import Swap
from openbook.documents import read_documents
from openbook.errors import InputError
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run

HEAD = """
name = "decided"
[corpus]
holdout = 0.2
[corpus.components.laws]
source = "files"
path = "laws.jsonl"
weight = 3.0
[corpus.components.talk]
source = "files"
path = "talk.jsonl"
weight = 1.0
exclude = ["talk.jsonl:7"]
"""
TOLD = 'why = "a reason"\nevidence = "a place"\n'
DECISIONS = f"""
[[corpus.decisions]]
action = "exclude"
what = "what was never read"
{TOLD}
[[corpus.decisions]]
action = "exclude"
what = "laws of before 1900"
{TOLD}
components = ["laws"]
at_most = {{ year = 1899 }}
[[corpus.decisions]]
action = "include"
what = "talk of no licence"
{TOLD}
components = ["talk"]
licence = ["unknown"]
share = 0.5
steps = ["licence"]
[[corpus.decisions]]
action = "exclude"
what = "shouting | noise"
{TOLD}
text = "[A-Z]{{8}}"
[[corpus.decisions]]
action = "include"
what = "the second line and the seventh of the talk"
{TOLD}
origin = ["talk.jsonl:[27]"]
[[corpus.decisions]]
action = "reweight"
what = "laws count half"
{TOLD}
components = ["laws"]
factor = 0.5
[[corpus.decisions]]
action = "rewrite"
what = "he and she"
{TOLD}
components = ["laws"]
swap = [["he", "she"], ["his", "her"], ["him", "her"]]
[[corpus.decisions]]
action = "exclude"
what = "nothing at all"
{TOLD}
meta = {{ lang = "xx" }}
[[corpus.steps]]
step = "licence"
allow = ["CC0-1.0"]
[[corpus.steps]]
step = "pii"
"""


def write(folder: Path, decisions: str = DECISIONS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    laws = [
        {"text": f"Section {number}. He shall file his form, unless HE is not him. See she.com", "meta": {"year": 1880 + number}}
        for number in range(60)
    ]
    talk = [{"text": f"some talk, number {number}, of mail@example{number}.com"} for number in range(40)]
    talk[1]["text"] = "line two says SOMETHINGLOUD"
    talk[2]["text"] = "line three says SOMETHINGLOUD, too"
    for row in laws:
        row["meta"]["licence"] = "CC0-1.0"  # type: ignore[index]
    for name, rows in (("laws", laws), ("talk", talk)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "decided.toml"
    recipe.write_text(HEAD + decisions + BESIDE)
    return recipe


def build(recipe: Path, out: Path) -> Run:
    run = open_run(out, load_recipe(recipe)[0], recipe)
    list(update(run, ["corpus"]))
    return run


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("decided")
    return build(write(folder), folder / "run")


def rows(run: Run, name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(run.path / "corpus" / name, partitioning=None).to_pylist()
    return found


def effects(run: Run) -> list[dict[str, dict[str, int]]]:
    return [row["effect"] for row in json.loads((run.path / "corpus/decisions.json").read_bytes())]


def kept(run: Run, name: str) -> dict[str, str]:
    return {
        document.origin: document.text
        for split in ("train", "valid")
        for document in read_documents(run.path / f"corpus/{name}/{split}.parquet")
    }


def test_every_text_that_a_decision_drops_is_kept_aside_with_it(decided: Run) -> None:
    dropped = {row["origin"]: row for row in [*rows(decided, "laws/dropped.parquet"), *rows(decided, "talk/dropped.parquet")]}
    old = [f"laws.jsonl:{number}" for number in range(1, 21)]
    assert [origin for origin, row in dropped.items() if row["reason"] == "decision 2"] == old
    assert dropped["laws.jsonl:1"]["step"] == "decision" and dropped["laws.jsonl:1"]["detail"] == "laws of before 1900"
    assert (
        str(dropped["laws.jsonl:1"]["text"]).startswith("Section 0. He shall")
        and json.loads(str(dropped["laws.jsonl:1"]["meta"]))["year"] == 1880
    )
    assert dropped["talk.jsonl:3"]["reason"] == "decision 4" and dropped["talk.jsonl:3"]["text"] == "line three says SOMETHINGLOUD, too"
    assert all(row["text"] for row in dropped.values())
    found = effects(decided)
    assert found[0] == {} and found[1] == {
        "laws": {"matched": 20, "documents": 20, "bytes": sum(int(str(dropped[o]["bytes"])) for o in old), "replacements": 0}
    }
    assert found[3]["talk"]["matched"] == 2 and found[3]["talk"]["documents"] == 1 and found[7] == {}


def test_the_last_word_holds_and_what_it_kept_is_on_record(decided: Run) -> None:
    traces = [row for row in rows(decided, "talk/traces.parquet") if row["what"] == "kept"]
    against = {(row["origin"], row["number"]): row["detail"] for row in traces}
    assert against["talk.jsonl:2", 5] == "an earlier decision" and against["talk.jsonl:7", 5] == "components.talk.exclude"
    spared = {origin for origin, number in against if number == 3}
    assert spared == set(kept(decided, "talk")) and 5 < len(spared) < 35  # about half of 39, by hash
    assert {against[origin, 3] for origin in spared} == {"step licence: licence unknown: the source states none"}
    assert effects(decided)[2]["talk"]["documents"] == len(spared)


def test_rewriting_is_counted_and_the_original_stays(decided: Run) -> None:
    texts = kept(decided, "laws")
    assert texts["laws.jsonl:60"] == "Section 59. She shall file her form, unless SHE is not her. See he.com"
    traces = [row for row in rows(decided, "laws/traces.parquet") if row["step"] == "decision"]
    assert len(traces) == len(texts) == 40 and {row["replacements"] for row in traces} == {5}
    assert str(traces[-1]["text"]) == "Section 59. He shall file his form, unless HE is not him. See she.com"
    assert effects(decided)[6]["laws"]["replacements"] == 200


def test_a_weight_is_multiplied_once(decided: Run) -> None:
    assert {name: part.weight for name, part in Run(decided.path).recipe.corpus.components.items()} == {"laws": 1.5, "talk": 1.0}
    train = effects(decided)[5]["laws"]
    assert train["documents"] == len(list(read_documents(decided.path / "corpus/laws/train.parquet")))


def test_the_datasheet_prints_every_decision_with_its_effect(decided: Run) -> None:
    sheet = (decided.path / "corpus/DATASHEET.md").read_text()
    table = [line for line in sheet.splitlines() if re.match(r"\| \d \| (exclude|include|reweight|rewrite): ", line)]
    assert len(table) == 8 and all("| a reason | a place |" in line for line in table)
    assert "declared: nothing of it was read" in table[0] and "left out 20 documents" in table[1] and r"shouting \| noise" in table[3]
    assert "weight × 0.5 of laws" in table[5] and "200 words (laws 40)" in table[6] and "matches nothing" in table[7]


def test_a_decision_that_does_nothing_or_too_much_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start = f'[[corpus.decisions]]\naction = "exclude"\nwhat = "all the talk"\n{TOLD}'
    with pytest.raises(InputError, match=r"corpus\.decisions, number 1 \(all the talk\) leaves nothing of component 'talk': it takes 40"):
        build(write(tmp_path / "a", start + 'components = ["talk"]\n'), tmp_path / "run")
    build(write(tmp_path / "b", start + 'text = "nowhere to be found"\n'), tmp_path / "other")
    assert "WARNING: decision 1 (all the talk) matches no text" in capfd.readouterr().err
    swap = start.replace('"exclude"', '"rewrite"') + 'swap = [["thou", "thee"]]\n'
    build(write(tmp_path / "b", swap), tmp_path / "other")
    assert "changes no text: none of its words occurs" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('action = "drop"', "should be one of"),
        ('action = "exclude"\ncomponents = ["chat"]', "number 1: no component is called chat; there are laws, talk"),
        ('action = "exclude"\ntext = "("', "should be a regular expression; missing )"),
        ('action = "reweight"\nfactor = 0.5', "reweight needs components"),
        ('action = "reweight"\ncomponents = ["laws"]\nfactor = 0.0', "greater than 0"),
        ('action = "rewrite"\nswap = [["he"]]', "should be pairs of words"),
        ('action = "include"\nsteps = ["decontaminate"]', "should be one of"),
        ('action = "exclude"\norigen = ["x"]', "did you mean 'origin'"),
    ],
)
def test_a_decision_that_cannot_be_is_one_line(tmp_path: Path, lines: str, message: str) -> None:
    recipe = write(tmp_path, f'[[corpus.decisions]]\nwhat = "w"\n{TOLD}{lines}\n')
    with pytest.raises(InputError, match=re.escape(message)):
        load_recipe(recipe)


def test_a_decision_says_why(tmp_path: Path) -> None:
    recipe = write(tmp_path, '[[corpus.decisions]]\naction = "exclude"\nwhat = "w"\nwhy = " "\nevidence = "e"\n')
    with pytest.raises(InputError, match="why = ' ': should say something"):
        load_recipe(recipe)


WORDS = st.lists(st.sampled_from(["he", "She", "HE", "they", "hero", "ushe", "king", "Queen", "he's", "é", "-"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(WORDS, st.sampled_from([" ", ", ", "\n", "_", "."]))
def test_swapping_is_word_by_word_and_its_own_inverse(words: list[str], between: str) -> None:
    """Against the plainest way to say it: each run of word characters is looked up by itself."""
    swap = Swap([["he", "she"], ["king", "queen"]])
    text = between.join(words)
    plain = {"he": "she", "she": "he", "king": "queen", "queen": "king"}

    def other(word: str) -> str:
        if word.lower() not in plain:
            return word
        found = plain[word.lower()]
        return found.upper() if word.isupper() else found.capitalize() if word[0].isupper() else found

    runs = re.split(r"(\w+)", text)
    assert swap.swapped(text) == ("".join(map(other, runs)), sum(run.lower() in plain for run in runs))
    assert swap.swapped(swap.swapped(text)[0])[0] == text
