"""Files as they come: every compression and archive gives the same texts; damaged and hostile ones are named, in bounded memory."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import resource
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from reading import problem, texts, the_text

from openbook.corpus.sources import streams
from openbook.corpus.sources.files import expand
from openbook.errors import InputError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
WORDS = ["first text, ü\n", "second text, 你好\n", 'third "text", with a comma\n']


def rows(name: str) -> bytes:
    """The words as a file of rows."""
    table = [{"text": text, "lang": "en", "license": "cc-by-4.0", "date": "2019-05-01"} for text in WORDS]
    if name == "jsonl":
        return b"".join(json.dumps(row).encode() + b"\n" for row in table)
    if name == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(table), sink)
        return sink.getvalue()
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return lines.getvalue().encode()


@pytest.mark.parametrize("packed", ["", *PACKERS])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_rows_are_the_same_in_every_format_and_compression(tmp_path: Path, kind: str, packed: str) -> None:
    path = tmp_path / f"x.{kind}{packed}"
    path.write_bytes(PACKERS.get(packed, bytes)(rows(kind)))
    found = texts(path)
    assert [raw.text for raw in found] == WORDS
    assert {raw.licence for raw in found} == {"CC-BY-4.0"}
    assert dict(found[0].meta) == {"language": "en", "date": "2019-05-01", "year": 2019}
    assert len({raw.origin for raw in found}) == 3


@pytest.mark.parametrize("packed", ["", *PACKERS])
def test_plain_text_is_read_from_every_compression(tmp_path: Path, packed: str) -> None:
    (tmp_path / f"x.txt{packed}").write_bytes(PACKERS.get(packed, bytes)("naïve\r\nwords\n".encode()))
    assert the_text(tmp_path / f"x.txt{packed}").text == "naïve\nwords\n"


@pytest.mark.parametrize("packed", PACKERS)
def test_files_of_several_compressed_streams_are_read_to_the_end(tmp_path: Path, packed: str) -> None:
    pack = PACKERS[packed]
    (tmp_path / f"x.txt{packed}").write_bytes(pack(b"one ") + pack(b"two ") + pack(b"three"))
    assert the_text(tmp_path / f"x.txt{packed}").text == "one two three"


@given(st.binary(max_size=3000), st.sampled_from(sorted(PACKERS)), st.integers(1, 700))
def test_unpacking_gives_back_what_was_packed(data: bytes, packed: str, piece: int) -> None:
    stream = streams.unpack(io.BytesIO(PACKERS[packed](data)), f"x{packed}", 100)
    found = b""
    while got := stream.read(piece):
        found += got
    assert found == data
    assert stream.position == len(data)


@pytest.mark.parametrize("packed", PACKERS)
def test_a_cut_compressed_file_gives_what_it_has_and_names_the_place(tmp_path: Path, packed: str) -> None:
    whole = PACKERS[packed](b"".join(b'{"text": "line %d"}\n' % number for number in range(20_000)))
    (tmp_path / f"x.jsonl{packed}").write_bytes(whole[: len(whole) // 2])
    found = texts(tmp_path / f"x.jsonl{packed}")
    assert found[-1].problem is not None
    assert found[-1].problem[0] == "unreadable"
    assert "near byte" in found[-1].problem[1]
    assert all(raw.problem is None for raw in found[:-1])


@pytest.mark.parametrize("packed", PACKERS)
def test_a_bomb_is_stopped_by_what_comes_out_of_it(tmp_path: Path, packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    (tmp_path / f"x.jsonl{packed}").write_bytes(PACKERS[packed](b"0" * 30_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reason, detail = problem(tmp_path / f"x.jsonl{packed}")
    assert reason == "unreadable"
    assert "come out of it, 250 for each byte that went in" in detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_a_long_document_is_measured_and_never_held(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(120):
            file.write(b"some words " * 100_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert problem(tmp_path / "x.txt.gz") == ("too long", "132,000,000 bytes; corpus.max_document_bytes is 100,000")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_archives_are_rows_of_files(tmp_path: Path) -> None:
    files = {"a/one.txt": b"one", "b.jsonl": rows("jsonl"), "t.parquet": rows("parquet"), "picture.png": b"\x89PNG"}
    tar_of(tmp_path / "x.tar.gz", files)
    tar_of(tmp_path / "y.tar", files, "w")
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    found = {path.name: [(raw.origin.partition("!")[2], raw.text) for raw in texts(path)] for path in tmp_path.iterdir()}
    assert found["x.tar.gz"] == found["y.tar"] == found["z.zip"]
    assert found["z.zip"][0] == ("a/one.txt", "one")
    assert [text for _, text in found["z.zip"]] == ["one", *WORDS, *WORDS]


def test_archives_in_archives_are_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar.gz", {"inner.zip": b"PK\x03\x04", "inner.txt": gzip.compress(b"x"), "fine.txt": b"fine"})
    found = texts(tmp_path / "x.tar.gz")
    assert [raw.problem and raw.problem[0] for raw in found] == ["nested archive", "nested archive", None]
    (tmp_path / "y.txt.gz").write_bytes(gzip.compress(gzip.compress(b"x")))
    assert problem(tmp_path / "y.txt.gz") == ("nested archive", "gzip inside a compressed file; unpack the outer one")


def test_an_archives_links_and_long_heads_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("passwd.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        outside = tarfile.TarInfo("../../outside.txt")
        outside.size = 2
        archive.addfile(outside, io.BytesIO(b"in"))
    assert [(raw.origin, raw.text) for raw in texts(tmp_path / "x.tar")] == [("x.tar!../../outside.txt", "in")]
    head = tarfile.TarInfo("long")
    head.type, head.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "y.tar").write_bytes(head.tobuf() + b"\0" * 1024)
    assert problem(tmp_path / "y.tar")[1].startswith("a header of 1,073,741,824 bytes")


def test_damaged_and_locked_archives_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 no archive")
    assert problem(tmp_path / "x.zip")[0] == "unreadable"
    (tmp_path / "y.tar").write_bytes(b"no archive" * 100)
    assert problem(tmp_path / "y.tar")[0] == "unreadable"
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("x.txt", b"secret")
    data = bytearray((tmp_path / "z.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "z.zip").write_bytes(data)
    assert problem(tmp_path / "z.zip") == ("unreadable", "it is encrypted")


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "plain.txt").write_text("plain")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "within.txt").symlink_to(folder / "plain.txt")
    found = {raw.origin: raw for raw in texts(folder)}
    assert found["out.txt"].problem == ("outside", "a link that leads out of the folder; name its target as a component of its own")
    assert found["within.txt"].text == "plain"


def test_the_order_is_the_same_everywhere_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    orders = []
    for name, numbers in (("a", range(20)), ("b", reversed(range(20)))):
        folder = tmp_path / name
        (folder / ".git").mkdir(parents=True)
        (folder / ".git" / "x.txt").write_text("x")
        for number in numbers:
            (folder / f"{number}.txt").write_text(str(number))
        orders.append([raw.text for raw in texts(folder)])
    assert orders[0] == orders[1] != sorted(orders[0], key=int)
    assert len(orders[0]) == 20


def test_a_million_empty_lines_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.zst").write_bytes(zstandard.compress(b"\n" * 1_000_000 + b'{"text": "end"}\n'))
    assert [raw.origin for raw in texts(tmp_path / "x.jsonl.zst")] == ["x.jsonl.zst:1000001"]


def test_tables_that_lack_the_text_or_lie_about_it(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("body,n\nwords,1\n")
    assert problem(tmp_path / "x.csv") == ("no text", "no column 'text'; columns are 'body', 'n'")
    assert the_text(tmp_path / "x.csv", text_key="body").meta == {"n": "1"}
    (tmp_path / "y.csv").write_text('text\nfine\n"never closed\n')
    assert [raw.problem and raw.problem[0] for raw in texts(tmp_path / "y.csv")] == [None, "not CSV"]
    (tmp_path / "z.csv").write_bytes(b"text\nfine\nna\xefve\n")
    assert texts(tmp_path / "z.csv")[-1].problem == ("invalid UTF-8", "line 3: 0xef")
    pq.write_table(pa.table({"text": ["x" * 400_000]}), tmp_path / "t.parquet")
    assert problem(tmp_path / "t.parquet") == ("too long", "400,000 bytes; corpus.max_document_bytes is 100,000")


def test_a_table_that_would_swell_beyond_reason_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.corpus.sources.rows.FREE_BYTES", 1 << 20)
    text = ["x" * 500_000 + str(number) for number in range(8)]
    pq.write_table(pa.table({"text": text}), tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    assert "would swell from" in problem(tmp_path / "t.parquet")[1]


def test_licences_are_said_in_the_words_of_spdx(tmp_path: Path) -> None:
    stated = ["CC BY-SA 4.0", "house rules", "MIT OR Apache 2.0", "who knows"]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": f"{name}", "meta": {"licence": name}}) + "\n" for name in stated))
    found = texts(tmp_path / "x.jsonl", licences={"house rules": "LicenseRef-house"})
    assert [raw.licence for raw in found] == ["CC-BY-SA-4.0", "LicenseRef-house", "MIT OR Apache-2.0", "who knows"]
    assert {raw.licence for raw in texts(tmp_path / "x.jsonl", licence="CC0-1.0")} == {"CC0-1.0"}


def test_a_path_may_name_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_TEST", str(tmp_path))
    monkeypatch.delenv("OPENBOOK_OTHER", raising=False)
    assert expand("${OPENBOOK_TEST}/x", "w") == f"{tmp_path}/x"
    assert expand("${OPENBOOK_OTHER:-../data}/x", "w") == "../data/x"
    with pytest.raises(InputError, match=r"^w = .*: the environment has no OPENBOOK_OTHER; set it"):
        expand("${OPENBOOK_OTHER}/x", "w")
