"""The inference engine against transformers, llama.cpp and what the memory can give, on one thread, in CPU time: `make bench-serve`.

A Llama of 110 million parameters with random weights, the same in all. Contenders take turns in every round, and the best round of each
counts, because other work on the machine takes memory bandwidth away at times. The last line is JSON. `--device cuda` compares batches of
1 and 64 with transformers and the memory, by the clock.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from openbook.engine import Engine, Event, Finished, Job, QueueFull, Token
from openbook.engine.pages import lay_in_large_pages
from openbook.model.config import TransformerConfig
from openbook.model.sample import Sampling
from openbook.model.transformer import Transformer
from serve_peers import KINDS, Generate, has_llama_cpp, of_llama_cpp, of_transformers

CONTEXT, PROMPT, NEW = 2048, 32, 64
SHAPE = TransformerConfig(
    32000, CONTEXT, layers=12, width=768, heads=12, kv_heads=12, head_width=64, mlp_width=2048, norm_eps=1e-5, tied_head=True
)


TARGETS = {
    "batch 1, fp32: times transformers": 1.35,
    "batch 8, fp32: times transformers": 2.0,
    "batch 8, int8: times transformers": 4.0,
    "batch 1, fp32: times llama.cpp f32": 0.95,
    "batch 1, int8: times llama.cpp q8_0": 0.75,
    "batch 8, int8: times llama.cpp q8_0": 1.2,
    "fp32: first token, shared prompt cached: times faster": 10.0,
    "int8: first token, shared prompt cached: times faster": 10.0,
}
"""At least."""
LIMITS = {
    **{f"batch {batch}, {name}: engine's own share of a step": 0.05 for batch in (1, 8) for name in ("fp32", "int8")},
    "32 streams in int8: p95 / median": 2.5,
    "32 streams in int8: overload refused after (s)": 0.05,
}
"""At most."""


def random_model(config: TransformerConfig = SHAPE) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1) if "norm" in name else parameter.normal_(0, 0.02 if "embedding" in name else 0.04)
    return model.eval()


def cpu_seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def read_bandwidth() -> float:
    """Bytes a second that one core reads at most: the best of several passes over more memory than any cache holds, in large pages."""
    numbers = torch.ones(2**26)
    lay_in_large_pages([numbers])
    return 4 * len(numbers) / min(cpu_seconds(numbers.sum) for _ in range(15))


def greedy(prompt: Sequence[int], tokens: int = NEW) -> Job:
    return Job(prompt, Sampling(tokens, temperature=0), None)


def prompts(count: int, length: int = PROMPT, seed: int = 1) -> list[list[int]]:
    return torch.randint(0, SHAPE.vocab_size, (count, length), generator=torch.Generator().manual_seed(seed)).tolist()


def ours(engine: Engine) -> Generate:
    def generate(texts: list[list[int]], new: int) -> list[list[int]]:
        return [[token.id for token in answer.tokens] for answer in engine.run([greedy(text, new) for text in texts])]

    return generate


def decoding(
    contenders: dict[str, Generate], rounds: int, batch: int, clock: Callable[[], float] = time.process_time
) -> tuple[dict[str, float], float]:
    """Tokens a second of the clock, prompts of 32 tokens and 64 new ones, with a new prompt in every round so that no cache helps; and the
    share of texts in which the engine's first precision draws what transformers draws."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    same = 0
    for turn in range(rounds + 1):  # the first warms up
        texts = prompts(batch, seed=100 * batch + turn)
        drawn = []
        for name, contender in contenders.items():
            begin = clock()
            answers = contender(texts, NEW)
            seconds[name].append(clock() - begin)
            drawn += [answers] if name in (next(iter(contenders)), "transformers") else []
        same += sum(one == other for one, other in zip(*drawn, strict=True))
    return {name: batch * NEW / min(values[1:]) for name, values in seconds.items()}, same / (batch * (rounds + 1))


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


