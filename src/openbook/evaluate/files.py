"""Bits per byte on text files that a user names, for a model with no held-out text of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.network import Network
from openbook.model.exchange import load_weights
from openbook.model.tokenizer import load_tokenizer
from openbook.run import Run


def score_files(run: Run, paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The model's bits per byte on each file, as one document. Raises InputError for a file that is not UTF-8 text, or empty."""
    texts = [_text(path) for path in paths]
    tokenizer = load_tokenizer(run.verified("tokenize", "tokenizer/tokenizer.json"))
    for name in run.weights():
        run.verified("train", name)
    model = load_weights(run.path / "weights")
    stride = run.recipe.evaluate.stride or max(1, model.config.context // 2)
    bits = Network(model, tokenizer, stride).bits(texts)
    return {
        str(path): {"bytes": len(text), "bits_per_byte": value / len(text), "context": model.config.context, "stride": stride}
        for path, text, value in zip(paths, texts, bits, strict=True)
    }


def _text(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such text file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if not text:
        raise InputError(f"{path}: is empty")
    return text.encode()
