"""GPT-2's original checkpoints: written as TensorFlow writes them, imported, the same logits; and damaged ones, refused in one line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

import peers
from importer.tensorflow_bundle import crc32c, field, table, write_bundle
from openbook.errors import InputError
from openbook.importer import import_model
from openbook.model.exchange import load_weights
from small_tokenizers import END, as_pair, byte_level

INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"


def variables(peer: PreTrainedModel) -> dict[str, Tensor]:
    """The names of openai/gpt-2's model.py, whose matrices are convolutions of width 1."""
    found = {}
    for name, parameter in peer.named_parameters():
        *path, kind = name.removeprefix("transformer.").split(".")
        path = [f"h{path[1]}", *path[2:]] if path[0] == "h" else path
        if path[0] not in ("wte", "wpe"):
            path.append("b" if kind == "bias" else "g" if path[-1].startswith("ln_") else "w")
        found["/".join(["model", *path])] = (parameter[None] if path[-1] == "w" else parameter).detach()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    """A model of transformers, and its checkpoint."""
    peers.quiet()
    folder = tmp_path_factory.mktemp("original") / "124M"
    folder.mkdir()
    peer = peers.made(peers.configured(*peers.CASES["GPT-2"]), folder.with_name("peer"))
    sizes = {"n_vocab": peers.VOCABULARY, "n_ctx": peers.CONTEXT, "n_embd": 32, "n_head": 4, "n_layer": 3}
    (folder / "hparams.json").write_text(json.dumps(sizes))
    byte_level(folder)
    as_pair(folder)
    write_bundle(folder, variables(peer))
    return peer, folder


