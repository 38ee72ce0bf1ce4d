"""The audit finds what is planted, says so when there is nothing, and looks at no text twice."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from reading import BESIDE, NOTES
from typer.testing import CliRunner

from openbook.cli_corpus import corpus as command
from openbook.corpus import STAGE
from openbook.corpus.audit import STAGE as AUDIT
from openbook.corpus.audit import lines
from openbook.corpus.audit.scan import look, read
from openbook.corpus.audit.terms import BUNDLED, Terms, load
from openbook.corpus.report import STAGE as REPORT
from openbook.errors import InputError
from openbook.recipe import load_recipe
from openbook.run import Run, open_run

TERMS = """
version = 1
[lists]
people = ["man", "people"]
[groups.colour.black]
terms = ["black <people>", "blacks"]
exceptions = ["men in black people"]
[groups.nation.polish]
terms = ["Polish", "poles apart"]
[groups.nation.dutch]
terms = ["dutch"]
exceptions = ["dutch oven"]
[skip]
words = "with and"
"""
RECIPE = f"""
name = "audited"
{NOTES}[[corpus.steps]]
step = "pii"
[[corpus.steps]]
step = "profanity"
max_share = 0.0
"""
PROSE = ["river", "town", "lantern", "morning", "walked", "seven", "bridge", "market", "stone", "letter"]


@pytest.fixture(scope="module")
def terms(tmp_path_factory: pytest.TempPathFactory) -> Terms:
    path = tmp_path_factory.mktemp("terms") / "terms.toml"
    path.write_text(TERMS)
    return load(path)


def counted(texts: list[str], terms: Terms, window: int = 3) -> dict[tuple[int, str], int]:
    table = look(texts, terms, window).groups
    return {(row["row"], terms.groups[row["group"]].name): row["mentions"] for row in table.to_pylist()}


def test_a_term_is_what_the_list_says(terms: Terms) -> None:
    texts = [
        "A BLACK man, black cats; black\npeople and blacks.",
        "Polish the table; polish it. poles apart",
        "dutch oven, Dutch cheese",
        "men in black people",
        "black",
        "man black",
    ]
    assert counted(texts, terms) == {(0, "black"): 3, (1, "polish"): 2, (2, "dutch"): 1}


def slow(texts: list[str], terms: Terms, window: int) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int, str], int]]:
    """What `look` finds, word by word."""
    mentions: dict[tuple[int, int], int] = {}
    beside: dict[tuple[int, int, str], set[int]] = {}
    for row, text in enumerate(texts):
        words = re.findall(r"[^\W_]+", text)
        held: set[int] = set()
        found = []
        for category in range(len(terms.categories)):
            taken: set[int] = set()
            for phrase in sorted((item for item in terms.phrases if item.category == category), key=lambda item: -len(item.words)):
                size = len(phrase.words)
                for at in range(len(words) - size + 1):
                    here = words[at : at + size] if phrase.exact else [word.lower() for word in words[at : at + size]]
                    if here == list(phrase.words) and not taken & set(range(at, at + size)):
                        taken |= set(range(at, at + size))
                        if phrase.group is not None:
                            found.append((at, phrase.group))
                            held |= set(range(at, at + size))
        for at, group in found:
            mentions[row, group] = mentions.get((row, group), 0) + 1
            for place in range(max(0, at - window), min(len(words), at + window + 1)):
                word = words[place].lower()
                if place not in held and word.isalpha() and len(word) >= 3 and word not in terms.skip:
                    beside.setdefault((row, group, word), set()).add(place)
    return mentions, {key: len(places) for key, places in beside.items()}


def test_the_fast_look_finds_what_a_slow_one_does(terms: Terms) -> None:
    source = random.Random(3)
    vocabulary = ["black", "man", "blacks", "Polish", "polish", "poles", "apart", "Dutch", "oven", "with", "a1", "in", "people", *PROSE]
    texts = [" ".join(source.choices(vocabulary, k=source.randint(0, 60))) for _ in range(120)]
    found = look(texts, terms, 4)
    mentions, beside = slow(texts, terms, 4)
    assert {(row["row"], row["group"]): row["mentions"] for row in found.groups.to_pylist()} == mentions
    assert {(row["row"], row["group"], row["word"]): row["count"] for row in found.beside.to_pylist()} == beside


def test_the_bundled_list_minds_senses() -> None:
    bundled = load(BUNDLED)
    found = counted(
        [
            "black hole, black women; the White House; straight line",
            "Jordan met a Jordanian",
            "polish the floor",
            "the blind people",
            "blind test",
        ],
        bundled,
    )
    assert found == {(0, "black"): 1, (0, "women"): 1, (1, "middle-eastern"): 1, (3, "blind"): 1}
    assert all(group.terms for group in bundled.groups) and bundled.sources and bundled.limits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = 1", "groups: Field required"),
        ("version = 1\n[groups.a.b]\nterms = ['x <who>']", "names the list 'who'"),
        ("version = 1\n[groups.a.b]\nterms = ['x']\n[groups.a.c]\nterms = ['x']", "stands for something else in a already"),
        ("version = 1\n[groups.a.b]\nterm = ['x']", "did you mean 'terms'"),
        ("version = 1\n[groups.a.b]\nterms = ['...']", "holds no word"),
        ("version = ", "not TOML"),
    ],
)
def test_a_bad_list_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load(tmp_path / "mine.toml")
    assert "mine.toml" in str(error.value)


def audited(recipe: Path, out: Path) -> tuple[Run, dict[str, Any]]:
    run = open_run(out, load_recipe(recipe, [])[0], recipe)
    with run.locked():
        if not run.is_current(STAGE):
            run.carry_out(STAGE)
        run.carry_out(AUDIT)
    return run, json.loads((out / "corpus" / "audit.json").read_bytes())


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, dict[str, Any]]:
    """100 texts that name Muslims, of which 60 are rude, and 300 others, of which 30 are; Hindus are named at random."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "notes").mkdir()
    source = random.Random(5)
    for number in range(400):
        named = number < 100
        words = source.choices(PROSE, k=60) + ["clever", "muslim", "neighbour"] * named + ["hindu"] * (source.random() < 0.3)
        rude = ["bitch"] if number % 10 < (6 if named else 1) else []
        (folder / "notes" / f"{number:03}.txt").write_text(
            " ".join(words + rude) + (f" in 1984, x{number}@example.com" if number % 2 else "")
        )
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE + BESIDE)
    return recipe, *audited(recipe, folder / "run")


