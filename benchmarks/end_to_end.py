"""A model of GPT-2's smallest shape, from text to other people's programs: `python benchmarks/end_to_end.py [FOLDER]`.

recipes/gpt2-124m.toml takes two steps on the standard library's source, on this machine's processor; the weights go to transformers and
llama.cpp, whose greedy continuations are held against ours. FOLDER is kept, and taken up where it was left. It needs the dev extra.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from transformers import AutoModelForCausalLM

import peers
from llamacpp import LlamaCpp
from openbook.model.exchange import load_weights
from openbook.model.tokenizer import load_tokenizer

RECIPES = Path(__file__).parents[1] / "recipes"
OURS = """extends = "gpt2-124m.toml"
name = "end-to-end"

[corpus.components.code]
source = "files"
path = "{text}"
weight = 1.0

[evaluate]
max_bytes = 2000
sample_tokens = 4
"""
SMALL = ("train.steps=2", "train.microbatch_rows=1", "train.microbatches=1", "train.device=cpu", "train.precision=fp32")
PROMPT = "def fibonacci(n):"
TOKENS = 50


def openbook(*arguments: object) -> None:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "openbook.cli", *map(str, arguments)], check=True)
    print(f"{time.monotonic() - begin:8.1f} s  openbook {' '.join(map(str, arguments[:1]))}", flush=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RECIPES / "gpt2-124m.toml", folder / "gpt2-124m.toml")
    (folder / "end.toml").write_text(OURS.format(text=Path(shutil.__file__).parent), encoding="utf-8")
    run = folder / "run"
    openbook("run", folder / "end.toml", "--out", run, "--until", "export", *(word for one in SMALL for word in ("--set", one)))
    for kind in ("f32", "q8_0"):
        openbook("export", run, "--as", "gguf", "--type", kind, "--out", folder / f"{kind}.gguf")
    ours, tokenizer = load_weights(run / "weights"), load_tokenizer(run / "weights" / "tokenizer.json")
    print(f"{sum(parameter.numel() for parameter in ours.parameters()):,} parameters")
    prompt = tokenizer.encode(PROMPT)
    peers.NEW = TOKENS
    expected = peers.continued_by_ours(ours, torch.tensor([prompt]))
    theirs = AutoModelForCausalLM.from_pretrained(run / "weights").eval()
    distance = float((peers.logits(ours, torch.tensor([prompt])) - theirs(torch.tensor([prompt])).logits).abs().max())
    print(f"transformers: {_same(peers.continued(theirs, torch.tensor([prompt])), expected)} greedy tokens, logits within {distance:.1e}")
    for kind in ("f32", "q8_0"):
        model = LlamaCpp(folder / f"{kind}.gguf", ours.config.context)
        found, size = model.continued(prompt, TOKENS, tokenizer.end_of_document), (folder / f"{kind}.gguf").stat().st_size
        same = "the same ids of the prompt" if model.tokenize(PROMPT) == prompt else "other ids of the prompt"
        print(f"llama.cpp, {kind}: {_same(found, expected)} greedy tokens, {same}, {size / 1e6:.0f} MB")


def _same(found: list[int], expected: list[int]) -> str:
    return f"{next((at for at, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]), TOKENS)} of {TOKENS}"


if __name__ == "__main__":
    peers.quiet()
    torch.set_num_threads(1)
    if sys.argv[1:]:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
