"""What each family can be exported to, measured: `python benchmarks/exports.py` writes the table in docs/models.md.

For each family a small model with random weights: GGUF in float32 against llama.cpp. `exports.py onnx` prints the same for ONNX and
onnxruntime, `exports.py RUN TEXT` the loss of a text in llama.cpp by type of a run's weights, beside ours. It needs the dev extra.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

import peers
from export.test_gguf import clear
from export.test_onnx import onnx_distance
from llamacpp import LlamaCpp
from openbook.errors import InputError
from openbook.export import write_gguf, write_onnx
from openbook.export.gguf import TYPES
from openbook.files import write_text
from openbook.model.exchange import load_config, load_weights
from openbook.model.tokenizer import load_tokenizer
from small_tokenizers import byte_level

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- exports: written by benchmarks/exports.py -->", "<!-- end of exports -->"
CASES = {
    **peers.CASES,
    "Mistral, no window": ("mistral", {**peers._LLAMA, "sliding_window": None}),
    "Qwen3-MoE, experts everywhere": (
        "qwen3_moe",
        {**peers.CASES["Qwen3-MoE"][1], "decoder_sparse_step": 1, "norm_topk_prob": True},
    ),
}
TOKENS = 100
"""Of the text whose loss is measured."""


def _gguf(folder: Path, path: Path) -> str:
    try:
        found = write_gguf(folder, path, "x", "f32")
    except InputError as error:
        return f"no: {str(error).split(';')[0]} | |"
    ours, theirs = load_weights(folder), LlamaCpp(path, peers.CONTEXT)
    prompt, continuation = clear(ours)
    expected = peers.logits(ours, torch.tensor([prompt]))[0, -1].log_softmax(-1)
    distance = float((torch.tensor(theirs.logprobs(prompt, peers.VOCABULARY)) - expected).abs().max())
    agreed = sum(left == right for left, right in zip(theirs.continued(prompt, peers.NEW, 0), continuation, strict=True))
    return f"`{found['architecture']}` | {distance:.0e} | {agreed} of {peers.NEW}"


def _onnx(folder: Path, path: Path) -> str:
    try:
        write_onnx(folder, path)
    except InputError:
        return "no: experts"
    return f"{onnx_distance(path / 'model.onnx', folder):.0e}"


def measured(form: str) -> list[str]:
    """A line for each family."""
    lines = []
    for case, described in CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            peers.made(peers.configured(*described), folder)
            byte_level(folder)
            lines.append(f"| {case} | {_gguf(folder, folder / 'x.gguf') if form == 'gguf' else _onnx(folder, folder / 'onnx')} |")
        print(lines[-1], flush=True)
    return lines


def table() -> list[str]:
    head = "| model | llama.cpp's architecture | largest difference of a log-probability | same greedy tokens |"
    return [head, "|---|---|---:|---:|", *measured("gguf")]


def losses(weights: Path, text: Path) -> list[str]:
    """The mean loss of the text's first tokens, by type of the weights."""
    config, tokenizer = load_config(weights), load_tokenizer(weights / "tokenizer.json")
    tokens = tokenizer.encode(text.read_text(encoding="utf-8"))[: min(TOKENS, config.context)]
    ours = load_weights(weights)
    logprobs = peers.logits(ours, torch.tensor([tokens]))[0, :-1].log_softmax(-1)
    plain = -float(logprobs.gather(1, torch.tensor(tokens[1:])[:, None]).mean())
    lines = [
        "| weights | bytes | nats a token | perplexity |",
        "|---|---:|---:|---:|",
        f"| ours, f32 | | {plain:.5f} | {math.exp(plain):.3f} |",
    ]
    for kind in TYPES:
        with tempfile.TemporaryDirectory() as scratch:
            size = write_gguf(weights, Path(scratch) / "model.gguf", "x", kind)["bytes"]
            model = LlamaCpp(Path(scratch) / "model.gguf", config.context)
            found = [model.logprobs(tokens[:at], config.vocab_size)[tokens[at]] for at in range(1, len(tokens))]
        loss = -math.fsum(found) / len(found)
        lines.append(f"| llama.cpp, {kind} | {size:,} | {loss:.5f} | {math.exp(loss):.3f} |")
    return lines


if __name__ == "__main__":
    peers.quiet()
    torch.set_num_threads(1)
    if sys.argv[1:] == ["onnx"]:
        measured("onnx")
    elif sys.argv[1:]:
        print("\n".join(losses(Path(sys.argv[1]) / "weights", Path(sys.argv[2]))))
    else:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        write_text(PAGE, before + "\n".join([BEGIN, "", *table(), "", END]) + rest.split(END)[1])