def test_a_planted_disparity_is_found_with_its_sign_and_nothing_else_is(planted: tuple[Path, Run, dict[str, Any]]) -> None:
    audit = planted[2]
    rows = {row["group"]: row for row in audit["disparity"] if row["component"] == "all" and row["step"] == "profanity"}
    muslim, hindu = rows["religion/muslim"], rows["religion/hindu"]
    assert muslim["counts"] == [60, 100, 30, 300] and muslim["difference"][0] == 0.5 and muslim["ratio"][0] == 6.0
    assert muslim["difference"][1] > 0.35 and muslim["adjusted"][1] > 0.25 and muslim["q"] < 1e-10
    assert hindu["q"] > 0.05 and hindu["difference"][1] < 0 < hindu["difference"][2]
    first, *_, last = audit["components"]["notes"]["states"]
    assert (first["documents"], last["documents"]) == (400, 310)
    assert first["groups"]["religion/muslim"]["share"][0] == 0.25 and last["groups"]["religion/muslim"]["documents"] == 40
    assert first["counted"]["profane"]["count"] == 90 and last["counted"]["profane"]["count"] == 0
    assert first["counted"]["email"]["count"] == 200 and last["counted"]["email"]["count"] == 0 and first["decades"] == {"1980": 200}
    assert sum(first["languages"].values()) == 400
    beside = {word["word"]: word for word in audit["all"]["associations"]["0"]["religion/muslim"]}
    assert beside["clever"]["clear"] and beside["clever"]["documents"] == 100 and first["groups"]["religion/muslim"]["valence"][0] > 0
    assert "religion/muslim" in "\n".join(lines(audit))


