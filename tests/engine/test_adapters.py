from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.lora import ALPHA, RANK, adapter, matrices, written
from engine.text import CONTEXT, engine_over, greedy, prompt, reader, sampled
from openbook.engine import Engine
from openbook.errors import InputError
from openbook.model.initialise import initialise
from openbook.model.transformer import Transformer, TransformerConfig


def logprobs(engine: Engine, ids: list[int], name: str | None) -> list[float]:
    (answer,) = engine.run([greedy(ids, tokens=1, score_prompt=True, adapter=name)])
    return [token.logprob for token in answer.scores if token]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [written(root / str(seed), adapter(seed, reader())[0]) for seed in (1, 2)]


def test_an_adapter_is_the_model_with_merged_weights(folders: list[Path]) -> None:
    ids = prompt(0, 60)
    with engine_over() as engine:
        for index, folder in enumerate(folders):
            engine.load_adapter(str(index), folder)
        found = [logprobs(engine, ids, name) for name in ("0", "1", None)]
    for values, model in zip(found, [adapter(1, reader())[1], adapter(2, reader())[1], reader()], strict=True):
        with engine_over(model) as engine:
            assert values == pytest.approx(logprobs(engine, ids, None), abs=2e-3)
    assert max(abs(a - b) for a, b in zip(found[0], found[2], strict=True)) > 0.1, "the adapter does nothing"


def test_several_in_one_batch_are_as_each_alone(folders: list[Path]) -> None:
    names = ["0", None, "1", "0", None, "1"]
    jobs = [sampled(prompt(70, 40 + index), seed=index, adapter=name) for index, name in enumerate(names)]
    with engine_over(slots=1) as engine:
        for index, folder in enumerate(folders):
            engine.load_adapter(str(index), folder)
        alone = [answer.tokens for answer in engine.run(jobs)]
        cached = [answer.end.cached_tokens for answer in engine.run(jobs) if answer.end]
    assert cached == [32, 32, 32, 32, 32, 32], "each finds what its own adapter has read"
    with engine_over() as engine:
        for index, folder in enumerate(folders):
            engine.load_adapter(str(index), folder)
        assert [answer.tokens for answer in engine.run(jobs)] == alone


def test_adapters_come_and_go_while_the_engine_runs(folders: list[Path]) -> None:
    with engine_over() as engine:
        engine.load_adapter("mine", folders[0])
        assert engine.adapters == ["mine"]
        with pytest.raises(InputError, match="loaded already"):
            engine.load_adapter("mine", folders[1])
        events: list[object] = []
        engine.submit([sampled(prompt(0, 20), tokens=100, adapter="mine")], lambda _, event: events.append(event))
        engine.unload_adapter("mine")
        with pytest.raises(InputError, match="'mine': is not loaded"):
            engine.run([greedy([1], adapter="mine")])
        with pytest.raises(InputError, match="'mine': is not loaded"):
            engine.unload_adapter("mine")
        engine.run([greedy([1], tokens=CONTEXT)])
        assert len(events) == 101, "what runs goes on"


def test_gpt2s_joint_matrix_in_peft_is_split(tmp_path: Path) -> None:
    shape = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 2, "head_width": 16, "mlp_width": 64}
    model = Transformer(TransformerConfig(256, 64, **shape, norm="layer", positions="learned", activation="gelu-tanh"))
    initialise(model, 1, 0.3)
    modules = {"query": "q", "key": "k", "value": "v", "output": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
    plain, merged = adapter(3, model, modules)
    tensors = {}
    for layer in range(2):
        old, new = f"base_model.model.model.layers.{layer}", f"base_model.model.transformer.h.{layer}"
        first = plain[f"{old}.q.lora_A.weight"]
        with torch.no_grad():  # one lora_A serves all three
            for name, part in (("query", "q"), ("key", "k"), ("value", "v")):
                weight, up = matrices(merged, layer)[name].weight, plain.pop(f"{old}.{part}.lora_B.weight")
                weight += up @ (first - plain.pop(f"{old}.{part}.lora_A.weight")) * (ALPHA / RANK)
                tensors[part] = up
        tensors[f"{new}.attn.c_attn.lora_A.weight"] = first
        tensors[f"{new}.attn.c_attn.lora_B.weight"] = torch.cat([tensors.pop(part) for part in "qkv"])
        tensors |= {name.replace(old, new): tensor for name, tensor in plain.items() if name.startswith(old)}
    ids = list(range(40))
    with engine_over(model) as engine, engine_over(merged) as expected:
        engine.load_adapter("a", written(tmp_path / "a", tensors, fan_in_fan_out=True))
        assert logprobs(engine, ids, "a") == pytest.approx(logprobs(expected, ids, None), abs=2e-3)


def change(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (change(FIRST, torch.zeros(RANK, 63)), {}, "should have lora_A"),
        (change(FIRST, torch.zeros(2**16, 64)), {}, "should have lora_A"),
        (change(FIRST, torch.full((RANK, 64), torch.nan)), {}, "finite"),
        (change(FIRST, torch.zeros(RANK, 64, dtype=torch.int32)), {}, "finite"),
        (change(FIRST.replace("layers.0", "layers.7"), torch.zeros(RANK, 64)), {}, "no such matrix"),
        (change(FIRST.replace("q_proj", "../../etc"), torch.zeros(1)), {}, "no adapter of a matrix"),
        (change("base_model.model.lm_head.lora_A.weight", torch.zeros(1)), {}, "no adapter of a matrix"),
        (lambda tensors: tensors.pop(FIRST), {}, "should have lora_A"),
        (dict.clear, {}, "has no tensors"),
        (len, {"r": 10**9}, "r = 1000000000"),
        (len, {"r": True}, "r = True"),
        (len, {"r": 8}, "should have lora_A"),
        (len, {"lora_alpha": float("nan")}, "lora_alpha = nan"),
        (len, {"lora_alpha": 10**400}, "not an adapter's configuration"),
        (len, {"use_dora": True}, "use_dora = True is not supported"),
        (len, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (len, {"peft_type": "IA3"}, "peft_type 'IA3'"),
    ],
)
def test_hostile_adapters_are_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], settings: dict[str, Any], message: str
) -> None:
    tensors, _ = adapter(1, reader())
    spoil(tensors)
    with engine_over() as engine:
        with pytest.raises(InputError) as error:
            engine.load_adapter("bad", written(tmp_path / "bad", tensors, **settings))
        assert message in str(error.value) and "\n" not in str(error.value) and not engine.adapters


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"[" * 100_000, b"[1]", b"{}", b'{"peft_type": "LORA", "r": "8"}'])
def test_files_that_are_no_adapter_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = written(tmp_path / "bad", adapter(1, reader())[0])
    with engine_over() as engine:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).write_bytes(content)
            with pytest.raises(InputError, match=name):
                engine.load_adapter("bad", folder)
            written(folder, adapter(1, reader())[0])
        (folder / "adapter_model.safetensors").unlink()
        with pytest.raises(InputError, match="No such file"):
            engine.load_adapter("bad", folder)
