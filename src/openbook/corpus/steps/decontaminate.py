"""Keeps evaluation sets out of the training text, as GPT-3 did (Brown et al. 2020, appendix C), and says which items were in it.

A leak is a run of 13 words that also stands in an evaluation set; a word is a run of letters and digits in lower case. The run is cut
out with 200 characters on either side, exactly by its offsets; the text is split there; short pieces and texts in many pieces go. A run
that stands in many documents is a commonplace and no leak.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from openbook.corpus.steps.step import Columns, Joined, Prepared, Sketch, Source, Step, Verdict
from openbook.errors import InputError
from openbook.files import sha256_file
from openbook.parts import LETTERS, U64, Batch, Bools, Parts, rolling, whole_runs
from openbook.recipe_steps import DecontaminateStep

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".txt", ".txt.gz", ".csv", ".tsv")
TABLE = np.uint64(1 << 24)
TRANSLATIONS = "translation_"
"""Folders of segments, one a line, in files that end in the name of their language."""


def folder_of(settings: DecontaminateStep) -> Path:
    """Raises InputError if there is no such folder."""
    if settings.data:
        found = Path(settings.data).expanduser()
    else:
        root = os.environ.get("OPENBOOK_DATA")
        found = Path(root) / "eval" if root else Path("../shared/data/eval")
    if not found.is_dir():
        raise InputError(
            f"corpus.steps: step decontaminate finds no evaluation sets at {found}; set data = FOLDER in the step, or OPENBOOK_DATA"
        )
    return found


def set_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and (path.name.endswith(ENDINGS) or path.parent.name.startswith(TRANSLATIONS))
    )


def items(path: Path) -> Iterator[list[str]]:
    """The texts of each item of an evaluation set; no run of words goes from one text to the next."""
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        if ".jsonl" in path.name:
            yield from (list(_strings(json.loads(line))) for line in file if line.strip())
        elif ".json" in path.name:
            content = json.load(file)
            yield from (list(_strings(item)) for item in (content if isinstance(content, list) else [content]))
        else:
            yield from ([line] for line in file)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def prepare(_: Source, settings: DecontaminateStep) -> Prepared:
    folder = folder_of(settings)
    files = set_files(folder)
    facts = [[str(path.relative_to(folder)), sha256_file(path)] for path in files]

    def write(path: Path) -> Any:
        names = [str(file.relative_to(folder)) for file in files]
        counts: list[int] = []
        grams, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for file in files:
            try:
                found = list(items(file))
            except (ValueError, OSError, EOFError, RecursionError) as error:
                raise InputError(f"{file}: cannot be read as an evaluation set ({str(error).splitlines()[0]})") from None
            texts = [text for item in found for text in item]
            item_of = np.repeat(np.arange(len(found)), [len(item) for item in found])
            words = Parts.of([LETTERS.findall(text) for text in texts])
            places, runs = _runs(words, settings.gram)
            grams.append(runs)
            owners.append(item_of[words.texts[places]] + sum(counts))
            counts.append(len(found))
        known, owner = np.concatenate(grams), np.concatenate(owners)
        order = np.argsort(known, kind="stable")
        with path.open("wb") as output:
            np.savez(
                output, grams=known[order], items=owner[order], names=np.array(names, dtype=str), counts=np.array(counts, dtype=np.int64)
            )
        return {"sets": len(names), "items": sum(counts), "grams": len(np.unique(known))}

    return Prepared(facts, write)


def _runs(words: Parts, length: int) -> tuple[Any, U64]:
    """Where runs begin that lie in one text, and their hashes."""
    places = whole_runs(words, length)
    return places, rolling(words.hashes(fold=True), length)[places]


def load(path: Path) -> dict[str, Any]:
    """The index, and a table that says of most runs at once that they are not in it."""
    with np.load(path) as arrays:
        index = {name: arrays[name] for name in arrays.files}
    maybe = np.zeros(int(TABLE), bool)
    maybe[index["grams"] % TABLE] = True
    return index | {"maybe": maybe}


def annotate(batch: Batch, _: Columns, settings: DecontaminateStep, index: dict[str, Any]) -> Columns:
    """`words`: at which words of a text a run begins that stands in an evaluation set; `grams`: its hash."""
    words = batch.words("letters")
    places, runs = _runs(words, settings.gram)
    likely = np.flatnonzero(index["maybe"][runs % TABLE])
    hits = likely[_among(runs[likely], index["grams"])]
    texts = words.texts[places[hits]]
    bounds = pa.array(np.concatenate(([0], np.cumsum(np.bincount(texts, minlength=len(batch.texts))))), pa.int32())
    starts = pa.array(places[hits] - words.bounds[texts], pa.int64())
    return {"words": pa.ListArray.from_arrays(bounds, starts), "grams": pa.ListArray.from_arrays(bounds, pa.array(runs[hits]))}


def _among(runs: U64, known: U64) -> Bools:
    """Which of the runs are in an ascending list: (runs,)."""
    return np.searchsorted(known, runs, side="right") > np.searchsorted(known, runs)


def join(sketches: Sequence[Sketch], settings: DecontaminateStep, index: dict[str, Any]) -> Joined:
    often: Counter[int] = Counter()
    found: list[dict[int, tuple[list[int], list[int]]]] = []
    for sketch in sketches:
        columns = sketch.columns
        lists = zip(columns.column("words").to_pylist(), columns.column("grams").to_pylist(), sketch.alive, strict=True)
        found.append({row: (words, grams) for row, (words, grams, lives) in enumerate(lists) if lives and words})
        for _, grams in found[-1].values():
            often.update(set(grams))
    leaks = {gram for gram, documents in often.items() if documents <= settings.max_documents}
    verdicts = []
    for rows in found:
        edits = {row: [word for word, gram in zip(words, grams, strict=True) if gram in leaks] for row, (words, grams) in rows.items()}
        verdicts.append(Verdict(edits={row: words for row, words in edits.items() if words}))
    report = {"documents": sum(len(verdict.edits or {}) for verdict in verdicts), "commonplaces": len(often) - len(leaks)}
    return Joined(verdicts, {**report, "contaminated": _contaminated(leaks, index)})


def _contaminated(leaks: set[int], index: dict[str, Any]) -> dict[str, Any]:
    """The other direction: for each evaluation set that is touched, how many items it has and the numbers (from 0) of those that leaked."""
    touched = np.unique(index["items"][np.isin(index["grams"], np.array(sorted(leaks), dtype=np.uint64))])
    firsts = np.cumsum(index["counts"]) - index["counts"]
    sets = np.searchsorted(firsts, touched, side="right") - 1
    return {
        str(index["names"][number]): {
            "items": int(index["counts"][number]),
            "leaked": (touched[sets == number] - firsts[number]).tolist(),
        }
        for number in np.unique(sets)
    }


def pieces(text: str, edits: list[int], settings: DecontaminateStep) -> list[str]:
    """What is left of a text; nothing if it was cut into too many pieces."""
    places = [match.span() for match in LETTERS.finditer(text)]
    parts: list[str] = []
    start = 0
    for word in edits:
        begin = places[word][0] - settings.window
        if begin > start or not parts:
            parts.append(text[start : max(start, begin)])
        start = max(start, places[word + settings.gram - 1][1] + settings.window)
    parts = [part for part in (*parts, text[start:]) if part.strip()]
    return [part for part in parts if len(part) >= settings.min_piece] if len(parts) <= settings.max_pieces else []


STEP = Step("decontaminate", 1, annotate=annotate, prepare=prepare, load=load, join=join, rewrite=pieces)