def test_figures_of_a_rewritten_shard_are_those_of_its_texts(planted: tuple[Path, Run, dict[str, Any]]) -> None:
    """Of a rewritten shard only changed texts are looked at, and the others' figures are taken over."""
    run = planted[1]
    findings = [read(path) for path in sorted((run.path / "audit.work").iterdir()) if path.is_dir()]
    shards = [path for path in (run.path / "corpus.work").glob("*.parquet") if "parent" in pq.read_schema(path).names]
    assert len(findings) == len(shards) == 2
    looked = [look(pq.read_table(path).column("text").to_pylist(), load(BUNDLED), 10) for path in shards]
    for name in ("groups", "beside", "years"):
        known = [{tuple(sorted(row.items())) for row in getattr(one, name).to_pylist()} for one in findings]
        assert all({tuple(sorted(row.items())) for row in getattr(one, name).to_pylist()} in known for one in looked)


def test_the_report_and_the_datasheet_show_the_planted_disparity(planted: tuple[Path, Run, dict[str, Any]]) -> None:
    run = planted[1]
    with run.locked():
        run.carry_out(REPORT)
    page, sheet = ((run.path / name).read_text() for name in ("data-report.html", "DATASHEET.md"))
    assert "religion/muslim" in page and "60 of 100, 60.0%" in page and "+50.0 [" in page
    assert "<script" not in page and not re.search(r"(src|href)=.?(https?:)?//", page)
    assert "profanity: religion/muslim, 60 of 100, 60.0% removed; of the others 30 of 300, 10.0%" in sheet
    assert "**Under which licences?**\n\nCC0-1.0 100.0% of documents." in sheet and sheet.count("Not recorded") >= 6


def test_nothing_is_looked_at_again_and_the_corpus_does_not_depend_on_it(planted: tuple[Path, Run, dict[str, Any]]) -> None:
    recipe, run, audit = planted
    before = {path.name: path.stat().st_mtime_ns for path in (run.path / "audit.work").iterdir()}
    key = run.key(STAGE)
    assert audited(recipe, run.path)[1] == audit
    assert {path.name: path.stat().st_mtime_ns for path in (run.path / "audit.work").iterdir()} == before
    recipe.write_text(RECIPE + "[corpus.audit]\nwindow = 5\n" + BESIDE)
    other = open_run(run.path, load_recipe(recipe, [])[0], recipe)
    assert other.key(STAGE) == key and other.is_current(STAGE) and not other.is_current(AUDIT)


def test_a_corpus_that_names_nobody_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for number in range(30):
        (tmp_path / "notes" / f"{number}.txt").write_text(" ".join(random.Random(number).choices(PROSE, k=40)))
    (tmp_path / "terms.toml").write_text(TERMS)
    recipe = tmp_path / "recipe.toml"
    without_steps = RECIPE[: RECIPE.index("[[corpus.steps]]")]
    recipe.write_text(without_steps + '[corpus.audit]\nterms = "terms.toml"\ncatalogues = "nowhere"\n' + BESIDE)
    run, audit = audited(recipe, tmp_path / "run")
    assert audit["disparity"] == [] and audit["all"]["states"][0]["groups"] == {} and audit["all"]["associations"]["0"] == {}
    assert "names any of them" in lines(audit)[-1]
    assert "nowhere holds too few" in audit["method"]["languages"] and audit["all"]["states"][0]["languages"] == {}
    shown = CliRunner().invoke(command, ["audit", str(run.path), "--json"])
    assert shown.exit_code == 0 and json.loads(shown.stdout.splitlines()[-1]) == audit
    assert "No document names any of the 3 groups" in (tmp_path / "run" / "data-report.html").read_text()
