"""Checkpoints in the layout of the programs that trained OPT and GPT-NeoX: made from models of transformers, imported, the same logits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import peers
from openbook.errors import InputError
from openbook.importer import import_model
from openbook.model.exchange import load_weights
from small_tokenizers import byte_level


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    peers.quiet()


def bare(case: str, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    """A model, and a folder with its configuration and tokenizer and no weights."""
    folder = tmp_path / "native"
    peer = peers.made(peers.configured(*peers.CASES[case]), folder)
    (folder / "model.safetensors").unlink()
    byte_level(folder)
    return peer, folder


def as_metaseq(peer: PreTrainedModel) -> dict[str, Tensor]:
    """Keys, values and queries in one tensor, and metaseq's names."""
    state = {name.removeprefix("model."): tensor for name, tensor in peer.state_dict().items() if not name.startswith("lm_head.")}
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace(".q_proj.", f".{kind}_proj.")) for kind in "kvq"]
        state[name.replace(".q_proj.", ".qkv_proj.")] = torch.cat(parts)
    names = {name: re.sub(r"^decoder\.final_layer_norm", "decoder.layer_norm", name) for name in state}
    renamed = {re.sub(r"\.project_(in|out)\.", r".project_\1_dim.", names[name]): tensor for name, tensor in state.items()}
    return renamed | {"decoder.version": torch.tensor([3.0]), "decoder.output_projection.weight": state["decoder.embed_tokens.weight"]}


def as_neox(peer: PreTrainedModel, folder: Path) -> None:
    """Two tensor-parallel ranks, a file for each of them and each layer."""
    layers = peer.config.num_hidden_layers
    for name, tensor in peer.state_dict().items():
        matched = re.match(r"gpt_neox\.layers\.(\d+)\.(.*)", name)
        places = {"gpt_neox.embed_in.weight": (0, "word_embeddings.weight"), "lm_head.weight": (layers + 4, "final_linear.weight")}
        places |= {f"gpt_neox.final_layer_norm.{kind}": (layers + 3, f"norm.{kind}") for kind in ("weight", "bias")}
        number, own = (int(matched[1]) + 2, matched[2]) if matched else places[name]
        if "norm" in own:
            parts = (tensor, tensor)
        elif own in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
            parts = (tensor * 0.25, tensor * 0.75)
        else:
            parts = tensor.chunk(2, 1 if own in ("attention.dense.weight", "mlp.dense_4h_to_h.weight") else 0)
        for rank, part in enumerate(parts):
            path = folder / f"layer_{number:02}-model_{rank:02}-model_states.pt"
            held = torch.load(path, weights_only=True) if path.is_file() else {}
            torch.save(held | {own: part.clone()}, path)


@pytest.mark.parametrize("case", ["OPT", "OPT-350M"])
def test_metaseq(case: str, tmp_path: Path) -> None:
    peer, folder = bare(case, tmp_path)
    torch.save({"model": as_metaseq(peer)}, folder / "restored.pt")
    path, _ = import_model(str(folder), out=tmp_path / "run")
    assert peers.distance(load_weights(path / "weights"), peer) < 1e-4


def test_gpt_neox(tmp_path: Path) -> None:
    peer, folder = bare("GPT-NeoX, Pythia", tmp_path)
    as_neox(peer, folder)
    path, _ = import_model(str(folder), out=tmp_path / "run")
    assert peers.distance(load_weights(path / "weights"), peer) < 1e-4
    (folder / "layer_03-model_01-model_states.pt").unlink()
    with pytest.raises(InputError, match=r"layer_03-model_00-model_states.pt: this layer has 1 files, others have 2"):
        import_model(str(folder), out=tmp_path / "again")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"a native checkpoint needs the one that transformers has of the model"):
        import_model(str(folder), out=tmp_path / "again")
    assert not (tmp_path / "again").exists()
