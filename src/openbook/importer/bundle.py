"""TensorFlow's checkpoints without TensorFlow: `NAME.index` lists the variables, `NAME.data-00000-of-00001` and its like hold their bytes.

The index is a table of LevelDB (its doc/table_format.md): blocks of sorted keys, each key written without what it shares with the one
before, found through an index block that the file's last bytes point at. The values are messages of TensorFlow's tensor_bundle.proto.
Each block and each variable has a CRC-32C, which is checked.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import torch
from torch import Tensor

from openbook.errors import InputError

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
TRAILER = 5
"""After each block: how it is compressed, and its CRC."""
LARGEST_INDEX = 4 * 2**20
"""GPT-2's largest has 50 KB."""
LONGEST_NAME = 512
TYPES = {1: torch.float32, 14: torch.bfloat16, 19: torch.float16}
"""TensorFlow's numbers of the types that are read."""


@dataclass(frozen=True)
class Variable:
    """Where a variable lies: `size` bytes from `offset` on in a file of its checkpoint. `kind` is TensorFlow's number of its type."""

    shape: tuple[int, ...]
    kind: int
    shard: int
    offset: int
    size: int
    crc: int


class Bundle:
    """A checkpoint: `variables` by name, and the values of each."""

    def __init__(self, index: Path) -> None:
        """Raises InputError if the index is missing, huge or damaged. No value is read."""
        self.index = index
        try:
            if index.stat().st_size > LARGEST_INDEX:
                raise ValueError(f"{index.stat().st_size:,} bytes, more than {LARGEST_INDEX:,}")
            table = _table(index.read_bytes())
            self._shards = _shards(table.pop(b"", b""))
            self.variables = {key.decode(): _variable(value) for key, value in table.items()}
        except FileNotFoundError:
            raise InputError(f"{index}: no such file; the checkpoint is not whole without it") from None
        except (ValueError, struct.error) as error:
            raise InputError(f"{index}: not the index of a TensorFlow checkpoint ({error})") from None

    def tensor(self, name: str) -> Tensor:
        """Raises InputError if the values are not all there, damaged, or of another type than float32, float16 and bfloat16."""
        variable = self.variables[name]
        dtype = TYPES.get(variable.kind)
        if dtype is None:
            raise InputError(f"{self.index}: {name} has TensorFlow's type {variable.kind}; float32, float16 and bfloat16 are read")
        if math.prod(variable.shape) * dtype.itemsize != variable.size:
            raise InputError(f"{self.index}: {name} has {variable.size:,} bytes, which do not fill its shape {list(variable.shape)}")
        path = self.index.with_suffix(f".data-{variable.shard:05}-of-{self._shards:05}")
        try:
            if variable.offset + variable.size > path.stat().st_size:
                raise InputError(f"{path}: ends before {name}; the file is not whole")
            with path.open("rb") as file:
                file.seek(variable.offset)
                raw = bytearray(file.read(variable.size))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; the checkpoint is not whole without it") from None
        if _masked(bytes(raw)) != variable.crc:
            raise InputError(f"{path}: {name} is damaged: its bytes do not have the CRC that {self.index.name} says")
        return torch.frombuffer(raw, dtype=dtype).view(variable.shape)


def _table(raw: bytes) -> dict[bytes, bytes]:
    if len(raw) < FOOTER or struct.unpack("<Q", raw[-8:])[0] != MAGIC:
        raise ValueError("it does not end as one")
    footer = _Bytes(raw[-FOOTER:])
    _handle(footer)  # of blocks about blocks, of which TensorFlow writes none
    table: dict[bytes, bytes] = {}
    last = None
    for _, handle in _entries(_block(raw, _handle(footer))):
        for key, value in _entries(_block(raw, _handle(_Bytes(handle)))):
            if last is not None and key <= last:
                raise ValueError("its names are not in order")
            table[key] = value
            last = key
    return table


def _block(raw: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    content, trailer = raw[offset : offset + size + 1], raw[offset + size : offset + size + TRAILER]
    if len(trailer) < TRAILER:
        raise ValueError("a block lies outside of it")
    if trailer[0] != 0:
        raise ValueError(f"a block is compressed in way {trailer[0]}; TensorFlow compresses none")
    if _masked(content) != struct.unpack("<I", trailer[1:])[0]:
        raise ValueError("a block does not have its CRC")
    return content[:-1]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block, which ends with the places where whole keys stand, and their count."""
    restarts = struct.unpack("<I", block[-4:])[0]
    content = _Bytes(block[: max(0, len(block) - 4 * (restarts + 1))])
    key = b""
    while content.left:
        shared, own, size = content.number(), content.number(), content.number()
        key = key[:shared] + content.take(own)
        if len(key) != shared + own or len(key) > LONGEST_NAME:
            raise ValueError("a name is cut off or too long")
        yield key, content.take(size)


def _handle(content: _Bytes) -> tuple[int, int]:
    """Offset and size of a block."""
    return content.number(), content.number()


def _shards(header: bytes) -> int:
    """The number of files, from BundleHeaderProto."""
    fields = dict(_fields(header))
    if fields.get(2, 0) != 0:
        raise ValueError("its numbers are big-endian, which is not read")
    shards = fields.get(1)
    if not isinstance(shards, int) or shards == 0:
        raise ValueError("it does not say how many files it has")
    return shards


def _variable(message: bytes) -> Variable:
    """BundleEntryProto. A field that is not there is 0."""
    shape: tuple[int, ...] = ()
    numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)
    for field, value in _fields(message):
        if field == 2 and isinstance(value, bytes):
            shape = tuple(_dimension(part) for number, part in _fields(value) if number == 2)
        elif field in numbers and isinstance(value, int):
            numbers[field] = value
        else:
            raise ValueError(f"a variable has a field {field}: those that are cut into slices are not read")
    return Variable(shape, *numbers.values())


def _dimension(message: int | bytes) -> int:
    size = dict(_fields(message)).get(1, 0) if isinstance(message, bytes) else None
    if not isinstance(size, int) or size >= 2**40:
        raise ValueError("a shape is none that a variable can have")
    return size


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """A protocol buffer's fields by number."""
    content = _Bytes(message)
    while content.left:
        tag = content.number()
        match tag & 7:
            case 0:
                yield tag >> 3, content.number()
            case 2:
                yield tag >> 3, content.take(content.number())
            case 5:
                yield tag >> 3, struct.unpack("<I", content.take(4))[0]
            case kind:
                raise ValueError(f"a message has a field of kind {kind}")


class _Bytes:
    """Bytes that are taken from the front. Both methods raise ValueError if there are too few."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    @property
    def left(self) -> int:
        return len(self._raw) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError("something in it is cut off")
        self._at += count
        return self._raw[self._at - count : self._at]

    def number(self) -> int:
        """Seven bits a byte, the lowest first; the last byte is below 128."""
        value = 0
        for place in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << place
            if byte < 128:
                return value
        raise ValueError("a number in it does not end")


def _masked(raw: bytes) -> int:
    """CRC-32C as LevelDB stores it, so that the CRC of bytes with CRCs in them stays useful."""
    crc = google_crc32c.value(raw)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
