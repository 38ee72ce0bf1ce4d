"""Requests that nobody should send, by the thousand, to a real server: none may be answered by a 5xx or not at all, memory may not grow,
and afterwards the server says exactly what it said before.

    python benchmarks/hostile.py --requests 10000

Bodies are made from good ones by a seeded generator: values of wrong types, extreme numbers, odd characters, nesting, schemas and grammars
that explode, bytes flipped, bodies cut, wrong methods and paths.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

MODEL = "tiny"
SAY: list[Any] = [{"role": "user", "content": "Hello"}]
FREE = {"type": "text"}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "model": MODEL,
        "prompt": "a",
        "max_tokens": 2,
        "suffix": "",
        "logit_bias": {},
        "response_format": {"type": "text"},
    },
    "/v1/chat/completions": {"model": MODEL, "messages": SAY, "max_tokens": 2, "tools": [], "response_format": {"type": "text"}},
    "/v1/responses": {"model": MODEL, "input": "a", "max_output_tokens": 2, "tools": [], "text": {"format": {"type": "text"}}},
    "/v1/embeddings": {"model": MODEL, "input": "a", "encoding_format": "float", "dimensions": 3},
    "/v1/batches": {"input_file_id": "file-0", "endpoint": "/v1/completions", "completion_window": "24h"},
    "/tokenize": {"content": "a"},
    "/detokenize": {"tokens": [1]},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "n_predict": 2, "input_extra": []},
}
FIELDS = sorted(
    {name for body in GOOD.values() for name in body}
    | {
        "temperature",
        "top_p",
        "n",
        "best_of",
        "seed",
        "stop",
        "stream",
        "echo",
        "logprobs",
        "top_logprobs",
        "tool_choice",
        "stream_options",
    }
    | {"presence_penalty", "parallel_tool_calls", "messages", "instructions", "include", "metadata", "response_fields", "with_pieces"}
)


def deep(levels: int, kind: str) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value] if kind == "list" else {"properties": {"a": value}, "type": "object"}
    return value


SCHEMAS: list[Any] = [
    {"$ref": "#"},
    {"$ref": "http://127.0.0.1:1/"},
    {"$ref": "file:///etc/passwd"},
    {"type": "string", "pattern": "(a+)+(b+)+$"},
    {"type": "string", "pattern": "(a{1,500}){1,500}"},
    {"type": "string", "minLength": 10**9},
    {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9}},
    {"enum": [f"value {index}" for index in range(2000)]},
    {"anyOf": [{"type": "object", "properties": {f"p{index}": {"type": "number"}}} for index in range(300)]},
    {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
    {"type": "number", "multipleOf": 1e-300},
    {"not": {"not": {}}},
    deep(60, "schema"),
]
GRAMMARS = [
    "start: start start | start",
    "start: a\na: b\nb: a",
    "start: /(.*)*x/",
    'start: "a"*',
    "start: %json {",
    "@",
    "start: " + "(" * 500,
]
VALUES: list[Any] = [
    *[None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, -0.0, 1e-320, 1e308],
    *["", "a", " " * 3000, "\x00", "\u202e\ufeff", "😀" * 500, "{{7*7}}", "{% for i in range(10**9) %}a{% endfor %}", "a" * 20_000],
    *["<|im_end|><|im_start|>system", "../../etc/passwd"],
    *[[], [[]], [None], [1, "a"], [10**9], [-1], ["a"] * 300, [[1]] * 300],
    *[{}, {"a": None}, {"type": None}, {"\x00": 1}, {"include_usage": "yes"}, {"5": 100}, {"-1": 1}, {"99999999999": 1}, {"٣": 1}],
    *[deep(90, "list"), deep(150, "list"), deep(40, "schema")],
    *[[{"role": "user"}], [{"role": "tool", "content": "a", "tool_call_id": "\x00"}], [{"role": "user", "content": [{}]}]],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 5000}}]}],
    *[[{"type": "function_call_output"}], [{"type": "message", "role": "user", "content": [{"type": "input_text"}]}]],
    *[{"type": "function", "function": {"name": "f"}}, [{"type": "function", "function": {"name": "f" * 65}}]],
    [{"text": "a", "filename": "\n"}],
]


def request(draw: random.Random) -> tuple[str, str, bytes]:
    """(method, path, body)."""
    path = draw.choice(list(GOOD))
    body = json.loads(json.dumps(GOOD[path]))
    for _ in range(draw.choice([1, 1, 2, 4])):
        body[draw.choice(FIELDS if draw.random() < 0.5 else list(body))] = value(draw)
    content = json.dumps(body, ensure_ascii=draw.random() < 0.5).encode("utf-8", errors="surrogatepass")
    chance = draw.random()
    if chance < 0.05:
        content = content[: draw.randrange(len(content) + 1)]
    elif chance < 0.12:
        flipped = bytearray(content)
        for _ in range(draw.randint(1, 5)):
            flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        content = bytes(flipped)
    elif chance < 0.14:
        content = draw.choice([b"[" * 100_000, b'{"a":' * 50_000, b"\xff" * 100, b"null", b'"a"', b"9" * 5000, b'{"a":1e999}', b"NaN"])
    elif chance < 0.16:
        path += draw.choice(["/", "/..", "%2f..", "%00", "?limit=x", "//", "/" + draw.choice(string.printable).encode().hex()])
    return draw.choice(["POST"] * 30 + ["GET", "PUT", "DELETE"]), path, content


def value(draw: random.Random) -> Any:
    chance = draw.random()
    if chance < 0.15:
        return {"type": "json_schema", "json_schema": {"name": "a", "schema": draw.choice(SCHEMAS)}}
    if chance < 0.25:
        return {"type": "grammar", "grammar": draw.choice(GRAMMARS)}
    if chance < 0.3:
        return [{"type": "function", "function": {"name": "f", "parameters": draw.choice(SCHEMAS)}}]
    if chance < 0.35:
        return "".join(chr(draw.randrange(0xD800)) for _ in range(draw.randrange(30)))
    return draw.choice(VALUES)


def bombard(url: str, requests: int, seed: int) -> Counter[int]:
    """How often each status was answered. Raises AssertionError with the request that was answered by a 5xx, or not."""
    draw, statuses = random.Random(seed), Counter[int]()
    with httpx.Client(timeout=30) as client:
        for number in range(requests):
            method, path, body = request(draw)
            try:
                answer = client.request(method, url + path, content=body)
            except httpx.HTTPError as error:
                raise AssertionError(f"request {number} {method} {path} {body[:2000]!r}: {error!r}") from error
            statuses[answer.status_code] += 1
            fine = answer.status_code < 500 or answer.status_code == 501  # files, without a folder for them
            assert fine, f"request {number} {method} {path} {body[:2000]!r}: {answer.status_code} {answer.text[:500]}"
            if answer.status_code >= 400 and method == "POST":
                assert answer.json()["error"]["message"], (method, path, body[:2000])
    return statuses


def canary(url: str) -> Any:
    """What the server says to a few good requests."""
    asked = {"model": MODEL, "prompt": ["def f(", "naïve ✓"], "max_tokens": 20, "seed": 1, "logprobs": 2, "echo": True}
    return httpx.post(f"{url}/v1/completions", json=asked, timeout=30).json()["choices"]


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from openbook.serve import Options, serve
from serve.serving import save_chatty
folder = Path(sys.argv[1])
save_chatty(folder)
serve({"tiny": folder}, Options(port=0, threads=1, data=folder / "data"), lambda url: print(url, flush=True))
"""


def memory(process: int) -> float:
    """MiB that a process has in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, "-c", PROGRAM, folder], stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            before, began, statuses, sizes = canary(url), time.monotonic(), Counter[int](), []
            parts = 10
            for part in range(parts):
                statuses += bombard(url, arguments.requests // parts, arguments.seed + part)
                sizes.append(round(memory(server.pid), 1))
                print(f"{(part + 1) * arguments.requests // parts} requests, {sizes[-1]} MiB", flush=True)
            exact = canary(url) == before
            said = {
                "requests": sum(statuses.values()),
                "statuses": dict(sorted(statuses.items())),
                "memory_mib": sizes,
                "exact_afterwards": exact,
            }
            print(json.dumps(said | {"seconds": round(time.monotonic() - began, 1)}))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
