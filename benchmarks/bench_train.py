"""Compute to a given loss: our recipes against nanoGPT's, and the modern recipe against GPT-3's, side by side on one thread.

    python benchmarks/bench_train.py --nanogpt PATH [--part small] [--json]

Parts: `small`, nanoGPT's CPU task to its validation loss of 1.88 (some 4 minutes); `large`, its 10-million-parameter model in equal
CPU time (some 20 minutes); `corpus`, sixteen components in bits per byte, ten CPU-minutes a recipe. The texts are looked for in
$OPENBOOK_DATA, or in ../shared/data. nanoGPT is a checkout of github.com/karpathy/nanoGPT; without one, only our side is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train import characters, mixture
from train.common import Absent

Part = tuple[str, Callable[[Path, argparse.Namespace], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]

PARTS: dict[str, Part] = {
    "small": (
        "tiny Shakespeare by characters, 0.8 M parameters, to 1.88",
        lambda folder, options: characters.small(folder, options.nanogpt, options.seeds),
        characters.lines,
    ),
    "large": (
        "tiny Shakespeare by characters, 10 M parameters, in about equal CPU-seconds",
        lambda folder, options: characters.large(folder, options.nanogpt, 1),
        characters.lines,
    ),
    "corpus": (
        "sixteen components, bits per byte of held-out text",
        lambda folder, options: mixture.compared(folder, options.minutes),
        mixture.lines,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="may be given several times; default: small")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--seeds", type=int, default=3, help="how many of our runs of the part small")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU-minutes for each recipe of the part corpus")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON document")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.part or ["small"]:
        title, work, lines = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                results[name] = work(Path(folder), options)
            except Absent as absent:
                results[name] = {"absent": str(absent)}
        if not options.json:
            shown = [results[name]["absent"]] if list(results[name]) == ["absent"] else lines(results[name])
            print("\n".join([title, *(f"  {line}" for line in shown), ""]), flush=True)
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
