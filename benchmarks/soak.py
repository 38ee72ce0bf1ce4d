"""A server under full load for minutes: its memory must not grow, and it must still be exact afterwards.

    python benchmarks/soak.py [--minutes 10] [--clients 16] [--weights FOLDER] [--json]

Starts `openbook serve` with a store and a key, and drives it with clients of every kind at once: whole answers, streams, chats, clients
that leave in the middle, refused and malformed requests. Reads the server's resident memory twice a second. Growth is measured after a
first quarter that warms up: the median of the last quarter minus the median of the second, which must stay under --allow megabytes.
Ends with status 1 if it does not hold, if a greedy answer has changed, or if a finished request is missing from the usage. Without
--weights, the model has 0.1 million random weights: the server's own work is then most of what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from openbook.accounts.keys import Grants, make
from openbook.accounts.store import Store
from openbook.accounts.usage import summary

PROGRAM = """
import sys
from pathlib import Path
from openbook.serve import Options, serve
serve({"m": Path(sys.argv[1])}, Options(port=0, threads=1, store=Path(sys.argv[2])), lambda url: print(url, flush=True))
"""
GREEDY = {"model": "m", "prompt": "def f(", "max_tokens": 12, "temperature": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--weights", type=Path, help="a folder of weights with its tokenizer")
    parser.add_argument("--allow", type=float, default=8.0, help="megabytes that the server may grow by")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = soak(options.weights or tiny(Path(name)), Path(name), options)
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{key:20} {value}" for key, value in found.items()))
    good = found["exact"] and found["all_counted"] and found["growth_megabytes"] < options.allow
    sys.exit(0 if good else 1)


def tiny(folder: Path) -> Path:
    from openbook.model.exchange import save_weights
    from openbook.model.initialise import initialise
    from openbook.model.transformer import Transformer, TransformerConfig
    from openbook.recipe import TokenizerSection
    from openbook.tokens.vocabulary import learn

    tokenizer = learn([Path(__file__).read_text()], TokenizerSection(vocab_size=400))
    config = TransformerConfig(
        tokenizer.vocab_size, 256, layers=2, width=64, heads=4, kv_heads=2, head_width=16, mlp_width=128, query_key_norm=True
    )
    model = Transformer(config)
    initialise(model, seed=1)
    tokenizer.save(folder / "tokenizer.json")
    save_weights(model.eval(), folder, tokenizer.end_of_document)
    return folder


def soak(weights: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    store = Store(folder / "store.sqlite", create=True)
    key, text = make("soak", Grants(tokens_per_minute=10**9), admin=False)
    store.add(key)
    command = [sys.executable, "-c", PROGRAM, str(weights), str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            first = ask(url, text)
            done, over = Counter[str](), threading.Event()
            clients = [threading.Thread(target=drive, args=(url, text, number, done, over)) for number in range(options.clients)]
            for client in clients:
                client.start()
            sizes = watch(server.pid, options.minutes * 60, done)
            over.set()
            for client in clients:
                client.join()
            exact = ask(url, text) == first
        finally:
            server.terminate()
    quarter = len(sizes) // 4
    second, last = (statistics.median(part) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    counted = summary(store, ["key"])[0]["requests"]
    return {
        "minutes": options.minutes,
        "clients": options.clients,
        "finished": dict(done),
        "requests_per_second": round(sum(done.values()) / options.minutes / 60, 1),
        "megabytes_at_first": round(sizes[0], 1),
        "megabytes_second_quarter": round(second, 1),
        "megabytes_last_quarter": round(last, 1),
        "growth_megabytes": round(last - second, 2),
        "exact": exact,
        "all_counted": counted >= done["whole"] + done["stream"] + done["chat"] + 2,
        "usage_rows": counted,
    }


def ask(url: str, text: str) -> str:
    answer = httpx.post(f"{url}/v1/completions", json=GREEDY, headers={"Authorization": f"Bearer {text}"}, timeout=60)
    return str(answer.raise_for_status().json()["choices"][0]["text"])


def watch(process: int, seconds: float, done: Counter[str]) -> list[float]:
    """Resident megabytes, twice a second."""
    sizes, begin, told = [], time.monotonic(), 0.0
    while (passed := time.monotonic() - begin) < seconds:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        sizes.append(pages * 4096 / 1e6)
        if passed - told >= 30:
            told = passed
            print(f"{passed:5.0f} s  {sizes[-1]:.1f} MB  {dict(done)}", file=sys.stderr, flush=True)
        time.sleep(0.5)
    return sizes


def drive(url: str, text: str, number: int, done: Counter[str], over: threading.Event) -> None:
    """One client, of the kind that its number says; a full queue is waited for."""
    kinds = ("whole", "stream", "chat", "leaver", "malformed", "stranger", "stream", "whole")
    kind = kinds[number % len(kinds)]
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {text}"}, timeout=120) as client:
        while not over.is_set():
            with suppress(httpx.HTTPError):
                status = once(client, kind)
                done[kind if status == 200 or kind in ("malformed", "stranger") else f"{kind} {status}"] += 1
                if status != 200:
                    over.wait(0.2)


def once(client: httpx.Client, kind: str) -> int:
    match kind:
        case "whole":
            return client.post("/v1/completions", json=GREEDY | {"temperature": 1, "logprobs": 3, "n": 2}).status_code
        case "stream":
            return client.post("/v1/completions", json=GREEDY | {"stream": True, "max_tokens": 24}).status_code
        case "chat":
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
            return client.post("/v1/chat/completions", json=body).status_code
        case "leaver":
            with client.stream("POST", "/v1/completions", json=GREEDY | {"stream": True, "max_tokens": 200}) as answer:
                next(answer.iter_bytes(), None)
            return 200
        case "malformed":
            return client.post("/v1/completions", content=b'{"model": "m", "prompt": [' + b"[" * 500).status_code
        case _:
            return client.post("/v1/completions", json=GREEDY, headers={"Authorization": "Bearer ob-000000000000-x"}).status_code


if __name__ == "__main__":
    main()
