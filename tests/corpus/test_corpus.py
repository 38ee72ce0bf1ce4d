"""The corpus: what goes in, what stays out and why; hostile files are named, never fatal by surprise."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from reading import BESIDE

from openbook.corpus.sources.machine import SELECTIONS
from openbook.corpus.sources.roff import to_text
from openbook.documents import Document, document_id, is_held_out, read_documents
from openbook.errors import InputError, OpenbookError
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run


def build(tmp_path: Path, components: str, *overrides: str) -> Run:
    """The corpus stage on components given as TOML."""
    text = f"""
        name = "c"
        [corpus]
        holdout = 0.3
        {components}
        {BESIDE}
    """
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    run = open_run(tmp_path / "run", load_recipe(path, overrides)[0], path)
    list(update(run, ["corpus"]))
    return run


def files(name: str, path: str, more: str = "") -> str:
    return f"[corpus.components.{name}]\nsource = 'files'\npath = '{path}'\nweight = 1.0\n{more}\n"


def documents(run: Run, *names: str) -> list[Document]:
    return [
        document
        for name in names
        for split in ("train", "valid")
        for document in read_documents(run.path / f"corpus/{name}/{split}.parquet")
    ]


def dropped(run: Run, name: str) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(run.path / "corpus" / name / "dropped.parquet").to_pylist()
    return {row["origin"]: (row["reason"], row["detail"]) for row in rows}


def some_texts(folder: Path, count: int = 12, prefix: str = "text") -> None:
    folder.mkdir(exist_ok=True)
    for index in range(count):
        (folder / f"{index}.txt").write_text(f"{prefix} number {index}\n", encoding="utf-8")


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    some_texts(folder, 8)
    (folder / "notes.md").write_text("# notes\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "code.py").write_text("print(1)\n")
    rows = b"".join(json.dumps({"text": f"row {i}", "meta": {"licence": "MIT"}}).encode() + b"\n" for i in range(3))
    (folder / "plain.jsonl").write_bytes(rows)
    (folder / "z.jsonl.gz").write_bytes(gzip.compress(rows.replace(b"row", b"gz row")))
    (folder / "s.jsonl.zst").write_bytes(zstandard.compress(rows.replace(b"row", b"zst row")))
    pq.write_table(pa.table({"text": ["table row 0", "table row 1"], "license": ["CC0-1.0", None]}), folder / "t.parquet")
    (folder / "ignored.bin").write_bytes(b"\0\1")
    run = build(tmp_path, files("all", "in"))
    found = {document.text: document for document in documents(run, "all")}
    assert len(found) == 8 + 2 + 3 * 3 + 2
    assert found["zst row 2"].origin == "s.jsonl.zst:3"
    assert found["gz row 1"].licence == "MIT"
    assert found["table row 0"].licence == "CC0-1.0"
    assert found["print(1)\n"].origin == "deep/code.py"
    assert dropped(run, "all") == {}


def test_a_single_file_is_a_component_too(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"body": f"t {i}"}) + "\n" for i in range(20)))
    run = build(tmp_path, files("one", "x.jsonl", "text_key = 'body'\nlicence = 'CC-BY-4.0'"))
    assert {document.licence for document in documents(run, "one")} == {"CC-BY-4.0"}
    assert len(documents(run, "one")) == 20


def test_what_cannot_be_taken_is_kept_aside_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    some_texts(folder)
    (folder / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (folder / "blank.txt").write_text(" \n\t")
    (folder / "same.md").write_text("text number 3\n")
    (folder / "big.txt").write_text("x" * 5000)
    lines = ['{"text": "fine"}', "{broken", '{"no": "text"}', '{"text": 5}', '{"text": "' + "y" * 5000 + '"}', '{"text": "lone \\ud800"}']
    (folder / "mixed.jsonl").write_text("\n".join(lines))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    (folder / "wrong.parquet").write_text("no table")
    run = build(tmp_path, files("c", "in"), "corpus.max_document_bytes=4000")
    reasons = dropped(run, "c")
    assert reasons["picture.txt"] == ("binary", "NUL byte at 8")
    assert reasons["latin.txt"] == ("invalid UTF-8", "byte 2 is 0xef")
    assert reasons["blank.txt"][0] == "empty"
    assert [reasons.get(name, ("",))[0] for name in ("same.md", "3.txt")].count("duplicate") == 1
    assert reasons["big.txt"] == ("too long", "5,000 bytes; corpus.max_document_bytes is 4,000")
    assert reasons["mixed.jsonl:2"][0] == "not JSON"
    assert reasons["mixed.jsonl:3"] == reasons["mixed.jsonl:4"] == ("no text", "no string under 'text'")
    assert reasons["mixed.jsonl:5"][0] == "too long"
    assert reasons["mixed.jsonl:6"][0] == "invalid UTF-8"
    assert reasons["cut.jsonl.gz"][0] == "unreadable"
    assert reasons["wrong.parquet"][0] == "unreadable"
    assert "fine" in {document.text for document in documents(run, "c")}
    sheet = (run.path / "corpus" / "DATASHEET.md").read_text()
    assert "| c | binary | 1 | 10 |" in sheet


def test_a_text_occurs_once_in_all_components_and_never_in_both_splits(tmp_path: Path) -> None:
    some_texts(tmp_path / "a", 40)
    some_texts(tmp_path / "b", 50)
    run = build(tmp_path, files("a", "a") + files("b", "b"))
    everything = documents(run, "a", "b")
    assert len(everything) == len({document.text for document in everything}) == 50
    assert len(documents(run, "a")) == 40
    for name in ("a", "b"):
        for document in read_documents(run.path / f"corpus/{name}/valid.parquet"):
            assert is_held_out(document.id, 0.3)


@given(st.text(min_size=1))
def test_the_split_is_a_function_of_the_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert is_held_out(document_id(text), 0.0) is False
    assert is_held_out(document_id(text), 1.0) is True
    assert is_held_out(document_id(text), 0.3) <= is_held_out(document_id(text), 0.5)


def test_one_long_file_can_be_cut_into_documents(tmp_path: Path) -> None:
    text = "".join(f"line number {number}, ü\n" for number in range(500))
    (tmp_path / "play.txt").write_text(text)
    run = build(tmp_path, files("c", "play.txt", "split_bytes = 1000"))
    found = sorted(documents(run, "c"), key=lambda document: int(document.origin.split("#")[1]))
    assert "".join(document.text for document in found) == text
    assert [document.origin for document in found] == [f"play.txt#{number}" for number in range(1, len(found) + 1)]
    assert all(1000 <= document.bytes < 1040 for document in found[:-1])
    (tmp_path / "play.txt").write_text("short\n" * 300 + "x" * 5000 + "\n" + "after\n" * 300)
    again = build(tmp_path, files("c", "play.txt", "split_bytes = 1000"), "corpus.max_document_bytes=3000")
    assert [reason for reason, _ in dropped(again, "c").values()].count("too long") == 1
    assert sum(document.text.count("after") for document in documents(again, "c")) == 300


def test_the_end_of_a_text_can_be_held_out(tmp_path: Path) -> None:
    text = "".join(f"line number {number}, ü\n" for number in range(50))
    (tmp_path / "play.txt").write_text(text)
    run = build(tmp_path, files("c", "play.txt", "holdout_end = 0.1"))
    (train,), (valid,) = (list(read_documents(run.path / f"corpus/c/{split}.parquet")) for split in ("train", "valid"))
    place = int(len(text) * 0.9)
    assert (train.text, valid.text) == (text[:place], text[place:])
    assert (train.origin, valid.origin) == ("play.txt#train", "play.txt#valid")
    assert "the last 0.1 of its characters" in (run.path / "corpus" / "DATASHEET.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"holdout_end.*split_bytes"):
        build(tmp_path, files("c", "play.txt", "holdout_end = 0.1\nsplit_bytes = 100"))


def test_nothing_held_out_is_told_before_hours_of_training(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("one document\n")
    with pytest.raises(InputError, match=r"corpus\.holdout = 1e-09 held none of the 1 documents out.*split_bytes"):
        build(tmp_path, files("c", "play.txt"), "corpus.holdout=1e-9")


def test_what_the_recipe_excludes_is_on_record(tmp_path: Path) -> None:
    some_texts(tmp_path / "in", 20)
    run = build(tmp_path, files("c", "in", "exclude = ['1?.txt', '*.md']"))
    assert {document.origin for document in documents(run, "c")} == {f"{number}.txt" for number in range(10)}
    assert dropped(run, "c") == {f"{number}.txt": ("excluded", "matches '1?.txt'") for number in range(10, 20)}


def test_a_limit_takes_a_sample_that_grows_with_it(tmp_path: Path) -> None:
    some_texts(tmp_path / "in", 60)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name, limit in (("one", 300), ("two", 600)):
        (tmp_path / name / "in").symlink_to(tmp_path / "in")
        build(tmp_path / name, files("c", "in", f"max_bytes = {limit}"))
    small = {document.text for document in documents(Run(tmp_path / "one" / "run"), "c")}
    large = {document.text for document in documents(Run(tmp_path / "two" / "run"), "c")}
    assert small < large
    assert 300 <= sum(map(len, small)) < 330


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("nothing", "no such file or folder"),
        ("empty folder", "holds no file that ends in .txt"),
        ("odd file", "cannot read this kind of file"),
        ("binary only", "x.txt: binary: NUL byte at 0"),
    ],
)
def test_a_component_without_text_is_an_error_that_names_it(tmp_path: Path, prepare: str, expected: str) -> None:
    path = tmp_path / "in"
    if prepare == "empty folder":
        path.mkdir()
    if prepare == "odd file":
        path = tmp_path / "in.docx"
        path.write_text("x")
    if prepare == "binary only":
        path.mkdir()
        (path / "x.txt").write_bytes(b"\0\1\2")
    with pytest.raises(InputError, match=r"^corpus\.components\.c[.:]") as raised:
        build(tmp_path, files("c", path.name))
    assert expected in str(raised.value)


def test_a_single_line_of_200_megabytes_is_left_out_unread(tmp_path: Path) -> None:
    some_texts(tmp_path / "in")
    with (tmp_path / "in" / "huge.txt").open("wb") as file:
        file.truncate(200_000_000)
    with (tmp_path / "in" / "huge.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(200):
            file.write(b"z" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    run = build(tmp_path, files("c", "in"))
    assert dropped(run, "c")["huge.txt"] == ("too long", "200,000,000 bytes; corpus.max_document_bytes is 2,000,000")
    assert dropped(run, "c")["huge.jsonl:1"][0] == "too long"
    assert "after" in {document.text for document in documents(run, "c")}


def test_changed_files_make_the_corpus_stale_and_nothing_else_does(tmp_path: Path) -> None:
    some_texts(tmp_path / "in")
    run = build(tmp_path, files("c", "in"))
    assert [done.skipped for done in update(run, ["corpus"])] == [True]
    (tmp_path / "in" / "new.txt").write_text("one more")
    assert [done.skipped for done in update(run, ["corpus"])] == [False]
    other, _ = load_recipe(tmp_path / "c.toml", ["corpus.components.c.weight=5.0", "train.steps=2"])
    assert [done.skipped for done in update(open_run(run.path, other, tmp_path / "c.toml"), ["corpus"])] == [True]


def test_a_damaged_document_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(OpenbookError, match=r"x\.parquet: cannot be read as documents"):
        list(read_documents(tmp_path / "x.parquet"))


@pytest.mark.parametrize("select", sorted(SELECTIONS))
def test_the_machines_own_text(select: str) -> None:
    """Whatever is there is readable text with an origin; the standard library and the packages are always there."""
    found = []
    for raw in SELECTIONS[select](500_000):
        found.append(raw)
        if len(found) == 40:
            break
    taken = [raw for raw in found if not raw.problem]
    if select in ("stdlib", "packages"):
        assert len(taken) > 30
    assert len({raw.origin for raw in found}) == len(found)
    assert all("\0" not in raw.text for raw in taken)
    assert all(raw.licence == "PSF-2.0" for raw in taken if select == "stdlib")


def test_machine_text_without_a_match_gives_its_weight_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTIONS, "man", lambda limit: iter(()))
    some_texts(tmp_path / "in")
    run = build(
        tmp_path,
        files("c", "in") + "[corpus.components.man]\nsource = 'machine'\nselect = 'man'\nweight = 9.0\n",
        "tokenizer.vocab_size=260",
    )
    record = run.stage_record("corpus")
    assert record is not None
    assert record["summary"]["components"]["man"]["train"]["documents"] == 0
    list(update(run, ["tokenize"]))
    assert not (run.path / "tokens" / "train" / "man.bin").exists()


def test_a_manual_page_becomes_readable_text() -> None:
    source = (
        '.\\" remark\n.TH LS 1 "2020" "GNU"\n.SH NAME\nls \\- list \\fIdirectory\\fR contents\n.SH SYNOPSIS\n.B ls\n[\\fIOPTION\\fR]...\n'
    )
    source += '.TP\n\\fB\\-a\\fR, \\fB\\-\\-all\\fR\ndo not ignore entries\n.BR cat (1),\n.IR "two words" x\n.nf\n\\(bu item \\e\n'
    expected = "LS(1)\n\n\nNAME\n\nls - list directory contents\n\nSYNOPSIS\n\nls\n[OPTION]...\n\n-a, --all\ndo not ignore entries\n"
    expected += "cat(1),\ntwo wordsx\n• item \\\n"
    assert to_text(source) == expected.replace("\n\n\n", "\n\n")
