"""The inference engine against transformers and against what the memory can give, on one thread, in CPU time: `make bench-serve`.

A Llama of 110 million parameters with random weights, the same in both. Contenders take turns in every round, and the best round of each
counts, because other work on the machine takes memory bandwidth away at times. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from openbook.engine import Engine, Event, Finished, Job, QueueFull, Token
from openbook.model.config import TransformerConfig
from openbook.model.sample import Sampling
from openbook.model.transformer import Transformer

CONTEXT, PROMPT, NEW = 2048, 32, 64
SHAPE = TransformerConfig(
    32000, CONTEXT, layers=12, width=768, heads=12, kv_heads=12, head_width=64, mlp_width=2048, norm_eps=1e-5, tied_head=True
)


def random_model(config: TransformerConfig = SHAPE) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1) if "norm" in name else parameter.normal_(0, 0.02 if "embedding" in name else 0.04)
    return model.eval()


def as_transformers(model: Transformer) -> Any:
    """The same weights in transformers' own model."""
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
    return theirs


def cpu_seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def read_bandwidth() -> float:
    """Bytes a second that one core reads at most: the best of several passes over more memory than any cache holds."""
    numbers = torch.ones(2**26)
    return 4 * len(numbers) / min(cpu_seconds(numbers.sum) for _ in range(7))


def greedy(prompt: Sequence[int], tokens: int = NEW) -> Job:
    return Job(prompt, Sampling(tokens, temperature=0), None)


def prompts(count: int, length: int = PROMPT, seed: int = 1) -> list[list[int]]:
    return torch.randint(0, SHAPE.vocab_size, (count, length), generator=torch.Generator().manual_seed(seed)).tolist()


def ours(engine: Engine, texts: list[list[int]]) -> list[list[int]]:
    return [[token.id for token in answer.tokens] for answer in engine.run([greedy(text) for text in texts])]


def of_transformers(theirs: Any, texts: list[list[int]]) -> list[list[int]]:
    ids = torch.tensor(texts)
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, PROMPT:].tolist()


def decoding(engines: dict[str, Engine], theirs: Any, rounds: int, batch: int) -> dict[str, float]:
    """Tokens per CPU-second, prompts of 32 tokens and 64 new ones, with a new prompt in every round so that no cache helps; and in how many
    texts of all the engine in fp32 draws what transformers draws."""
    contenders = {name: partial(ours, engine) for name, engine in engines.items()} | {"transformers": partial(of_transformers, theirs)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    same = 0
    for turn in range(rounds + 1):  # the first warms up
        texts = prompts(batch, seed=100 * batch + turn)
        drawn = {}
        for name, contender in contenders.items():
            begin = time.process_time()
            drawn[name] = contender(texts)
            seconds[name].append(time.process_time() - begin)
        same += sum(one == other for one, other in zip(drawn["fp32"], drawn["transformers"], strict=True))
    speeds = {name: batch * NEW / min(values[1:]) for name, values in seconds.items()}
    return speeds | {"same": same / (batch * (rounds + 1))}


def overhead(engine: Engine, batch: int) -> float:
    """The share of an engine's CPU time outside the model's step, while it draws."""
    inside, runner = [0.0], engine.runner
    kept = runner.forward, runner.logits

    def timed(action: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
        def call(value: Any) -> torch.Tensor:
            begin = time.thread_time()
            result = action(value)
            inside[0] += time.thread_time() - begin
            return result

        return call

    runner.forward, runner.logits = timed(kept[0]), timed(kept[1])  # type: ignore[method-assign]
    whole = cpu_seconds(lambda: engine.run([greedy(text, 64) for text in prompts(batch, 1, seed=9)]))
    runner.forward, runner.logits = kept  # type: ignore[method-assign]
    return 1 - inside[0] / whole


def first_token(engine: Engine) -> tuple[float, float]:
    """CPU seconds to the first token after a prompt of 1,000 tokens that others share, and an own end: without the cache, and with."""
    shared, ends = prompts(1, 1000, seed=5)[0], prompts(4, 8, seed=6)
    cold, *hot = (cpu_seconds(lambda end=end: engine.run([greedy([*shared, *end], 1)])) for end in ends)  # type: ignore[misc]
    return cold, statistics.median(hot)


def load(model: Transformer, precision: Any, clients: int = 32) -> dict[str, float]:
    """Streams that come one after another, each with a prompt of 48 tokens and 48 new ones; then one more request than the queue takes."""
    engine = Engine(model, slots=clients, queue=clients, precision=precision)
    times: list[list[float]] = [[] for _ in range(clients)]
    done = threading.Semaphore(0)

    def deliver(index: int, event: Event) -> None:
        if isinstance(event, Token):
            times[index].append(time.perf_counter())
        elif isinstance(event, Finished):
            done.release()

    for index, text in enumerate(prompts(clients, 48, seed=7)):
        engine.submit([greedy(text, 48)], lambda _, event, index=index: deliver(index, event))  # type: ignore[misc]
        time.sleep(0.1)
    with suppress(QueueFull):
        while True:
            begin = time.perf_counter()
            engine.submit([greedy([1] * 48)], lambda *_: None)
    refused = time.perf_counter() - begin
    for _ in range(clients):
        done.acquire()
    engine.close()
    gaps = sorted(after - before for stream in times for before, after in itertools.pairwise(stream))
    return {
        "streams finished": sum(len(stream) == 48 for stream in times),
        "median between tokens (s)": statistics.median(gaps),
        "p95 / median": gaps[int(0.95 * len(gaps))] / statistics.median(gaps),
        "longest / median": gaps[-1] / statistics.median(gaps),
        "overload refused after (s)": refused,
    }


def measured(rounds: int) -> Iterator[tuple[str, float | int | str]]:
    model = random_model()
    theirs = as_transformers(model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    engines = {precision: Engine(model, precision=precision) for precision in ("fp32", "int8")}
    yield "parameters", weights
    before, alone = read_bandwidth(), {}
    for batch in (1, 8):
        speeds = decoding(engines, theirs, rounds, batch)
        yield f"batch {batch}: share of texts that are transformers'", speeds.pop("same")
        for name, value in speeds.items():
            yield f"batch {batch}, {name} (tokens/s)", value
            if name != "transformers":
                yield f"batch {batch}, {name}: times transformers", value / speeds["transformers"]
        alone = alone or speeds
    most = max(before, read_bandwidth())
    yield "read bandwidth (GB/s)", most / 1e9
    for name, size in (("fp32", 4), ("int8", 1)):
        yield f"batch 1, {name}: share of the bandwidth limit", alone[name] * size * weights / most
    for name, engine in engines.items():
        for batch in (1, 8):
            yield f"batch {batch}, {name}: engine's own share of a step", overhead(engine, batch)
        cold, hot = first_token(engine)
        yield f"{name}: first token after 1,000, cold (s)", cold
        yield f"{name}: first token, shared prompt cached: times faster", cold / hot
        engine.close()
    for name, value in load(model, "int8").items():
        yield f"32 streams in int8: {name}", value
    if importlib.util.find_spec("llama_cpp") is None:
        yield "llama.cpp", "not compared: llama-cpp-python is not installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    result = {}
    for name, value in measured(rounds):
        result[name] = value
        print(f"{name:<58} {value:.3g}" if isinstance(value, float) else f"{name:<58} {value}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
