"""Files for llama.cpp, held against llama.cpp itself: the same tokens, the same continuations, and losses that quantising explains."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

import peers
from openbook.errors import InputError
from openbook.export import write_gguf
from openbook.model.exchange import load_weights
from openbook.model.generate import Sampling, generate
from openbook.model.tokenizer import load_tokenizer
from openbook.model.transformer import Transformer
from openbook.run import Run
from shared_data import DATA, needs_data
from small_tokenizers import TEXT, byte_level, pieces

llamacpp = pytest.importorskip("llamacpp", reason="xllamacpp, which is llama.cpp, is not installed")

LLAMA, NEOX, MOE = peers._LLAMA, peers._NEOX, peers.CASES["Qwen3-MoE"][1]
YARN = {**peers._YARN, "attention_factor": 1.3}
COMPUTED = {
    **{name: case for name, case in peers.CASES.items() if case[0] not in ("gpt_neo", "opt", "mistral", "qwen3_moe")},
    "Mistral, no window": ("mistral", {**LLAMA, "sliding_window": None}),
    "Qwen3-MoE, everywhere": ("qwen3_moe", {**MOE, "decoder_sparse_step": 1, "norm_topk_prob": True}),
    "Llama, biases, tied": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "Llama, YaRN's factor": ("llama", {**LLAMA, "rope_parameters": YARN}),
    "GPT-NeoX, tied, bare": ("gpt_neox", {**NEOX, "tie_word_embeddings": True, "attention_bias": False, "hidden_act": "gelu_new"}),
    "GPT-2, separate head": ("gpt2", {**peers._GPT, "tie_word_embeddings": False}),
}
"""What llama.cpp computes."""
TABLE = 4e-3
"""llama.cpp looks GELU up in a table of half precision: so far may a log-probability be from ours there."""


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    peers.quiet()


def made(case: tuple[str, dict[str, Any]], folder: Path, tokenizer: Any = byte_level) -> Path:
    peers.made(peers.configured(*case), folder)
    tokenizer(folder)
    return folder


@pytest.mark.parametrize("case", COMPUTED)
def test_llama_cpp_continues_as_we_do(case: str, tmp_path: Path) -> None:
    folder = made(COMPUTED[case], tmp_path / "model")
    write_gguf(folder, tmp_path / "model.gguf", case, "f32")
    ours, theirs = load_weights(folder), llamacpp.LlamaCpp(tmp_path / "model.gguf", peers.CONTEXT)
    prompt, continuation = clear(ours)
    expected = peers.logits(ours, torch.tensor([prompt]))[0, -1].log_softmax(-1)
    distance = (torch.tensor(theirs.logprobs(prompt, peers.VOCABULARY)) - expected).abs().max()
    assert distance < (TABLE if ours.config.activation.startswith("gelu") else 1e-4)
    assert theirs.continued(prompt, peers.NEW, end=0) == continuation


def clear(ours: Transformer) -> tuple[list[int], list[int]]:
    """A prompt and its greedy continuation, in which no second-best token comes as near to the best as the table's error."""
    for seed in range(100):
        prompt = torch.randint(0, peers.VOCABULARY, (6,), generator=torch.Generator().manual_seed(seed)).tolist()
        tokens = list(generate(ours, prompt, Sampling(peers.NEW, temperature=0.0, logprobs=2), end=None))
        if min(token.top[0][1] - token.top[1][1] for token in tokens) > TABLE / 2:
            return prompt, [token.id for token in tokens]
    raise AssertionError("every continuation has a tie")


