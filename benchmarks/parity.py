"""Writes the table of families in docs/models.md from what is measured: `python benchmarks/parity.py`.

The same functions as tests/model/test_families.py: a small model with random weights, made by transformers, compared with ours both ways.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import peers
from openbook.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- parity: written by benchmarks/parity.py -->", "<!-- end of parity -->"


def table() -> list[str]:
    lines = [
        "| model | architecture of transformers | largest difference of a logit | with a cache | same greedy tokens | same tensors |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for case in peers.CASES:
        with tempfile.TemporaryDirectory() as scratch:
            found = peers.parity(case, Path(scratch))
        figures = f"{found.logits:.0e} | {found.cached:.0e} | {found.greedy} of {peers.NEW} | {found.identical} of {found.tensors}"
        lines.append(f"| {case} | `{found.architecture}` | {figures} |")
    return lines


def main() -> None:
    peers.quiet()
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE}: has no place for the table, which is between {BEGIN} and {END}")
    write_text(PAGE, "\n".join([before + begin, "", *table(), "", end + after]))
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
