from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openbook.model.exchange import save_weights
from serve.serving import Served, random_model, running, tokenizer_of


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = tokenizer_of(300)
    tokenizer.save(folder / "tokenizer.json")
    save_weights(random_model(tokenizer.vocab_size), folder, tokenizer.end_of_document)
    return folder


@pytest.fixture(scope="session")
def served(weights: Path) -> Iterator[Served]:
    with running(weights) as served:
        yield served
