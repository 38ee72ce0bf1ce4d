"""Writes a checkpoint as TensorFlow's Saver does: with restarts, shared beginnings of names, several blocks, and CRCs of its own."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from os.path import commonprefix
from pathlib import Path

import torch
from torch import Tensor

RESTARTS, A_BLOCK = 4, 10
KINDS = {torch.float32: 1, torch.float16: 19, torch.bfloat16: 14, torch.int64: 9}


def crc32c(raw: bytes) -> int:
    """Bit by bit (RFC 3720, polynomial 0x1EDC6F41 reflected), masked as LevelDB does."""
    crc = 0xFFFFFFFF
    for byte in raw:
        crc = _TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_remainder(byte) for byte in range(256)]


def varint(value: int) -> bytes:
    return bytes([value % 128 + 128]) + varint(value // 128) if value > 127 else bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    return varint(number * 8) + varint(value) if isinstance(value, int) else varint(number * 8 + 2) + varint(len(value)) + value


def entry(tensor: Tensor, offset: int, raw: bytes) -> bytes:
    shape = b"".join(field(2, field(1, size)) for size in tensor.shape)
    place = field(4, offset) if offset else b""
    return field(1, KINDS[tensor.dtype]) + field(2, shape) + place + field(5, len(raw)) + varint(6 * 8 + 5) + struct.pack("<I", crc32c(raw))


def block(items: list[tuple[bytes, bytes]]) -> bytes:
    content, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(items):
        shared = len(commonprefix([before, key])) if number % RESTARTS else 0  # noqa: RUF071
        if not shared:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(items: list[tuple[bytes, bytes]]) -> bytes:
    raw, index = b"", []

    def add(content: bytes) -> bytes:
        nonlocal raw
        handle = varint(len(raw)) + varint(len(content))
        raw += content + b"\0" + struct.pack("<I", crc32c(content + b"\0"))
        return handle

    for start in range(0, len(items), A_BLOCK):
        members = items[start : start + A_BLOCK]
        index.append((members[-1][0], add(block(members))))
    footer = add(block([])) + add(block(index))
    return raw + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(folder: Path, variables: Mapping[str, Tensor], **entries: bytes) -> None:
    """`model.ckpt` in a folder, and the file that names it. `entries` are what the index says of some variables in place of the truth."""
    data, items = b"", [(b"", field(1, 1) + field(3, field(1, 1)))]
    for name in sorted(variables):
        raw = variables[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        items.append((name.encode(), entries.get(name, entry(variables[name], len(data), raw))))
        data += raw
    (folder / "model.ckpt.index").write_bytes(table(items))
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')
