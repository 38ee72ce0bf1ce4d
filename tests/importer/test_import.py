"""Models from elsewhere become runs that every command takes, and folders that are wrong are refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import peers
from openbook.errors import InputError
from openbook.evaluate.files import score_files
from openbook.export import write_gguf
from openbook.importer import import_model
from openbook.model.exchange import load_config, load_weights
from openbook.model.tokenizer import load_tokenizer
from openbook.pipeline import update
from openbook.recipe_model import config_of
from openbook.run import Run
from openbook.serve.local import complete, load
from serve.serving import running
from shared_data import DATA, needs_data
from small_tokenizers import END, TEXT, as_pair, byte_level, pieces


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    peers.quiet()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama with a byte-level tokenizer."""
    path = tmp_path / "Tiny.Llama"
    peers.made(peers.configured(*peers.CASES["Llama"]), path)
    byte_level(path)
    return path


ONE_EACH = {model_type: case for case, (model_type, _) in reversed(peers.CASES.items())}


@pytest.mark.parametrize("case", ONE_EACH.values())
def test_an_imported_model_is_a_run_for_every_command(case: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    peer = peers.made(peers.configured(*peers.CASES[case]), source)
    byte_level(source)
    path, summary = import_model(str(source), out=tmp_path / "run")
    run = Run(path)
    assert summary["parameters"] == sum(parameter.numel() for parameter in peer.parameters())
    assert config_of(run.recipe.model, summary["vocab_size"]) == load_config(path / "weights")
    assert "".join(complete(path / "weights", "the cat", 5, 0.0, 1.0, None))
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    [row] = score_files(run, [text]).values()
    assert 0 < row["bits_per_byte"] < 16
    list(update(run, ["export"]))
    again = AutoModelForCausalLM.from_pretrained(path / "weights")
    assert all(torch.equal(mine, other) for mine, other in zip(peer.parameters(), again.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(path / "weights")("the cat")["input_ids"] == load(path / "weights")[1].encode("the cat")
    _written_for_llama_cpp(path, tmp_path / "model.gguf")
    with pytest.raises(InputError, match="so there is nothing to train"):
        list(update(run, ["train"]))


def _written_for_llama_cpp(run: Path, path: Path) -> None:
    """As a file of its architecture, or refused by name; what llama.cpp makes of it is tested beside the export."""
    try:
        found = write_gguf(run / "weights", path, "tiny")
    except InputError as error:
        assert "llama.cpp" in str(error)
        assert not path.exists()
    else:
        assert {field.contents() for name, field in GGUFReader(path).fields.items() if name == "general.architecture"} == {
            found["architecture"]
        }


def test_the_commands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from openbook import cli

    def openbook(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["openbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capfd.readouterr()

    out, text = tmp_path / "run", tmp_path / "text.txt"
    text.write_text(TEXT)
    status, said, _ = openbook("import", folder, "--out", out, "--json")
    assert status == 0
    assert json.loads(said)["architecture"] == "LlamaForCausalLM"
    assert openbook("generate", out, "the cat", "--max-tokens", 4)[0] == 0
    assert "bits per byte" in openbook("evaluate", out, "--text", text)[1]
    status, _, error = openbook("evaluate", out)
    assert (status, error.count("\n")) == (2, 1)
    assert f"openbook evaluate {out} --text FILE" in error
    for command in ("export", "report", "verify", "logbook"):
        assert openbook(command, out)[0] == 0, command
    assert "imported by openbook" in (out / "weights" / "README.md").read_text()
    status, _, error = openbook("import", folder, "--out", out)
    assert (status, error) == (2, f"openbook: {out}: exists already; choose another --out\n")


def test_a_server_puts_the_prefix_before_a_prompt_and_not_into_an_echo(folder: Path, tmp_path: Path) -> None:
    pieces(folder)
    path, _ = import_model(str(folder), out=tmp_path / "run")
    with running(path / "weights") as served:
        asked: dict[str, Any] = {"model": "tiny", "prompt": "the cat", "max_tokens": 3, "temperature": 0}
        answer = served.client.completions.create(**asked)
        ids = [1, *served.tokenizer.encode("the cat")]
        by_ids = served.client.completions.create(**asked | {"prompt": ids})
        echoed = served.client.completions.create(**asked | {"echo": True, "logprobs": 1})
    assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)
    assert answer.choices[0].text == by_ids.choices[0].text
    assert echoed.choices[0].text == " the cat" + answer.choices[0].text  # sentencepiece begins every text with a space


TEXTS = ["Hello world", "  spaces   and\n\nlines\t", "naïve — 数学 🙂", "x" * 300, "don't 12345", ""]


@needs_data("tokenizer")
@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox"])
def test_published_vocabularies(kind: str, tmp_path: Path) -> None:
    """Ids are those of transformers or `tokenizers`; OPT's have </s> before them, and texts come back whole."""
    from openbook.importer.tokenizers import prepare

    source = tmp_path / "source"
    source.mkdir()
    config: dict[str, Any] = {"model_type": kind, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt_neox":
        shutil.copy(DATA / "tokenizer/gpt_neox_20b" / "20B_tokenizer.json", source / "tokenizer.json")
    elif kind == "gpt2":
        shutil.copy(DATA / "tokenizer/gpt2" / "encoder.json", source / "vocab.json")
        config |= {"bos_token_id": 50256, "eos_token_id": 50256}
    else:
        shutil.copy(DATA / "tokenizer/opt" / "gpt2-vocab.json", source / "vocab.json")
        config |= {"bos_token_id": 2, "eos_token_id": 2}
    if kind != "gpt_neox":
        shutil.copy(DATA / "tokenizer/gpt2" / "vocab.bpe", source / "merges.txt")
    ours = prepare(source, tmp_path / "made", config, 50_432)
    peer = Tokenizer.from_file(str(DATA / "tokenizer" / {"gpt_neox": "gpt_neox_20b/20B_tokenizer.json"}.get(kind, "gpt2/tokenizer.json")))
    for text in TEXTS:
        ids = ours.encode(text)
        if kind != "opt":
            assert ids == peer.encode(text, add_special_tokens=False).ids
        else:  # another numbering of the same tokens
            assert [ours.token_bytes(identifier) for identifier in ids] == [
                load_bytes(peer, identifier) for identifier in peer.encode(text, add_special_tokens=False).ids
            ]
        assert ours.decode(ids) == text
    assert ours.prefix == ((2,) if kind == "opt" else ())
    assert ours.encode(END)[0] != ours.end_of_document  # a special token's spelling in a text is text
    assert ours.vocab_size == {"gpt2": 50_257, "opt": 50_265, "gpt_neox": 50_277}[kind]
    with pytest.raises(InputError, match="the tokenizer has ids up to"):
        ours.require_fits(50_000, source)


def load_bytes(peer: Tokenizer, identifier: int) -> bytes:
    from openbook.model.tokenizer import TO_BYTE

    return bytes(TO_BYTE[character] for character in peer.id_to_token(identifier))


def test_a_tokenizer_of_pieces(tmp_path: Path) -> None:
    pieces(tmp_path)
    ours, theirs = load_tokenizer(tmp_path / "tokenizer.json"), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["the cat sat", "naïve — 数学", "a  b"]:
        assert ours.encode_prompt(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == " " + text
    assert (ours.begin_of_document, ours.end_of_document, ours.prefix) == (1, 2, (1,))


def sharded(folder: Path, **saving: Any) -> PreTrainedModel:
    return peers.made(peers.configured(*peers.CASES["Llama"]), folder, max_shard_size="60KB", **saving)


def test_shards_and_half_precision(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    peer = sharded(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    path, _ = import_model(str(folder), out=tmp_path / "run")
    assert peers.distance(load_weights(path / "weights"), peer) <= 1e-4
    for shard in folder.glob("model-*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(shard).items()}, shard)
    loaded = load_weights(folder)
    assert torch.equal(loaded.head.weight, peer.lm_head.weight.bfloat16().float())
    next(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"model-.*\.safetensors: no such file; the weights are not whole without it"):
        load_weights(folder)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_tensors_are_read_and_become_safetensors(legacy: bool, folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    path, _ = import_model(str(folder), out=tmp_path / "run")
    kept = load_file(path / "weights" / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors.items())


def test_files_of_the_bare_model_and_with_old_buffers(tmp_path: Path) -> None:
    """As the first files of GPT-2 on the hub are: no prefix, a mask in every layer, the head once more."""
    peer = peers.made(peers.configured(*peers.CASES["GPT-2"]), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    tensors |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8) for layer in range(3)}
    save_file(tensors | {"lm_head.weight": tensors["wte.weight"].clone()}, path)
    assert peers.distance(load_weights(tmp_path), peer) <= 1e-4
    save_file(tensors | {"lm_head.weight": tensors["wte.weight"] + 1}, path)
    with pytest.raises(InputError, match=r"tensor lm_head\.weight is not transformer\.wte\.weight.*tie_word_embeddings"):
        load_weights(tmp_path)


@pytest.mark.parametrize("biased", [True, False])
def test_a_checkpoint_of_nanogpt(biased: bool, tmp_path: Path) -> None:
    """Its model, written down again from its formulas: GPT-2 with the exact GELU; without biases, none in its norms either."""
    arguments = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": peers.CONTEXT, "bias": biased, "vocab_size": 300, "dropout": 0.0}
    shape = {"vocab_size": 300, "n_positions": peers.CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2, "activation_function": "gelu"}
    peer = peers.made(peers.configured("gpt2", shape), tmp_path / "peer")
    state = {}
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if not biased and name.endswith(".bias"):
                parameter.zero_()
                continue
            conv = parameter.dim() == 2 and ".h." in name  # transformers keeps these as (in, out)
            state[f"_orig_mod.{name}"] = parameter.t().contiguous() if conv else parameter.detach().clone()
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    checkpoint = {"model": state, "model_args": arguments, "iter_num": 5, "config": {"dataset": "x"}, "optimizer": {}}
    source = tmp_path / "out-char"
    source.mkdir()
    torch.save(checkpoint, source / "ckpt.pt")
    byte_level(source)
    as_pair(source)
    path, summary = import_model(str(source), out=tmp_path / "run")
    assert summary["architecture"] == "GPT2LMHeadModel"
    assert peers.distance(load_weights(path / "weights"), peer) <= 1e-4
    _, tokenizer = load(path / "weights")
    assert (
        tokenizer.end_of_document == tokenizer.special_tokens[END] == json.loads((path / "weights/config.json").read_text())["eos_token_id"]
    )
    del state["_orig_mod.transformer.h.1.ln_1.weight"]
    torch.save(checkpoint, source / "ckpt.pt")
    with pytest.raises(InputError, match=r"ckpt\.pt: tensor transformer\.h\.1\.ln_1\.weight is missing"):
        import_model(str(source / "ckpt.pt"), out=tmp_path / "other")


def test_a_repository_in_the_hubs_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.constants as constants

    repository, commit = tmp_path / "hub" / "models--someone--tiny", "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path, summary = import_model("someone/tiny", out=tmp_path / "run")
    assert (summary["source"], summary["revision"]) == ("someone/tiny", commit)
    assert "".join(complete(path / "weights", "the", 3, 0.0, 1.0, None))


class Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo this must not be seen",)


def rewritten(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def retensored(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def lying(folder: Path) -> None:
    """A header that says a tensor is larger than its bytes."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header["model.norm.weight"]["shape"] = [4096]
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + size :])


def endless(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Code()}, folder / "pytorch_model.bin")


def pickled_plainly(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Code()}))


def outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": "../other.safetensors"}}))


def larger_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    first = len(content["model"]["vocab"])
    content["added_tokens"] += [{**content["added_tokens"][0], "id": id, "content": f"<|{id}|>"} for id in range(first, 301)]
    (folder / "tokenizer.json").write_text(json.dumps(content))


NORM = "model.norm.weight"
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown architecture": (
        rewritten(architectures=["MambaForCausalLM"]),
        r"\[\"MambaForCausalLM\"\] is none of .*LlamaFor",
    ),
    "custom code": (
        rewritten(auto_map={"AutoModelForCausalLM": "modeling.My"}),
        "auto_map.*code that comes with the model",
    ),
    "quantised": (rewritten(quantization_config={"bits": 4}), "quantization_config .*is not read; give the weights in float32"),
    "scaling": (
        rewritten(rope_parameters={"rope_type": "longrope"}),
        r"rope_parameters\.rope_type = .longrope. is not computed here",
    ),
    "activation": (rewritten(hidden_act="mish"), "hidden_act = .mish. is not computed here; known: silu"),
    "absurd layers": (rewritten(num_hidden_layers=10**9), "num_hidden_layers = 1000000000 should be a whole number from 1 to"),
    "many layers": (rewritten(num_hidden_layers=1000), "1,000 layers need more tensors than the 30 that the weights have"),
    "absurd width": (rewritten(hidden_size=2**22, head_dim=8), r"has shape \[300, 32\]; config.json calls for \[300, 4194304\]"),
    "absurd vocabulary": (rewritten(vocab_size=2**60), "vocab_size = .*should be a whole number"),
    "heads": (rewritten(num_key_value_heads=3), "4 heads cannot share 3 key heads evenly"),
    "not a number": (rewritten(rms_norm_eps="small"), "rms_norm_eps = .small. should be a number above 0"),
    "missing": (retensored(lambda tensors: tensors.__delitem__(NORM)), r"model\.safetensors: tensor model\.norm\.weight is missing"),
    "extra": (retensored(lambda tensors: tensors.update(more=torch.ones(2))), "tensor more is unknown to this architecture; --allow-extra"),
    "shape": (retensored(lambda tensors: tensors.update({NORM: torch.ones(3)})), r"has shape \[3\]; config.json calls for \[32\]"),
    "type": (retensored(lambda tensors: tensors.update({NORM: torch.ones(32).to(torch.int8)})), "is stored as I8; BF16, F16, F32 are read"),
    "a header that lies": (lying, r"model\.safetensors: not a safetensors file"),
    "a header without end": (endless, r"model\.safetensors: not a safetensors file"),
    "a pickle with code": (pickled, r"pytorch_model\.bin: a pickle with more than tensors in it.*system.*use safetensors"),
    "a plain pickle with code": (pickled_plainly, r"pytorch_model\.bin: a pickle with more than tensors in it"),
    "a shard outside": (outside, r"shard '\.\./other\.safetensors' is not in this folder"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights; there should be model.safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer; there should be tokenizer.json, or vocab.json"),
    "a larger tokenizer": (larger_tokenizer, "the tokenizer has ids up to 300, config.json says vocab_size = 300"),
    "not a tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}") and None, "not a tokenizer.json"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
    "config of a list": (lambda folder: (folder / "config.json").write_text("[1]") and None, "not a model configuration"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_folder_that_is_wrong_is_refused(what: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, message = WRONG[what]
    change(folder)
    with pytest.raises(InputError, match=message) as refused:
        import_model(str(folder), out=tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert "this must not be seen" not in capfd.readouterr().out
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_superfluous_tensors_are_left_out_if_allowed(folder: Path, tmp_path: Path) -> None:
    retensored(lambda tensors: tensors.update(more=torch.ones(2)))(folder)
    path, summary = import_model(str(folder), out=tmp_path / "run", allow_extra=True)
    assert summary["left_out"] == ["more"]
    load_weights(path / "weights")


def test_a_place_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder, and not a name on the Hugging Face hub"):
        import_model(str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"--revision main: .* is a folder of this machine"):
        import_model(str(tmp_path), revision="main")
