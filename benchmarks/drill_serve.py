"""Every documented way to use a server, walked on a run and on imported models of four families: a row for each step, and a verdict.

    OPENBOOK_DATA=DATA python benchmarks/drill_serve.py [--run runs/pocket] [--only gpt2,opt,gpt-neo,llama] [--json]

The models are tiny, with random weights; `transformers` writes them, with tokenizers from $OPENBOOK_DATA/tokenizer. Each is imported by
`openbook import` and served by `openbook serve`, in processes of their own, with keys, files and a run's own settings; then come the
commands and clients of README.md and docs/serving.md. What a server says is compared with `transformers` where both can say it. Exit
status 1 if a step fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

import drill_clients
from drill_clients import Site

FAMILIES = ("gpt2", "opt", "gpt-neo", "llama")
SMALL = {"max_position_embeddings": 256, "hidden_size": 64}


@dataclass(frozen=True)
class Row:
    model: str
    step: str
    error: str
    seconds: float


def cli(*arguments: object, key: str | None = None, text: str | None = None) -> str:
    """A command's standard output. Raises RuntimeError with what it complained of."""
    environment = os.environ | ({"OPENBOOK_API_KEY": key} if key else {})
    command = [sys.executable, "-m", "openbook.cli", *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, env=environment)
    if done.returncode:
        raise RuntimeError(f"openbook {' '.join(map(str, arguments))}: status {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def write_model(family: str, folder: Path, tokenizers: Path) -> None:
    """A Hugging Face folder as the family's makers publish theirs."""
    torch.manual_seed(1)
    files = tokenizers / "gpt2"
    settings = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    if family == "gpt2":
        config = transformers.GPT2Config(n_positions=256, n_embd=64, n_layer=2, n_head=4)
        shutil.copy(files / "tokenizer.json", folder)
    elif family == "opt":
        config = transformers.OPTConfig(**SMALL, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128, word_embed_proj_dim=64)
        shutil.copy(tokenizers / "opt" / "gpt2-vocab.json", folder / "vocab.json")
        shutil.copy(files / "vocab.bpe", folder / "merges.txt")
        settings = {"bos_token": "</s>", "eos_token": "</s>", "add_bos_token": True}
    elif family == "gpt-neo":
        layers = [[["global", "local"], 1]]
        config = transformers.GPTNeoConfig(**SMALL, num_layers=2, num_heads=4, attention_types=layers, window_size=32)
        shutil.copy(files / "encoder.json", folder / "vocab.json")
        shutil.copy(files / "vocab.bpe", folder / "merges.txt")
    else:
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
        config = transformers.LlamaConfig(**SMALL, **sizes, vocab_size=50304, bos_token_id=0, eos_token_id=0)
        shutil.copy(tokenizers / "gpt_neox_20b" / "20B_tokenizer.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@contextmanager
def server(run: Path, folder: Path, name: str) -> Iterator[Site]:
    """`openbook serve` with a store and files, and an admin's key to it."""
    store = folder / "store.sqlite"
    key = json.loads(cli("keys", "create", store, "ann", "--admin", "--json"))["key"]
    command = [sys.executable, "-m", "openbook.cli", "serve", run, "--name", name, "--store", store, "--data", folder / "data"]
    with subprocess.Popen([*map(str, command), "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if " at http" not in said:
                raise RuntimeError(f"openbook serve {run}: did not say where it listens: {said!r}")
            url = said.split(" at ")[1].split("/v1")[0]
            yield Site(url, key, name, run, store, AutoModelForCausalLM.from_pretrained(run / "weights").eval())
        finally:
            process.terminate()
    if process.returncode not in (0, -signal.SIGTERM):  # uvicorn ends in good order, then by the signal that it got
        raise RuntimeError(f"openbook serve {run}: ended with status {process.returncode} when it was told to stop")


def by_alias(site: Site) -> None:
    """aliases move while the server runs"""
    cli("alias", "set", site.store, f"prod={site.name}:1")
    answer = site.client.completions.create(model="prod", prompt="To", max_tokens=2)
    assert answer.model == site.name, answer.model
    said = json.loads(cli("chat", site.url, "--model", "prod", "--max-tokens", 3, "--json", key=site.key, text="hello\n"))
    assert [message["role"] for message in said["messages"]] == ["user", "assistant"]


def by_terminal(site: Site) -> None:
    """openbook chat and openbook generate say what the server says"""
    options = ["--max-tokens", 6, "--seed", 3, "--system", "Be brief.", "--json"]
    remote, local = (
        json.loads(cli("chat", where, *options, key=site.key, text="hello\nand then?\n"))["messages"] for where in (site.url, site.run)
    )
    assert remote == local and len(local) == 4, (remote, local)
    made = json.loads(cli("generate", site.run, "To be", "--max-tokens", 6, "--temperature", 0, "--json"))["text"]
    assert made == site.client.completions.create(model=site.name, prompt="To be", max_tokens=6, temperature=0).choices[0].text


def usage(site: Site) -> None:
    """openbook usage has counted the key's requests, and a limit holds at once"""
    [row] = [row for row in json.loads(cli("usage", site.store, "--json"))["rows"] if "ann" in str(row["key"])]
    assert row["requests"] >= 10 and row["completion_tokens"] >= 50, row
    assert "ann" in cli("usage", site.store, "--csv")
    bob = json.loads(cli("keys", "create", site.store, "bob", "--requests-per-minute", 1, "--json"))["key"]
    assert [site.status(bob) for _ in range(2)] == [200, 429]
    cli("keys", "revoke", site.store, "bob")
    assert site.status(bob) == 401


STEPS: tuple[Callable[[Site], None], ...] = (*drill_clients.STEPS, by_alias, by_terminal, usage)


def walk(name: str, run: Path, folder: Path) -> Iterator[Row]:
    """A row for each step on one run."""
    begin = time.monotonic()
    try:
        with server(run, folder, name) as site:
            yield Row(name, "openbook serve, with keys and files", "", time.monotonic() - begin)
            for step in STEPS:
                begin = time.monotonic()
                yield Row(name, step.__doc__ or "", failure(step, site), time.monotonic() - begin)
            begin = time.monotonic()
        yield Row(name, "it stops when it is told to", "", time.monotonic() - begin)
    except RuntimeError as error:
        yield Row(name, "openbook serve", str(error), time.monotonic() - begin)


def failure(step: Callable[[Site], None], site: Site) -> str:
    """What went wrong in a step; nothing if all went well."""
    try:
        step(site)
    except Exception as error:  # whatever it is, the drill goes on
        return f"{type(error).__name__}: {error}"[:400]
    return ""


def imported(family: str, folder: Path, tokenizers: Path) -> Path:
    """A run of a tiny model. Raises RuntimeError if it cannot be imported."""
    published, run = folder / family, folder / "run"
    published.mkdir(parents=True)
    write_model(family, published, tokenizers)
    cli("import", published, "--out", run)
    return run


def drill(models: list[str], run: Path | None, tokenizers: Path) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        for family in models:
            begin = time.monotonic()
            try:
                path = imported(family, Path(place) / family, tokenizers)
            except RuntimeError as error:
                yield Row(family, "openbook import", str(error), time.monotonic() - begin)
                continue
            yield Row(family, "openbook import", "", time.monotonic() - begin)
            yield from walk(family, path, path.parent)
        if run:
            (folder := Path(place) / "own").mkdir()
            yield from walk(run.resolve().name, run, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run of one's own, besides")
    parser.add_argument("--only", default=",".join(FAMILIES), help="families")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    options = parser.parse_args()
    data = os.environ.get("OPENBOOK_DATA")
    if data is None:
        sys.exit("drill_serve: OPENBOOK_DATA should name the folder with the data sets, for its tokenizer/")
    if unknown := set(options.only.split(",")) - {*FAMILIES, ""}:
        sys.exit(f"drill_serve: --only {', '.join(sorted(unknown))}: no such family; families are {', '.join(FAMILIES)}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows: list[Row] = []
    for row in drill([name for name in options.only.split(",") if name], options.run, Path(data) / "tokenizer"):
        rows.append(row)
        if not options.json:
            print(f"{'FAILS' if row.error else 'ok':6}{row.model:10}{row.step:104}{row.seconds:6.1f} s", flush=True)
            print(f"      {row.error}\n" if row.error else "", end="", flush=True)
    failed = sum(bool(row.error) for row in rows)
    told: dict[str, Any] = {"rows": [asdict(row) for row in rows], "failed": failed}
    print(json.dumps(told, indent=2) if options.json else f"{len(rows) - failed} of {len(rows)} steps go well")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
