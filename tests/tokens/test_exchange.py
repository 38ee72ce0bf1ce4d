"""Token files of other programs, against readers and writers written from their documented layouts; and files that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from openbook.documents import read_documents
from openbook.errors import InputError, OpenbookError
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run
from openbook.tokens.exchange import Layout, give, read, take
from openbook.tokens.shards import opened_shards
from tiny import RECIPE


@pytest.fixture(scope="module")
def tokenizer(tokenized: Run) -> Tokenizer:
    return load_tokenizer(tokenized.path / "tokenizer" / "tokenizer.json")


@pytest.fixture(scope="module")
def expected(tokenized: Run, tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(document.text) for document in read_documents(tokenized.path / "corpus" / "prose" / "train.parquet")]


@pytest.fixture(scope="module")
def given(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    folder = tmp_path_factory.mktemp("given")
    layouts: tuple[Layout, ...] = ("megatron", "nanogpt", "datatrove")
    for layout in layouts:
        give(opened_shards(tokenized), layout, tokenized.path / "tokenizer" / "tokenizer.json", folder / layout)
    return {layout: folder / layout for layout in layouts}


FILES: dict[Layout, str] = {"megatron": "train/prose.bin", "nanogpt": "train.bin", "datatrove": "train/prose.ds"}


def test_megatron_finds_every_document(given: dict[Layout, Path], expected: list[list[int]], tokenizer: Tokenizer) -> None:
    """A reader after Megatron-LM's IndexedDataset."""
    index = (given["megatron"] / "train" / "prose.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00" and struct.unpack_from("<QB", index, 9) == (1, 8)
    sequences, bounds = struct.unpack_from("<QQ", index, 18)
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    pointers = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    documents = np.frombuffer(index, "<i8", bounds, 34 + 12 * sequences)
    tokens = (given["megatron"] / "train" / "prose.bin").read_bytes()
    assert len(index) == 34 + 12 * sequences + 8 * bounds and documents.tolist() == list(range(sequences + 1))
    found = [np.frombuffer(tokens, "<u2", length, pointer).tolist() for length, pointer in zip(lengths, pointers, strict=True)]
    assert found == [[*ids, tokenizer.end_of_document] for ids in expected]


def test_nanogpt_and_datatrove_find_every_token(given: dict[Layout, Path], tokenized: Run) -> None:
    shards = opened_shards(tokenized)["train"]
    whole = np.concatenate([shards["prose"].tokens, shards["code"].tokens])
    assert np.array_equal(np.memmap(given["nanogpt"] / "train.bin", np.uint16, "r"), whole)
    assert (given["nanogpt"] / "val.bin").stat().st_size > 0
    ends = np.frombuffer((given["datatrove"] / "train" / "code.ds.index").read_bytes(), "<u8")
    assert ends.tolist() == shards["code"].ends.tolist()
    assert (given["datatrove"] / "train" / "code.ds.metadata").read_text().splitlines()[:2] == ["tokenizer.json|2", str(ends[-1])]


@pytest.mark.parametrize("layout", ["megatron", "nanogpt", "datatrove"])
def test_what_went_out_comes_in_again(
    layout: Layout, given: dict[Layout, Path], expected: list[list[int]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    taken = take(given[layout] / FILES[layout], layout, tokenizer, "back", "CC0-1.0", tmp_path / "in")
    assert (taken.differ, taken.no_text) == (0, 0)
    documents = list(read_documents(tmp_path / "in" / "back.parquet"))
    assert [tokenizer.encode(document.text) for document in documents[: len(expected)]] == expected
    assert {document.licence for document in documents} == {"CC0-1.0"} and documents[1].origin.endswith("#1")


def test_a_run_trains_on_what_was_imported(given: dict[Layout, Path], tokenizer: Tokenizer, tokenized: Run, tmp_path: Path) -> None:
    """The tokens of the new run are those of the file."""
    take(given["megatron"] / "train" / "prose.bin", "megatron", tokenizer, "back", None, tmp_path / "in")
    start, end = RECIPE.index("[corpus.components.prose]"), RECIPE.index("[tokenizer]")
    component = '[corpus.components.back]\nsource = "files"\npath = "in/back.parquet"\nformat = "parquet"\nweight = 1.0\nlicence = "MIT"\n'
    text = (
        RECIPE[:start].replace("holdout = 0.2", "holdout = 0.5")
        + component
        + RECIPE[end:].replace("[tokenizer]", '[tokenizer]\nfile = "in/tokenizer.json"')
    )
    recipe = tmp_path / "again.toml"
    recipe.write_text(text)
    run = open_run(tmp_path / "run", load_recipe(recipe)[0], recipe)
    list(update(run, ["corpus", "tokenize", "mixture"]))
    theirs = {tuple(ids.tolist()) for ids in read(given["megatron"] / "train" / "prose.bin", "megatron", tokenizer.end_of_document)}
    shard = opened_shards(run)["train"]["back"]
    mine = {tuple(part[:-1].tolist()) for part in np.split(shard.tokens, shard.ends[:-1])}
    assert mine and mine <= theirs
    wrong, _ = load_recipe(recipe, ["tokenizer.vocab_size=301"])
    with pytest.raises(InputError, match=r"has 300 tokens, .* the recipe says tokenizer.vocab_size = 301"):
        list(update(open_run(tmp_path / "run", wrong, recipe), ["tokenize"]))


def test_llm_c_files_have_a_header(tokenizer: Tokenizer, tmp_path: Path) -> None:
    end = tokenizer.end_of_document
    ids = np.array([end, *tokenizer.encode("one"), end, *tokenizer.encode("two")], "<u2")
    path = tmp_path / "x.bin"
    path.write_bytes(struct.pack("<256i", 20240520, 1, len(ids), *[0] * 253) + ids.tobytes())
    assert [tokenizer.decode(part.tolist()) for part in read(path, "nanogpt", end)] == ["one", "two"]
    path.write_bytes(struct.pack("<256i", 20240520, 1, 10**9, *[0] * 253) + ids.tobytes())
    with pytest.raises(InputError, match=r"its header says 1,000,000,000 tokens, and it holds"):
        list(read(path, "nanogpt", end))


def index(
    mark: bytes = b"MMIDIDX\x00\x00", version: int = 1, code: int = 8, sequences: int = 2, bounds: int = 3, **arrays: list[int]
) -> bytes:
    head = struct.pack("<9sQBQQ", mark, version, code, sequences, 3)
    lengths, pointers, documents = (arrays.get(name, usual) for name, usual in (("l", [2, 2]), ("p", [0, 4]), ("d", [0, 1, 2])))
    return head + np.array(lengths, "<i4").tobytes() + np.array(pointers, "<i8").tobytes() + np.array(documents, "<i8").tobytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an index of Megatron's"),
        (index(mark=b"TNTIDX\x00\x00\x00"), "not an index of Megatron's"),
        (index(version=2), "version 2"),
        (index(code=6), "type code 6"),
        (index(sequences=2**62), "it is cut off, damaged or multimodal"),
        (index()[:-3], "it is cut off, damaged or multimodal"),
        (index() + b"\0\0", "it is cut off, damaged or multimodal"),
        (index(l=[2, 2_000_000]), "points outside"),
        (index(l=[2, -1]), "points outside"),
        (index(p=[0, -4]), "points outside"),
        (index(p=[0, 3]), "points outside"),
        (index(p=[0, 2**62]), "points outside"),
        (index(d=[0, 2, 1]), "document bounds"),
        (index(d=[0, 1, 9]), "document bounds"),
        (index(code=4), "points outside"),
    ],
)
def test_an_index_that_lies_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(np.arange(4, dtype="<u2").tobytes())
    (tmp_path / "x.idx").write_bytes(content)
    with pytest.raises(InputError, match=said):
        list(read(tmp_path / "x.bin", "megatron", 9))
    (tmp_path / "x.idx").write_bytes(index())
    assert [part.tolist() for part in read(tmp_path / "x", "megatron", 9)] == [[0, 1], [2, 3]]


def odd(folder: Path) -> tuple[Path, Layout]:
    (folder / "x.bin").write_bytes(b"\1\0\2")
    return folder / "x.bin", "nanogpt"


def beyond(folder: Path) -> tuple[Path, Layout]:
    (folder / "x.bin").write_bytes(np.array([1, 60_000], "<u2").tobytes())
    return folder / "x.bin", "nanogpt"


def short(folder: Path) -> tuple[Path, Layout]:
    (folder / "x.ds").write_bytes(bytes(8))
    np.array([2, 9], "<u8").tofile(folder / "x.ds.index")
    return folder / "x.ds", "datatrove"


def falling(folder: Path) -> tuple[Path, Layout]:
    (folder / "x.ds").write_bytes(bytes(4))
    np.array([3, 2], "<u8").tofile(folder / "x.ds.index")
    return folder / "x.ds", "datatrove"


def alone(folder: Path) -> tuple[Path, Layout]:
    (folder / "x.ds").write_bytes(bytes(4))
    return folder / "x.ds", "datatrove"


def empty(folder: Path) -> tuple[Path, Layout]:
    (folder / "x.bin").write_bytes(b"")
    return folder / "x.bin", "nanogpt"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (odd, "3 bytes are no whole number of 2-byte tokens"),
        (beyond, "document 0 has token 60000; the tokenizer knows 0 to 299"),
        (short, "says that x.ds has 9 tokens; its 8 bytes are neither 2 nor 4"),
        (falling, "says that x.ds has 2 tokens"),
        (alone, r"x\.ds\.index: no such file"),
        (empty, "holds no document of text"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_told_and_leaves_nothing(
    make: Callable[[Path], tuple[Path, Layout]], said: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path, layout = make(tmp_path)
    with pytest.raises(OpenbookError, match=said) as raised:
        take(path, layout, tokenizer, "x", None, tmp_path / "out")
    assert raised.value.status == 2 and "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_text_is_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    half = tokenizer.ranks[b"\xc3"]
    ids = [
        *tokenizer.encode("fine"),
        tokenizer.end_of_document,
        half,
        tokenizer.end_of_document,
        tokenizer.ranks[b"i"],
        tokenizer.ranks[b"f"],
    ]
    np.array(ids, "<u2").tofile(tmp_path / "x.bin")
    taken = take(tmp_path / "x.bin", "nanogpt", tokenizer, "x", None, tmp_path / "out")
    assert (taken.documents, taken.no_text, taken.differ) == (2, 1, int(len(tokenizer.encode("if")) == 1))
    assert pq.read_table(tmp_path / "out" / "x.parquet")["text"].to_pylist() == ["fine", "if"]