@pytest.fixture
def checkpoint(made: tuple[PreTrainedModel, Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own."""
    folder = tmp_path / "124M"
    folder.mkdir()
    for path in made[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_same_logits_and_tokens(made: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    peer, folder = made
    path, summary = import_model(str(folder), out=tmp_path / "run")
    assert (summary["architecture"], summary["left_out"]) == ("GPT2LMHeadModel", [])
    assert summary["parameters"] == sum(parameter.numel() for parameter in peer.parameters())
    assert len(list((path / "weights").glob("*.safetensors"))) == 4  # a layer each, and the rest
    assert peers.distance(load_weights(path / "weights"), peer) <= 1e-4
    tokenizer = Tokenizer.from_file(str(path / "tokenizer" / "tokenizer.json"))
    config = json.loads((path / "weights" / "config.json").read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == tokenizer.token_to_id(END)


def test_what_training_keeps_besides_is_left_out_if_allowed(made: tuple[PreTrainedModel, Path], checkpoint: Path, tmp_path: Path) -> None:
    write_bundle(checkpoint, variables(made[0]) | {"global_step": torch.tensor(1000)})
    with pytest.raises(InputError, match=r"model\.ckpt\.index: tensor global_step is unknown to this architecture; --allow-extra"):
        import_model(str(checkpoint), out=tmp_path / "run")
    path, summary = import_model(str(checkpoint), out=tmp_path / "run", allow_extra=True)
    assert summary["left_out"] == ["global_step"]
    assert peers.distance(load_weights(path / "weights"), made[0]) <= 1e-4


def changed(name: str, change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        change(raw)
        (folder / name).write_bytes(raw)

    return apply


def said(**sizes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "hparams.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | sizes))

    return apply


def listed(*items: tuple[bytes, bytes], header: bytes = field(1, 1)) -> Callable[[Path], None]:
    """An index of these variables."""
    return lambda folder: (folder / INDEX).write_bytes(table([(b"", header), *items])) and None


def variable(*shape: int, kind: int = 1, offset: int = 0, size: int = 0) -> bytes:
    return field(1, kind) + field(2, b"".join(field(2, field(1, each)) for each in shape)) + field(4, offset) + field(5, size)


def compressed(raw: bytearray) -> None:
    """The first block's type is snappy's, with the CRC that goes with that."""
    [end, *_] = [end for end in range(len(raw)) if raw[end] == 0 and raw[end + 1 : end + 5] == struct.pack("<I", crc32c(raw[: end + 1]))]
    raw[end] = 1
    raw[end + 1 : end + 5] = struct.pack("<I", crc32c(raw[: end + 1]))


WRONG = {
    "no data": (lambda folder: (folder / DATA).unlink(), rf"{DATA}: no such file; the checkpoint is not whole without it"),
    "no index": (lambda folder: (folder / INDEX).unlink(), rf"{INDEX}: no such file; the checkpoint is not whole without it"),
    "no name": (lambda folder: (folder / "checkpoint").unlink(), "checkpoint: should be a file that names the checkpoint, as model_check"),
    "cut data": (changed(DATA, lambda raw: raw.__delitem__(slice(-100, None))), rf"{DATA}: ends before model/wte; the file is not whole"),
    "a flipped bit": (changed(DATA, lambda raw: raw.__setitem__(-1, raw[-1] ^ 1)), rf"{DATA}: model/wte is damaged"),
    "a flipped bit in the index": (changed(INDEX, lambda raw: raw.__setitem__(60, raw[60] ^ 1)), "a block does not have its CRC"),
    "cut index": (changed(INDEX, lambda raw: raw.__delitem__(slice(-1, None))), "not the index of a TensorFlow checkpoint"),
    "an index without beginning": (changed(INDEX, lambda raw: raw.__delitem__(slice(0, 40))), "a block"),
    "a compressed block": (changed(INDEX, compressed), "a block is compressed in way 1; TensorFlow compresses none"),
    "a huge index": (changed(INDEX, lambda raw: raw.extend(bytes(2**23))), "bytes, more than 4,194,304"),
    "no order": (listed((b"b", variable(2)), (b"a", variable(2))), "its names are not in order"),
    "an endless name": (listed((b"a" * 1000, variable(2))), "a name is cut off or too long"),
    "an absurd shape": (listed((b"a", variable(2**62, 2**62))), "a shape is none that a variable can have"),
    "a slice": (listed((b"a", variable(2) + field(7, b""))), "a variable has a field 7: those that are cut into slices are not read"),
    "half a message": (listed((b"a", b"\x12\xff")), "something in it is cut off"),
    "a number without end": (listed((b"a", b"\x08" + b"\xff" * 11)), "a number in it does not end"),
    "another kind of field": (listed((b"a", b"\x0b")), "a message has a field of kind 3"),
    "big-endian": (listed(header=field(1, 1) + field(2, 1)), "its numbers are big-endian"),
    "no header": (listed(header=b""), "it does not say how many files it has"),
    "one layer more": (said(n_layer=4), "tensor model/h3/ln_1/g is missing"),
    "heads that do not share": (said(n_head=5), "hparams.json: 5 heads cannot share a width of 32 evenly"),
    "absurd sizes": (said(n_embd=2**40), "hparams.json: n_embd = 1099511627776 should be a whole number"),
    "no width": (said(n_embd=None), "hparams.json: n_embd = null should be a whole number"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_that_is_wrong_is_refused(what: str, checkpoint: Path, tmp_path: Path) -> None:
    change, message = WRONG[what]
    change(checkpoint)
    with pytest.raises(InputError, match=message) as refused:
        import_model(str(checkpoint), out=tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert str(checkpoint) in str(refused.value)
    assert not (tmp_path / "run").exists()


LYING = {
    "a larger file": (variable(300, 32, offset=2**60, size=38_400), rf"{DATA}: ends before model/wte"),
    "another size": (variable(300, 32, size=4), r"model/wte has 4 bytes, which do not fill its shape \[300, 32\]"),
    "another shape": (variable(32, 300, size=38_400), r"model/wte has shape \[32, 300\]; hparams\.json calls for \[300, 32\]"),
    "another type": (variable(300, 32, kind=9, size=76_800), "model/wte has TensorFlow's type 9; float32, float16 and bfloat16 are read"),
}


@pytest.mark.parametrize("what", LYING)
def test_an_index_that_lies_about_a_variable_is_refused(
    what: str, made: tuple[PreTrainedModel, Path], checkpoint: Path, tmp_path: Path
) -> None:
    entry, message = LYING[what]
    write_bundle(checkpoint, variables(made[0]), **{"model/wte": entry})
    with pytest.raises(InputError, match=message):
        import_model(str(checkpoint), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
