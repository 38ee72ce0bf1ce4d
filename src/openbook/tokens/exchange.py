"""Token files of other programs: Megatron's indexed dataset (version 1), datatrove's .ds, and nanoGPT's plain .bin (llm.c's has a header).

What comes from outside is documents of ids; with the tokenizer that made them they become documents of text, which every step of a corpus
can look at, and which that tokenizer encodes to the same ids again. Headers are believed only as far as the files' sizes agree with them.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from openbook.documents import Document, DocumentWriter, document_id
from openbook.errors import InputError
from openbook.files import written_aside
from openbook.model.tokenizer import Tokenizer
from openbook.tokens.shards import Shard

Layout = Literal["megatron", "nanogpt", "datatrove"]
MEGATRON = b"MMIDIDX\x00\x00"
MEGATRON_HEAD = struct.Struct("<9sQBQQ")
"""Mark, version, code of the tokens' type, sequences, document bounds."""
MEGATRON_TYPES = {1: "<u1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
LLM_C = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
"""Mark, version and type of llm.c's headers: 256 numbers of 32 bits, the third of which counts the tokens."""
LLM_C_HEAD = 1024
Ids = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Imported:
    """`differ`: documents whose text is encoded otherwise than the file has it. `no_text`: those that are not text and were left out."""

    documents: int
    tokens: int
    bytes: int
    differ: int
    no_text: int


def read(path: Path, layout: Layout, end_of_document: int) -> Iterator[Ids]:
    """The documents of a file, in order, without the token that ends them. Raises InputError that names a file that is not what it says."""
    documents = {"megatron": _megatron, "nanogpt": _plain, "datatrove": _datatrove}[layout](path, end_of_document)
    for ids in documents:
        if len(ids) and ids[-1] == end_of_document:
            ids = ids[:-1]
        if len(ids):
            yield ids


def _size(path: Path) -> int:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path.stat().st_size


def _mapped(path: Path, dtype: str, offset: int = 0) -> Ids:
    size, width = _size(path) - offset, np.dtype(dtype).itemsize
    if size % width:
        raise InputError(f"{path}: {size:,} bytes are no whole number of {width}-byte tokens; it is cut off, or of another layout")
    return np.memmap(path, dtype, "r", offset) if size else np.empty(0, dtype)


def _megatron(path: Path, _: int) -> Iterator[Ids]:
    index, tokens_path = path.with_suffix(".idx"), path.with_suffix(".bin")
    size = _size(index)
    with index.open("rb") as file:
        head = file.read(MEGATRON_HEAD.size)
        if len(head) < MEGATRON_HEAD.size or head[:9] != MEGATRON:
            raise InputError(f"{index}: not an index of Megatron's (it does not begin with MMIDIDX)")
        _, version, code, sequences, bounds = MEGATRON_HEAD.unpack(head)
        if version != 1:
            raise InputError(f"{index}: version {version}; version 1 can be read")
        if code not in MEGATRON_TYPES:
            raise InputError(f"{index}: type code {code} is none of whole numbers; known are {', '.join(map(str, MEGATRON_TYPES))}")
        if size != MEGATRON_HEAD.size + 12 * sequences + 8 * bounds:
            raise InputError(
                f"{index}: {size:,} bytes, where {sequences:,} sequences and {bounds:,} document bounds take "
                f"{MEGATRON_HEAD.size + 12 * sequences + 8 * bounds:,}; it is cut off, damaged or multimodal"
            )
        lengths = np.fromfile(file, "<i4", sequences).astype(np.int64)
        pointers = np.fromfile(file, "<i8", sequences)
        documents = np.fromfile(file, "<i8", bounds)
    tokens = _mapped(tokens_path, MEGATRON_TYPES[code])
    width = tokens.dtype.itemsize
    starts, crooked = np.divmod(pointers, width)
    if crooked.any() or (lengths < 0).any() or (starts < 0).any() or (starts > len(tokens) - lengths).any():
        raise InputError(f"{index}: points outside {tokens_path}, which holds {len(tokens):,} tokens of {width} bytes")
    if len(documents) < 1 or documents[0] != 0 or documents[-1] != sequences or (np.diff(documents) < 0).any():
        raise InputError(f"{index}: its document bounds do not go from 0 up to its {sequences:,} sequences")
    for first, last in pairwise(documents.tolist()):
        parts = [tokens[starts[i] : starts[i] + lengths[i]] for i in range(first, last)]
        yield np.concatenate([np.empty(0, tokens.dtype), *parts])


def _datatrove(path: Path, _: int) -> Iterator[Ids]:
    index = path.with_name(path.name + ".index")
    if _size(index) % 8:
        raise InputError(f"{index}: {_size(index):,} bytes are no whole number of 8-byte document ends")
    ends = np.fromfile(index, "<u8")
    total = int(ends[-1]) if len(ends) else 0
    if (ends[1:] < ends[:-1]).any() or (_size(path) not in (2 * total, 4 * total)):
        raise InputError(f"{index}: says that {path.name} has {total:,} tokens; its {_size(path):,} bytes are neither 2 nor 4 for each")
    tokens = _mapped(path, "<u2" if _size(path) == 2 * total else "<u4")
    start = 0
    for end in ends.tolist():
        yield tokens[start:end]
        start = end


def _plain(path: Path, end_of_document: int) -> Iterator[Ids]:
    _size(path)
    with path.open("rb") as file:
        head = file.read(LLM_C_HEAD)
    mark, version, count = struct.unpack_from("<3i", head) if len(head) == LLM_C_HEAD else (0, 0, 0)
    if mark in LLM_C and LLM_C[mark][0] == version:
        tokens = _mapped(path, LLM_C[mark][1], LLM_C_HEAD)
        if len(tokens) != count:
            raise InputError(f"{path}: its header says {count:,} tokens, and it holds {len(tokens):,}")
    else:
        tokens = _mapped(path, "<u2")
    start = 0
    for end in [*np.flatnonzero(tokens == end_of_document).tolist(), len(tokens)]:
        yield tokens[start:end]
        start = end + 1


def take(path: Path, layout: Layout, tokenizer: Tokenizer, name: str, licence: str | None, out: Path) -> Imported:
    """Writes the documents of a file as text, with the tokenizer beside them, into a new folder.

    Raises InputError if the file is not what it says, or holds ids that the tokenizer does not know.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another --out")
    tokens = differ = no_text = 0
    with written_aside(out) as folder:
        folder.mkdir()
        with DocumentWriter(folder / f"{name}.parquet") as writer:
            for number, ids in enumerate(read(path, layout, tokenizer.end_of_document)):
                low, high = int(ids.min()), int(ids.max())
                if low < 0 or high >= tokenizer.vocab_size:
                    wrong = low if low < 0 else high
                    raise InputError(f"{path}: document {number} has token {wrong}; the tokenizer knows 0 to {tokenizer.vocab_size - 1}")
                listed = ids.tolist()
                try:
                    text = tokenizer.decode_bytes(listed).decode()
                except UnicodeDecodeError:
                    no_text += 1
                    continue
                tokens += len(listed)
                differ += tokenizer.encode(text) != listed
                writer.add(Document(document_id(text), text, name, licence, f"{path.name}#{number}"))
        if not writer.count:
            raise InputError(f"{path}: holds no document of text")
        tokenizer.save(folder / "tokenizer.json")
    return Imported(writer.count, tokens, writer.bytes, differ, no_text)


def give(shards: Mapping[str, Mapping[str, Shard]], layout: Layout, tokenizer: Path, out: Path) -> list[str]:
    """Writes shards, by split and component, for another program, into a new folder with the tokenizer; returns the names of the files.

    nanoGPT wants one file for each split: components come one after another, in the recipe's order.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another --out")
    with written_aside(out) as folder:
        folder.mkdir()
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
        for split, components in shards.items():
            if layout == "nanogpt":
                _give_plain(folder / f"{'val' if split == 'valid' else split}.bin", components)
                continue
            (folder / split).mkdir()
            for name, shard in components.items():
                _give_one(folder / split / name, shard, layout)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def _give_plain(path: Path, components: Mapping[str, Shard]) -> None:
    with path.open("wb") as file:
        for shard in components.values():
            if shard.tokens.dtype.itemsize != 2:
                raise InputError("nanoGPT's files hold 16-bit tokens, and this vocabulary needs 32; use --as megatron or datatrove")
            with shard.path.open("rb") as source:
                shutil.copyfileobj(source, file)


def _give_one(stem: Path, shard: Shard, layout: Layout) -> None:
    width, ends = shard.tokens.dtype.itemsize, shard.ends
    if layout == "datatrove":
        shutil.copyfile(shard.path, stem.with_name(f"{stem.name}.ds"))
        ends.astype("<u8").tofile(stem.with_name(f"{stem.name}.ds.index"))
        stem.with_name(f"{stem.name}.ds.metadata").write_text(f"tokenizer.json|{width}\n{len(shard)}\n{len(shard):,} tokens")
        return
    lengths = np.diff(ends, prepend=0)
    shutil.copyfile(shard.path, stem.with_suffix(".bin"))
    with stem.with_suffix(".idx").open("wb") as file:
        file.write(MEGATRON_HEAD.pack(MEGATRON, 1, 8 if width == 2 else 4, len(ends), len(ends) + 1))
        lengths.astype("<i4").tofile(file)
        ((ends - lengths) * width).astype("<i8").tofile(file)
        np.arange(len(ends) + 1, dtype="<i8").tofile(file)
