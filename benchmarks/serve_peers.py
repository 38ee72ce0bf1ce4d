"""The peers that `serve.py` compares with: transformers' `generate`, and llama.cpp through the package xllamacpp, if it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from openbook.model.transformer import Transformer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""Continues each of several prompts greedily by so many tokens; all of them together."""
KINDS = ("f32", "q8_0")
"""Types of weights in llama.cpp's files that ours are compared with: in fp32, and in int8."""


def of_transformers(model: Transformer, dtype: torch.dtype = torch.float32) -> Generate:
    """The same weights in transformers' own model, asked as its users do: `generate`, with its default cache and attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=True,
        )
    ).eval()
    theirs.to(model.embedding.weight.device, dtype)
    names = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "attention.output": "self_attn.o_proj"}
    names |= {f"attention.{ours}": f"self_attn.{ours[0]}_proj" for ours in ("query", "key", "value")}
    names |= {f"mlp.{ours}": f"mlp.{ours}_proj" for ours in ("gate", "up", "down")}
    names |= {"embedding": "model.embed_tokens", "final_norm": "model.norm"}
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("layers."):
                _, index, inner = name.removesuffix(".weight").split(".", 2)
                parameters[f"model.layers.{index}.{names[inner]}.weight"].copy_(parameter)
            elif name != "head.weight":
                parameters[f"{names[name.removesuffix('.weight')]}.weight"].copy_(parameter)

    def generate(texts: list[list[int]], new: int) -> list[list[int]]:
        ids = torch.tensor(texts, device=theirs.device)
        settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        return theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, ids.shape[1] :].tolist()

    return generate


def has_llama_cpp() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None and importlib.util.find_spec("gguf") is not None


def of_llama_cpp(model: Transformer, folder: Path, slots: int) -> dict[str, Generate]:
    """llama.cpp's server inside this process, one for each of KINDS, over files that `openbook export` writes into the folder."""
    from openbook.export import write_gguf
    from openbook.model.exchange import save_weights
    from small_tokenizers import byte_level

    save_weights(model, folder, 0)
    byte_level(folder)
    found = {}
    for kind in KINDS:
        write_gguf(folder, folder / f"{kind}.gguf", "model", kind)
        found[kind] = _served(folder / f"{kind}.gguf", slots)
    return found


def _served(path: Path, slots: int) -> Generate:
    """One computing thread, parallel slots and continuous batching; all else as it comes, also keys and values in f16."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(path), 256 * slots, slots
    params.fit_params, params.port, params.verbosity = False, 0, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = slots + 1
    params.cache_ram_mib = 0  # it is for prompts that come again, and none does
    server = xllamacpp.Server(params)
    url = f"{server.listening_address}/completion"

    def complete(text: list[int], new: int) -> list[int]:
        asked = {"prompt": text, "n_predict": new, "temperature": 0, "samplers": ["top_k"], "top_k": 1}
        content = json.dumps(asked | {"ignore_eos": True, "return_tokens": True}).encode()
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            tokens: list[int] = json.load(answer)["tokens"]
        assert server and len(tokens) == new
        return tokens

    def generate(texts: list[list[int]], new: int) -> list[list[int]]:
        with ThreadPoolExecutor(len(texts)) as pool:
            return list(pool.map(complete, texts, [new] * len(texts)))

    return generate