def compared(contenders: dict[str, Generate], rounds: int, batch: int) -> Iterator[tuple[str, float]]:
    speeds, same = decoding(contenders, rounds, batch)
    yield f"batch {batch}: share of texts that are transformers'", same
    for name, value in speeds.items():
        yield f"batch {batch}, {name} (tokens/s)", value
    for name, kind in zip(("fp32", "int8"), KINDS, strict=True):
        for peer in ("transformers", f"llama.cpp {kind}"):
            if peer in speeds:
                yield f"batch {batch}, {name}: times {peer}", speeds[name] / speeds[peer]


def measured(rounds: int) -> Iterator[tuple[str, float | int | str]]:
    model = random_model()
    weights = sum(parameter.numel() for parameter in model.parameters())
    engines = {precision: Engine(model, precision=precision) for precision in ("fp32", "int8")}
    contenders = {name: ours(engine) for name, engine in engines.items()} | {"transformers": of_transformers(model)}
    yield "parameters", weights
    before, found = read_bandwidth(), {}
    with tempfile.TemporaryDirectory() as folder:
        if has_llama_cpp():
            contenders |= {f"llama.cpp {kind}": peer for kind, peer in of_llama_cpp(model, Path(folder), 8).items()}
        else:
            yield "llama.cpp", "not compared: xllamacpp and gguf are not both installed"
        for batch in (1, 8):
            for name, value in compared(contenders, rounds, batch):
                found[name] = value
                yield name, value
    most = max(before, read_bandwidth())
    yield "read bandwidth (GB/s)", most / 1e9
    for name, size in (("fp32", 4), ("int8", 1), ("llama.cpp f32", 4), ("llama.cpp q8_0", 34 / 32)):
        if (key := f"batch 1, {name} (tokens/s)") in found:
            yield f"batch 1, {name}: share of the bandwidth limit", found[key] * size * weights / most
    for name, engine in engines.items():
        for batch in (1, 8):
            yield f"batch {batch}, {name}: engine's own share of a step", overhead(engine, batch)
        cold, hot = first_token(engine)
        yield f"{name}: first token after 1,000, cold (s)", cold
        yield f"{name}: first token, shared prompt cached: times faster", cold / hot
        engine.close()
    for name, value in load(model, "int8").items():
        yield f"32 streams in int8: {name}", value


def measured_on_a_gpu(rounds: int) -> Iterator[tuple[str, float | int | str]]:
    """By the clock, everybody in bf16, batches of 1 and 64."""
    model = random_model().cuda()
    weights = sum(parameter.numel() for parameter in model.parameters())
    engine = Engine(model, slots=64, precision="bf16")
    contenders = {"bf16": ours(engine), "transformers": of_transformers(model, torch.bfloat16)}
    numbers = torch.ones(2**30, device="cuda")

    def read() -> float:
        begin = time.perf_counter()
        numbers.sum().item()
        return time.perf_counter() - begin

    most = 4 * len(numbers) / min(read() for _ in range(7))
    yield "read bandwidth (GB/s)", most / 1e9
    for batch in (1, 64):
        speeds, _ = decoding(contenders, rounds, batch, time.perf_counter)
        for name, value in speeds.items():
            yield f"batch {batch}, {name} (tokens/s)", value
            yield f"batch {batch}, {name}: share of the bandwidth limit of the weights", value / batch * 2 * weights / most
        yield f"batch {batch}, bf16: times transformers", speeds["bf16"] / speeds["transformers"]
    engine.close()


def told(name: str, value: float | int | str) -> str:
    """A line of the table, with the aim and whether it is met, if there is one."""
    line = f"{name:<62} {f'{value:.3g}' if isinstance(value, float) else value:>8}"
    for aims, sign in ((TARGETS, 1), (LIMITS, -1)):
        if name in aims and not isinstance(value, str):
            line += f"   aim: {'≥' if sign > 0 else '≤'} {aims[name]}, {'met' if sign * value >= sign * aims[name] else 'MISSED'}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for name, value in (measured if options.device == "cpu" else measured_on_a_gpu)(options.rounds):
        result[name] = value
        print(told(name, value), flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
