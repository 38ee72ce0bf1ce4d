"""Languages by a fastText model that the user has, such as lid.176 or GlotLID (Joulin et al. 2016; Kargaran et al. 2023).

The model stays where it is: what is kept of it is its path and the hash of its content.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openbook.corpus.steps.step import Prepared
from openbook.errors import InputError
from openbook.files import sha256_file, write_json

MAGIC = (793712314).to_bytes(4, "little")
LABEL = "__label__"

Identify = Callable[[str], tuple[str, float]]
"""The language of a text, and how sure that is; ("", 0) where there is none."""


def prepared(path: Path) -> Prepared:
    """Raises InputError if the file is no fastText model."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise InputError(f"{path}: not a fastText model; step language takes files such as lid.176.ftz")

    def write(reference: Path) -> Any:
        write_json(reference, {"fasttext": str(path)})
        return {"model": path.name, "sha256": sha256_file(path)}

    return Prepared(sha256_file(path), write)


def is_reference(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def load(reference: Path) -> Identify:
    """Raises InputError without the package, or if the model cannot be read."""
    try:
        import fasttext
    except ModuleNotFoundError:
        raise InputError("step language with a model needs fastText; `pip install 'openbook[language]'` brings it") from None
    path = json.loads(reference.read_bytes())["fasttext"]
    try:
        model = fasttext.load_model(path)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: fastText cannot read it ({error})") from None

    def identify(text: str) -> tuple[str, float]:
        if not any(map(str.isalpha, text)):
            return "", 0.0  # it would name a language for nothing
        labels, shares = model.predict([" ".join(text.split())])  # it takes one line
        return labels[0][0].removeprefix(LABEL).partition("_")[0], min(1.0, float(shares[0][0]))  # rounding takes it a little beyond 1

    return identify
