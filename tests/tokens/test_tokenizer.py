"""One tokenizer.json, one answer: tiktoken (ours), tokenizers and transformers give the same ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as PeerTokenizer

from openbook.errors import InputError
from openbook.model.tokenizer import LONG, Tokenizer, load_tokenizer
from openbook.recipe import TokenizerSection
from openbook.tokens.vocabulary import learn
from tiny import sentences

HARD = [
    "",
    " ",
    "\n\n\n",
    "  indented\n\t\ttabs  \r\n end ",
    "I'll say it's 1234567 or 3.14159, won't I?",
    "naïve café — “quotes” … ½ ™",
    "日本語のテキスト、中文字符, 한국어",
    "👩‍👩‍👧‍👦 emoji 🏳️‍🌈 and zero​width",
    "combining é ̈ ́",
    "def f(x):\n    return x**2  # comment\n",
    "a" * 300,
    "\u0000\u0001\u007f",
    "العربية עברית हिन्दी",
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    source = Path(__file__).read_text(encoding="utf-8") + Path(pytest.__file__).read_text(encoding="utf-8")
    return learn([sentences(1, 200), source], TokenizerSection(vocab_size=600, special_tokens=["<|endoftext|>", "<|pad|>"]))


@pytest.fixture(scope="module")
def peer(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PeerTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    trained.save(path)
    return PeerTokenizer.from_file(str(path))


def test_the_vocabulary_has_the_size_asked_for(trained: Tokenizer) -> None:
    assert trained.vocab_size == 600
    assert trained.end_of_document == 598
    assert trained.special_tokens == {"<|endoftext|>": 598, "<|pad|>": 599}


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_hard_texts_have_the_same_ids_and_come_back(trained: Tokenizer, peer: PeerTokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert ids == peer.encode(text).ids
    assert trained.decode(ids) == text
    assert peer.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80).filter(lambda text: "<|" not in text))
def test_any_text_has_the_same_ids_and_comes_back(trained: Tokenizer, peer: PeerTokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert ids == peer.encode(text).ids
    assert trained.decode(ids) == text


def test_real_text_has_the_same_ids(trained: Tokenizer, peer: PeerTokenizer) -> None:
    import argparse
    import inspect

    text = inspect.getsource(argparse)
    assert trained.encode(text) == peer.encode(text).ids


def test_transformers_reads_the_file(trained: Tokenizer, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    trained.save(tmp_path / "tokenizer.json")
    other = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in HARD:
        assert other(text)["input_ids"] == trained.encode(text)


def test_a_special_token_spelt_in_a_text_is_text(trained: Tokenizer) -> None:
    ids = trained.encode("<|endoftext|>")
    assert trained.end_of_document not in ids
    assert trained.decode(ids) == "<|endoftext|>"


def test_saved_and_loaded_is_the_same(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert (loaded.ranks, loaded.special_tokens, loaded.pattern) == (trained.ranks, trained.special_tokens, trained.pattern)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"added_tokens": [], "pre_tokenizer": {}, "model": {}}'])
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.json: not a (byte-level BPE )?tokenizer\.json"):
        load_tokenizer(tmp_path / "t.json")


def test_too_little_text_for_the_vocabulary_is_told() -> None:
    with pytest.raises(InputError, match="use at most"):
        learn(["abc abc"], TokenizerSection(vocab_size=5000))


def test_training_is_deterministic() -> None:
    section = TokenizerSection(vocab_size=1000)
    text = Path(pytest.__file__).with_name("__init__.py").read_text(encoding="utf-8") * 3 + Path(__file__).read_text(encoding="utf-8")
    assert learn([text], section).ranks == learn([text], section).ranks


def test_a_long_document_is_encoded_in_pieces_that_lose_nothing(trained: Tokenizer) -> None:
    text = sentences(5, 2) * (LONG // 20)
    assert len(text) > LONG
    assert trained.decode(trained.encode(text)) == text
    for hostile in ("x", " "):
        assert trained.decode(trained.encode(hostile * 2_000_001)) == hostile * 2_000_001


PLAY = "ROMEO:\nO, è vero — “sì”?\n"


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return learn([PLAY, "and more\n"], TokenizerSection(kind="characters", vocab_size=len(set(PLAY + "and more")) + 1))


def test_a_vocabulary_of_characters_is_one_token_a_character(characters: Tokenizer, tmp_path: Path) -> None:
    ids = characters.encode(PLAY)
    assert len(ids) == len(PLAY)
    assert characters.decode(ids) == PLAY
    assert characters.end_of_document == characters.vocab_size - 1 not in ids
    characters.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert (loaded.ranks, loaded.pattern, loaded.alphabet) == (characters.ranks, characters.pattern, set(PLAY + "and more"))
    assert PeerTokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(PLAY).ids == ids == loaded.encode(PLAY)
    transformers = pytest.importorskip("transformers")
    assert transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json")).encode(PLAY) == ids


def test_a_character_that_was_not_in_the_training_text_is_named(characters: Tokenizer) -> None:
    with pytest.raises(InputError, match="no token for 'Z'"):
        characters.encode("O, Z")


def test_another_number_of_characters_than_the_recipe_says_is_told() -> None:
    with pytest.raises(InputError, match="has 3 different characters; with the special tokens that makes 4"):
        learn(["abca"], TokenizerSection(kind="characters", vocab_size=5))
