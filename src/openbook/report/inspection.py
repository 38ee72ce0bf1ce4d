"""The page of `openbook inspect`: a model's parts, costs and matrices, and what a prompt does in it, in the report's style."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

from openbook import words
from openbook.model.trace import Trace
from openbook.page import fill, style

COLUMNS = 64
"""Of a prompt's last positions, so many are drawn."""


def page(name: str, found: dict[str, Any], seen: Trace | None) -> str:
    """The page as HTML, one self-contained file. `found`: what `openbook inspect --json` prints; `seen`: the trace of its prompt."""
    facts = {**found, "name": words.printable(name), "prompt": _prompt(found["prompt"], seen) if seen else None}
    return fill(Path(__file__).parent, "inspection.html.jinja", **facts, style=style(), contexts=list(found["memory"]["fp32"]))


def _prompt(told: dict[str, Any], seen: Trace) -> dict[str, Any]:
    start = max(0, len(told["tokens"]) - COLUMNS)
    layers = []
    for row in told["layers"]:
        maps = [_drawn(head, start) for head in seen.attention[row["layer"] - 1]] if row["layer"] else []
        heads = [{**head, "map": drawn} for head, drawn in zip(row["heads"], maps, strict=True)]
        guesses = [{"token": _visible(guess["token"]), "shade": round(guess["probability"], 3)} for guess in row["lens"][start:]]
        layers.append({**row, "heads": heads, "lens": guesses})
    return {"tokens": [_visible(token) for token in told["tokens"][start:]], "start": start, "layers": layers}


def _visible(token: str) -> str:
    """A token with its white space shown, so that none looks empty."""
    return words.printable(token.replace(" ", "\N{OPEN BOX}").replace("\n", "\N{RETURN SYMBOL}").replace("\t", "\N{RIGHTWARDS ARROW}"))


def _drawn(attention: Any, start: int) -> str:
    """A head's map, (time, time), as a PNG in a data URI: one blue, as opaque as the root of the share, so that small shares show."""
    levels = (attention[start:, start:].clamp(0, 1).sqrt() * 255).round().byte().cpu().numpy()
    height, width = levels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in levels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    blue, opacity = bytes((0x1A, 0x7F, 0xC1)) * 256, bytes(range(256))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, by palette
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"PLTE", blue) + chunk(b"tRNS", opacity)
    image += chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(image).decode()
