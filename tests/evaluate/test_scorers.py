"""Compressors and the model as scorers, and the table they fill."""

from __future__ import annotations

import lzma
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from openbook.evaluate.baselines import XZ, ZSTD, Compressor, Scorer, archive_bits
from openbook.evaluate.build import score
from openbook.evaluate.network import Network
from openbook.model.score import document_bits, windows
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Transformer, TransformerConfig

DOCUMENTS = [b"x" * 1000, "Grüße aus der Bibliothek\n".encode() * 9, Path(__file__).read_bytes()[:3000]]


class Uniform:
    """Every byte is as likely as any other."""

    def bits(self, documents: Sequence[bytes]) -> list[float]:
        return [8.0 * len(document) for document in documents]


def byte_tokenizer() -> Tokenizer:
    return Tokenizer({bytes([byte]): byte for byte in range(256)}, {"<|endoftext|>": 256})


def random_model(context: int) -> Transformer:
    """A tiny transformer whose predictions depend on everything it reads."""
    torch.manual_seed(5)
    model = Transformer(
        TransformerConfig(257, context, layers=2, width=16, heads=2, kv_heads=1, head_width=8, mlp_width=32, query_key_norm=True)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@torch.inference_mode()
def full_pass_bits(model: Transformer, ids: list[int], scored: int = 1) -> float:
    """-log2 of the probability of ids[scored:] given what precedes them, in one pass."""
    logits = model.logits(model(torch.tensor([ids[:-1]])))[0]
    return F.cross_entropy(logits[scored - 1 :], torch.tensor(ids[scored:]), reduction="sum").item() / math.log(2)


@pytest.mark.parametrize(("scorer", "undo"), [(XZ, lzma.decompress), (ZSTD, zstandard.decompress)])
def test_compressors_cost_eight_bits_for_each_byte_of_a_file_that_unpacks(scorer: Compressor, undo: object) -> None:
    assert [undo(scorer.compress(document)) for document in DOCUMENTS] == DOCUMENTS  # type: ignore[operator]
    assert scorer.bits(DOCUMENTS) == [8 * len(scorer.compress(document)) for document in DOCUMENTS]
    assert scorer.bits(DOCUMENTS[::-1]) == scorer.bits(DOCUMENTS)[::-1]


@pytest.mark.parametrize(("command", "scorer"), [(["xz", "-9e"], XZ), (["zstd", "-19", "--no-check", "-q"], ZSTD)])
def test_compressors_are_those_of_the_command_line(command: list[str], scorer: Scorer, tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    path = tmp_path / "document"
    path.write_bytes(DOCUMENTS[2])
    packed = subprocess.run([*command, "--stdout", path], stdout=subprocess.PIPE, check=True).stdout
    assert scorer.bits([DOCUMENTS[2]])[0] / 8 == pytest.approx(len(packed), rel=0.01)


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 60_000, 300_000])
def test_a_fitted_dictionary_costs_nothing(size: int) -> None:
    text = b"".join(path.read_bytes() for path in sorted(Path(lzma.__file__).parent.glob("[a-d]*.py")))[:size]
    assert len(text) == size
    assert len(XZ.compress(text)) == len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def test_an_archive_learns_from_one_document_for_the_next() -> None:
    alone = XZ.bits(DOCUMENTS[2:])[0]
    assert archive_bits(DOCUMENTS[2:]) == alone
    assert archive_bits(DOCUMENTS[2:] * 2) < 1.1 * alone


def test_uniform_bytes_cost_exactly_eight_bits_through_the_whole_table() -> None:
    rows, together = score({"a": DOCUMENTS[:2], "b": DOCUMENTS[2:]}, {"model": Uniform(), "xz": XZ}, seed=1)
    assert rows["a"]["model"] == {"bpb": 8.0, "low": None, "high": None}  # resamples that all agree say nothing
    assert rows["b"]["model"] == {"bpb": 8.0, "low": None, "high": None}
    assert together["model"] == {"bpb": 8.0, "low": None, "high": None}
    assert (together["documents"], together["bytes"]) == (3, sum(map(len, DOCUMENTS)))
    assert together["baselines"]["xz"]["bpb"] == sum(XZ.bits(DOCUMENTS)) / together["bytes"]
    assert together["baselines"]["xz_archive"] == {"bpb": archive_bits(DOCUMENTS) / together["bytes"]}


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_windows_score_each_token_once_with_enough_context(length: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    scored = []
    for window in windows(length, context, stride):
        assert 0 <= window.start < window.scored <= window.stop < length
        assert window.stop - window.start <= context
        for place in range(window.scored, window.stop + 1):
            assert place - window.start >= min(place, context - stride)
            scored.append(place)
    assert scored == list(range(1, length))


def test_model_bits_are_those_of_one_full_pass_where_the_document_fits() -> None:
    model, tokenizer = random_model(64), byte_tokenizer()
    documents = [b"a", b"short text", b"exactly as long as the context".ljust(64)]
    wanted = [full_pass_bits(model, [256, *document]) for document in documents]
    for stride in (1, 17, 64):
        assert Network(model, tokenizer, stride).bits(documents) == pytest.approx(wanted, rel=1e-4)


def test_model_bits_of_long_documents_are_those_of_their_windows() -> None:
    """Token t is predicted from the tokens of its window: after the first window, the last `context` tokens up to the window's end."""
    model, context, stride = random_model(16), 16, 5
    document = list(b"a document that is longer than the context of this model")
    ids = [256, *document]
    wanted = full_pass_bits(model, ids[: context + 1])
    stop = context
    while stop < len(ids) - 1:
        first, stop = stop + 1, min(stop + stride, len(ids) - 1)
        wanted += full_pass_bits(model, ids[stop - context : stop + 1], scored=first - (stop - context))
    assert sum(part for _, part in document_bits(model, [document], 256, stride)) == pytest.approx(wanted, rel=1e-4)


def test_neither_order_nor_company_changes_a_document_s_bits() -> None:
    scorer = Network(random_model(16), byte_tokenizer(), 8)
    together = scorer.bits(DOCUMENTS)
    assert scorer.bits(DOCUMENTS[::-1])[::-1] == pytest.approx(together, rel=1e-5)
    assert [scorer.bits([document])[0] for document in DOCUMENTS] == pytest.approx(together, rel=1e-5)


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary_for_each_token() -> None:
    model = random_model(16)
    torch.nn.init.zeros_(model.head.weight)
    assert Network(model, byte_tokenizer(), 8).bits(DOCUMENTS) == pytest.approx([math.log2(257) * len(document) for document in DOCUMENTS])


def test_a_spelled_out_special_token_is_text() -> None:
    model = random_model(16)
    torch.nn.init.zeros_(model.head.weight)
    text = b"<|endoftext|>"
    assert Network(model, byte_tokenizer(), 8).bits([text]) == pytest.approx([math.log2(257) * len(text)])
