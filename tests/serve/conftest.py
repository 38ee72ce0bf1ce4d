from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openbook.model.exchange import save_weights
from serve.serving import Served, random_model, running, save_chatty, tokenizer_of


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = tokenizer_of(300)
    tokenizer.save(folder / "tokenizer.json")
    save_weights(random_model(tokenizer.vocab_size), folder, tokenizer.end_of_document)
    return folder


@pytest.fixture(scope="session")
def chatty_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatty")
    save_chatty(folder)
    return folder


@pytest.fixture(scope="session")
def chatty(chatty_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a chat model, which keeps files."""
    with running(chatty_weights, data=tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture(scope="session")
def served(weights: Path) -> Iterator[Served]:
    with running(weights) as served:
        yield served
