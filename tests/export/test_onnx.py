"""The ONNX graph gives our logits in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import peers
from openbook.errors import InputError
from openbook.export import write_onnx
from openbook.model.exchange import load_weights
from small_tokenizers import byte_level

pytest.importorskip("onnxscript", reason="onnxscript, which writes ONNX for torch, is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.parametrize("case", [("llama", peers._LLAMA), ("mistral", {**peers._LLAMA, "sliding_window": 7})], ids=["Llama", "Mistral"])
def test_onnxruntime_gives_our_logits(case: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """One layer, as making a graph takes seconds a layer; benchmarks/exports.py does it for every family."""
    source = tmp_path / "model"
    peers.made(peers.configured(case[0], {**case[1], "num_hidden_layers": 1}), source)
    byte_level(source)
    write_onnx(source, tmp_path / "onnx")
    assert (tmp_path / "onnx" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert onnx_distance(tmp_path / "onnx" / "model.onnx", source) < 1e-4


def onnx_distance(path: Path, source: Path) -> float:
    """The largest difference of a logit, over several shapes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session, ours = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]), load_weights(source)
    found = []
    for shape in ((2, peers.CONTEXT), (1, 1), (3, 17)):
        tokens = torch.randint(0, peers.VOCABULARY, shape)
        [theirs] = session.run(None, {"input_ids": tokens.numpy()})
        found.append(float(np.abs(theirs - peers.logits(ours, tokens).numpy()).max()))
    return max(found)


def test_a_mixture_is_refused(tmp_path: Path) -> None:
    peers.made(peers.configured(*peers.CASES["Mixtral"]), tmp_path / "model")
    with pytest.raises(InputError, match="ONNX has no operator for the grouped products of a mixture of experts"):
        write_onnx(tmp_path / "model", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