REFUSED = {
    "GPT-Neo": (peers.CASES["GPT-Neo"], "llama.cpp has no GPTNeoForCausalLM; those that it runs: GPT2LMHeadModel"),
    "OPT": (peers.CASES["OPT"], "llama.cpp has no OPTForCausalLM"),
    "a window": (peers.CASES["Mistral"], r"llama.cpp's llama has no windows \(here of 7 tokens\)"),
    "layers without experts": (peers.CASES["Qwen3-MoE"], "llama.cpp's qwen3moe has no plain layers between those with experts"),
    "weights of experts": (
        ("qwen3_moe", {**MOE, "decoder_sparse_step": 1, "norm_topk_prob": False}),
        "has no experts whose weights do not add up to 1",
    ),
    "scaling": (("qwen2", {**peers._scaled("llama3", **peers._LLAMA3)}), "llama.cpp's qwen2 has no rotary scaling llama3"),
    "activation": (("gpt2", {**peers._GPT, "activation_function": "relu"}), "llama.cpp's gpt2 has no activation relu"),
    "biases": (("qwen3", {**LLAMA, "head_dim": 16, "attention_bias": True}), "qwen3 has no biases on queries, keys and values"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(what: str, tmp_path: Path) -> None:
    case, message = REFUSED[what]
    folder = made(case, tmp_path / "model")
    with pytest.raises(InputError, match=message) as refused:
        write_gguf(folder, tmp_path / "model.gguf", "x")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("model.gguf*"))


def published(folder: Path) -> None:
    """GPT-2's own vocabulary."""
    shutil.copy(DATA / "tokenizer/gpt2" / "tokenizer.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))


TRICKY = [
    *("Hello world", "  spaces   and\n\nlines\t", "naïve — 数学 🙂👩‍👩‍👧", "x" * 300, "", "THEY'RE 'tis don'T we'll"),
    *("a  b\t\tc \n \n\n  d\r\n\r\ne   ", "x=12;y=7 ", "<|endoftext|> in text", "１２ ½ ² e\u0301 \u200b\ufeff\u00a0"),
    *("".join(random.Random(seed).choices("ab' \n\r\t.—,LlSsTt日é", k=40)) for seed in range(30)),
]


KINDS = [
    pytest.param(byte_level, 300, "gpt-2", id="bytes"),
    pytest.param(pieces, 310, "llama", id="pieces"),
    pytest.param(published, 50_257, "gpt-2", marks=needs_data("tokenizer"), id="GPT-2's"),
]


def same_tokens(folder: Path, path: Path, texts: list[str]) -> list[str]:
    """The texts that become other tokens there."""
    ours, theirs = load_tokenizer(folder / "tokenizer.json"), llamacpp.LlamaCpp(path, peers.CONTEXT)
    return [text for text in texts if theirs.tokenize(text) != ours.encode_prompt(text)]


@pytest.mark.parametrize(("tokenizer", "size", "pre"), KINDS)
def test_llama_cpp_splits_text_as_we_do(tokenizer: Any, size: int, pre: str, tmp_path: Path) -> None:
    folder = made(("llama", {**LLAMA, "vocab_size": size, "num_hidden_layers": 1}), tmp_path / "model", tokenizer)
    found = write_gguf(folder, tmp_path / "model.gguf", "x")
    assert (found["tokenizer"], found["notes"]) == (pre, [])
    assert not same_tokens(folder, tmp_path / "model.gguf", [*TRICKY, "12345 678"])


def test_our_own_pattern_differs_in_long_numbers_only(tokenized: Run, tmp_path: Path) -> None:
    def own(folder: Path) -> None:
        shutil.copy(tokenized.path / "tokenizer" / "tokenizer.json", folder)

    folder = made(("llama", {**LLAMA, "num_hidden_layers": 1}), tmp_path / "model", own)
    found = write_gguf(folder, tmp_path / "model.gguf", "x")
    assert found["tokenizer"] == "llama-bpe"
    assert "digits in threes" in found["notes"][0]
    assert not same_tokens(folder, tmp_path / "model.gguf", TRICKY)


def test_what_stands_in_the_file(tmp_path: Path) -> None:
    """Types by tensor, the template, rows without tokens; and the bits of the weights."""
    folder = made(("llama", {**LLAMA, "intermediate_size": 64}), tmp_path / "model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "chat_template": "{{ messages }}"}))
    sizes = {}
    for kind in ("f32", "f16", "q8_0", "q4_0"):
        sizes[kind] = write_gguf(folder, tmp_path / f"{kind}.gguf", "Tiny", kind)["bytes"]
        reader = GGUFReader(tmp_path / f"{kind}.gguf")
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        ends = "Q8_0" if kind == "q4_0" else kind.upper()
        assert (types["blk.0.ffn_up.weight"], types["output.weight"], types["blk.0.attn_norm.weight"]) == (kind.upper(), ends, "F32")
    assert sizes["f32"] > sizes["f16"] > sizes["q8_0"] > sizes["q4_0"]
    assert reader.fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    assert reader.fields["general.name"].contents() == "Tiny"
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == peers.VOCABULARY
    whole = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "f32.gguf").tensors}
    assert torch.equal(torch.from_numpy(whole["token_embd.weight"].copy()), load_weights(folder).embedding.weight)


def losses(model: Any, tokens: list[int]) -> float:
    """Mean loss of a text, in nats a token."""
    return -math.fsum(model.logprobs(tokens[:at], peers.VOCABULARY)[tokens[at]] for at in range(1, len(tokens))) / (len(tokens) - 1)


def test_quantised_weights_cost_what_quantising_costs(tmp_path: Path) -> None:
    """Eight bits move the mean loss of a text by less than 1 %, four by less than 10 %; float32 not at all."""
    folder = made(("llama", {**LLAMA, "hidden_size": 64, "intermediate_size": 128}), tmp_path / "model")
    ours = load_weights(folder)
    tokens = load_tokenizer(folder / "tokenizer.json").encode(TEXT)[:40]
    logprobs = peers.logits(ours, torch.tensor([tokens]))[0, :-1].log_softmax(-1)
    plain = -float(logprobs.gather(1, torch.tensor(tokens[1:])[:, None]).mean())
    for kind, within in (("f32", 1e-5), ("q8_0", 0.01), ("q4_0", 0.1)):
        write_gguf(folder, tmp_path / f"{kind}.gguf", "x", kind)
        assert losses(llamacpp.LlamaCpp(tmp_path / f"{kind}.gguf", peers.CONTEXT), tokens) == pytest.approx(plain, rel=within), kind


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from openbook import cli

    def openbook(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["openbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capfd.readouterr()

    source, run = made(("llama", LLAMA), tmp_path / "source"), tmp_path / "tiny"
    assert openbook("import", source, "--out", run)[0] == 0
    status, said, _ = openbook("export", run, "--as", "gguf", "--type", "q8_0", "--json")
    assert (status, json.loads(said)["file"]) == (0, str(run / "exports" / "tiny-q8_0.gguf"))
    assert openbook("export", run, "--as", "gguf", "--out", tmp_path / "new" / "x.gguf")[0] == 0
    assert (tmp_path / "new" / "x.gguf").is_file()
    assert openbook("verify", run)[0] == 0
    for arguments, message in (
        (("--as", "gguf", "--type", "q5_k"), "--type q5_k: should be one of f32, f16, q8_0, q4_0"),
        (("--as", "mlx"), "--as mlx: should be hf, gguf or onnx"),
        (("--type", "f16"), "--type and --out are for --as gguf and --as onnx"),
    ):
        status, _, error = openbook("export", run, *arguments)
        assert (status, error.count("\n")) == (2, 1)
        assert message in error
    content = json.loads((run / "weights" / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (run / "weights" / "tokenizer.json").write_text(json.dumps(content))
    status, _, error = openbook("export", run, "--as", "gguf")
    assert (status, error.count("\n")) == (2, 1)
    assert "llama.cpp does not split text by Whitespace; known: " in error
