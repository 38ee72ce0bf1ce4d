"""Models of every family as transformers makes them, and how close ours is to them: for the tests, and for the table in docs/models.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from openbook.model.exchange import load_weights, save_weights
from openbook.model.generate import Sampling, generate
from openbook.model.transformer import Cache, Transformer

VOCABULARY, CONTEXT, END, NEW = 300, 64, 299, 50

_GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 3, "n_head": 4}
_OPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_NEOX = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_NEO: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1], [["global"], 1]],
    "window_size": 7,
}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}

_YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 4096}
"""Long enough for the default place of its ramp to matter."""


def _scaled(kind: str, **values: Any) -> dict[str, Any]:
    return {**_LLAMA, "rope_parameters": {"rope_type": kind, "rope_theta": 100.0, "factor": 4.0, **values}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("gpt2", _GPT),
    "GPT-Neo": ("gpt_neo", _NEO),
    "GPT-J": ("gptj", {**_GPT, "rotary_dim": 4}),
    "GPT-NeoX, Pythia": ("gpt_neox", {**_NEOX, "rotary_pct": 0.5}),
    "GPT-NeoX, one after the other": ("gpt_neox", {**_NEOX, "use_parallel_residual": False, "rotary_emb_base": 500}),
    "OPT": ("opt", _OPT),
    "OPT-350M": ("opt", {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "Llama": ("llama", _LLAMA),
    "Llama 3.1 (llama3 scaling)": ("llama", _scaled("llama3", **_LLAMA3)),
    "Llama, YaRN": ("llama", {**_LLAMA, "head_dim": 16, "rope_parameters": _YARN}),
    "Llama, linear scaling": ("llama", _scaled("linear")),
    "Mistral": ("mistral", {**_LLAMA, "sliding_window": 7}),
    "Qwen2": ("qwen2", {**_LLAMA, "tie_word_embeddings": True}),
    "Qwen3": ("qwen3", {**_LLAMA, "head_dim": 16}),
    "Mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4}),
    "Qwen3-MoE": (
        "qwen3_moe",
        {**_LLAMA, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 2},
    ),
}
"""What the table calls it: transformers' model type and what is not its default."""


def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def configured(model_type: str, values: dict[str, Any]) -> PretrainedConfig:
    kept = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": None}
    return transformers.AutoConfig.for_model(model_type, **kept | values)


def made(config: PretrainedConfig, folder: Path, seed: int = 0, **saving: Any) -> PreTrainedModel:
    """A model in which every weight matters, saved into a folder by transformers."""
    torch.manual_seed(seed)
    peer = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    peer.save_pretrained(folder, **saving)
    return peer


@torch.no_grad()
def logits(ours: Transformer, tokens: Tensor) -> Tensor:
    return ours.logits(ours(tokens))


@torch.no_grad()
def distance(ours: Transformer, peer: PreTrainedModel, seed: int = 0) -> float:
    """The largest difference of a logit, over random tokens that fill the context, one token, the same one everywhere, and texts padded on
    either side for transformers."""
    random = torch.Generator().manual_seed(seed)
    full = torch.randint(0, VOCABULARY, (2, CONTEXT), generator=random)
    inputs = [full, full[:1, :1], torch.full((1, CONTEXT), END), full[:, :17]]
    found = [(logits(ours, tokens) - peer(tokens).logits).abs().max() for tokens in inputs]
    text, nothing = full[:1, :20], torch.full((1, 9), 0)
    for parts, real in (((nothing, text), slice(9, None)), ((text, nothing), slice(0, 20))):
        mask = torch.zeros(1, 29, dtype=torch.long)
        mask[:, real] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        padded = peer(torch.cat(parts, 1), attention_mask=mask, position_ids=positions).logits[:, real]
        found.append((logits(ours, text) - padded).abs().max())
    return float(torch.stack(found).max())


@torch.no_grad()
def continued(peer: PreTrainedModel, prompt: Tensor) -> list[int]:
    """transformers' greedy continuation."""
    peer.generation_config.eos_token_id = None
    return peer.generate(prompt, max_new_tokens=NEW, do_sample=False, pad_token_id=0, use_cache=True)[0, prompt.shape[1] :].tolist()


def continued_by_ours(ours: Transformer, prompt: Tensor) -> list[int]:
    return [token.id for token in generate(ours, prompt[0].tolist(), Sampling(NEW, temperature=0.0), end=None)]


@torch.no_grad()
def cached_distance(ours: Transformer) -> float:
    """The largest difference of a logit when tokens come in parts, through a cache."""
    tokens = torch.randint(0, VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    cache = Cache(ours, capacity=CONTEXT, batch=2)
    parts = torch.cat([ours(part, cache) for part in tokens.split([5, 1, 20, *[1] * 8, 30], dim=1)], 1)
    return float((ours.logits(parts) - logits(ours, tokens)).abs().max())


def exported(ours: Transformer, peer: PreTrainedModel, folder: Path) -> tuple[str, int, int]:
    """Written by us and read by transformers: its class, how many tensors it has, and how many are the first model's to the bit."""
    save_weights(ours, folder, END)
    again = AutoModelForCausalLM.from_pretrained(folder)
    before = dict(peer.named_parameters())
    after = dict(again.named_parameters())
    same = sum(name in after and torch.equal(tensor, after[name]) for name, tensor in before.items())
    return type(again).__name__, max(len(before), len(after)), same


@dataclass(frozen=True)
class Parity:
    """What was measured of one case."""

    architecture: str
    logits: float
    cached: float
    greedy: int
    """Tokens of the continuation that agree, from the first on."""
    tensors: int
    identical: int


def parity(case: str, folder: Path) -> Parity:
    """Makes the case's model in a folder and compares ours with it, both ways."""
    peer = made(configured(*CASES[case]), folder / "theirs")
    ours = load_weights(folder / "theirs")
    prompt = torch.randint(0, VOCABULARY, (1, 6), generator=torch.Generator().manual_seed(2))
    theirs, mine = continued(peer, prompt), continued_by_ours(ours, prompt)
    agreed = next((index for index, pair in enumerate(zip(theirs, mine, strict=True)) if pair[0] != pair[1]), NEW)
    architecture, tensors, identical = exported(ours, peer, folder / "ours")
    return Parity(architecture, distance(ours, peer), cached_distance(ours), agreed, tensors, identical)
