"""A window against the full mask on a CPU: time and memory of attention alone, forward, and forward with backward.

    python benchmarks/windows.py [--time 8192] [--heads 4] [--head-width 64] [--json]

The full mask is what a window would cost without blocks: torch's attention with the window as an explicit mask over all pairs. "causal" is
torch's attention of everything before, with no mask and no window. Memory is the peak of the process above where it stood with the inputs
made, each in a process of its own. One thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F

from openbook.model.attention import attend, sees
from openbook.model.config import Window

WINDOWS = {"256": Window(256), "1024": Window(1024), "128, stride 128": Window(128, 128)}
REPEATS = 2
WAYS = ("blocks", "mask", "causal")


def measured(window: Window, way: str, backward: bool, shape: tuple[int, ...], answers: Connection) -> None:
    """Sends (seconds, bytes): the best of a few times, and the peak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts = [torch.randn(shape, requires_grad=backward) for _ in range(3)]
    small = [torch.randn(1, 1, 2048, shape[3], requires_grad=backward) for _ in range(3)]
    work(window, way, small)  # libraries take their memory before the count begins
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(REPEATS):
        begin = time.process_time()
        work(window, way, parts)
        times.append(time.process_time() - begin)
    answers.send((min(times), 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


def work(window: Window, way: str, parts: list[torch.Tensor]) -> None:
    if way == "blocks":
        output = attend(*parts, window)
    elif way == "mask":
        keys = torch.arange(parts[0].shape[2])
        mask = torch.cat([sees(window, rows[:, None] - keys) for rows in keys.split(64)])
        output = F.scaled_dot_product_attention(*parts, attn_mask=mask)
    else:
        output = F.scaled_dot_product_attention(*parts, is_causal=True)
    if output.requires_grad:
        output.sum().backward()


def apart(*arguments: Any) -> tuple[float, int]:
    context = multiprocessing.get_context("spawn")
    answers, sender = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(*arguments, sender))
    process.start()
    sender.close()
    answer: tuple[float, int] = answers.recv()
    process.join()
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=int, default=8192)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-width", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shape = (1, options.heads, options.time, options.head_width)
    results: dict[str, Any] = {}
    for name, window in WINDOWS.items():
        for backward in (False, True):
            found = {way: apart(window, way, backward, shape) for way in WAYS}
            ours = found["blocks"]
            what = f"{name}, {'forward and backward' if backward else 'forward'}"
            results[what] = {
                way: {"seconds": seconds, "bytes": size, "times_faster": seconds / ours[0], "times_less_memory": size / max(1, ours[1])}
                for way, (seconds, size) in found.items()
            }
            if not options.json:
                print(f"window {what}: {ours[0]:.3f} s, {ours[1] / 1e6:.0f} MB")
                for way, figures in list(results[what].items())[1:]:
                    ratios = f"{figures['times_faster']:.1f} times as long, {figures['times_less_memory']:.1f} times the memory"
                    print(f"    {way}: {figures['seconds']:.3f} s, {figures['bytes'] / 1e6:.0f} MB: {ratios}", flush=True)
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
