"""`openbook serve`: models over HTTP, of this machine and of engines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.arguments import Json, show
from openbook.cli_stages import weights_of
from openbook.errors import InputError

if TYPE_CHECKING:
    from openbook.serve.server import AdapterOf
    from openbook.serve.settings import EngineSettings

StoreOption = Annotated[Path | None, typer.Option("--store", metavar="FILE", help="Keys, aliases and usage; see openbook keys.")]
Upstreams = Annotated[
    list[str] | None,
    typer.Option("--upstream", metavar="URL[,key=VARIABLE][,kind=KIND]", help="An OpenAI-compatible engine whose models are served, too."),
]
EACH = "; for one model of several, MODEL=VALUE."
Precisions = Annotated[
    list[str] | None, typer.Option("--precision", metavar="[MODEL=]fp32|bf16|int8", help=f"Of the products; fp32 by default{EACH}")
]
Slots = Annotated[list[str] | None, typer.Option("--slots", metavar="[MODEL=]N", help=f"Sequences at once; 8 by default{EACH}")]
Caches = Annotated[
    list[str] | None,
    typer.Option("--cache", metavar="[MODEL=]SIZE", help=f"Memory that keys and values may take, as 500MB or 4GiB{EACH}"),
]
Speculation = Annotated[
    list[str] | None,
    typer.Option("--speculate", metavar="[MODEL=]N", help=f"Propose up to N tokens, at most 7, from what the text has had before{EACH}"),
]
AdapterOptions = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=FOLDER[,of=MODEL]", help="A LoRA adapter in peft's format, asked for as the model NAME."),
]


def serve(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]…", help="Run directories, such as runs/pocket.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="The models' names, in the order of the runs; the directories' by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; the default is reachable from this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    data: Annotated[Path | None, typer.Option(help="A folder that keeps files and batches; without one there are none.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="An origin whose web pages may use the server, as https://example.com.")] = None,
    log: Annotated[str | None, typer.Option(help="A file that gets a line of JSON for each request; - is the standard output.")] = None,
    log_text: Annotated[bool, typer.Option("--log-text", help="Put the requests' text into the log.")] = False,
    store: StoreOption = None,
    upstream: Upstreams = None,
    capabilities: Annotated[Path | None, typer.Option(metavar="FILE", help="What engines elsewhere cannot do.")] = None,
    unguarded: Annotated[
        bool, typer.Option("--open", help="Listen beyond this machine without keys: whoever reaches it may use it.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="A certificate chain, PEM: the server then speaks HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's private key, PEM.")] = None,
    precision: Precisions = None,
    slots: Slots = None,
    cache: Caches = None,
    speculate: Speculation = None,
    adapter: AdapterOptions = None,
    adapters: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Adapters below it may be loaded and unloaded over HTTP, by admin keys.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve models through an OpenAI-compatible API: those of runs, and those of engines elsewhere."""
    begin = time.monotonic()
    from openbook.serve import Options
    from openbook.serve import serve as serve_forever

    models = _named(runs or [], name or [])
    if not models and not upstream:
        raise InputError("serve: needs a RUN, as runs/pocket, or an engine elsewhere with --upstream URL")
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert and --tls-key: one is of no use without the other")
    tls = (tls_cert, tls_key) if tls_cert and tls_key else None
    engines = engines_of(list(models), precision or [], slots or [], cache or [], speculate or [])
    adapted = adapters_of(adapter or [])
    names = [*models, *adapted]

    def ready(url: str) -> None:
        seconds = time.monotonic() - begin
        first = next(iter(models), "MODEL")
        body = json.dumps({"model": first, "prompt": "import"})
        lines = [
            f"{', '.join(names) or 'engines elsewhere'} at {url}/v1, ready after {seconds:.1f} s (Ctrl-C stops it)",
            f"try  curl {url}/v1/completions -d '{body}'",
            f"or open {url}/ in a browser",
        ]
        show({"url": f"{url}/v1", "model": first, "models": names, "seconds": round(seconds, 2)}, "\n".join(lines), as_json)

    options = Options(
        host,
        port,
        threads,
        data,
        tuple(origin or ()),
        log,
        log_text,
        store,
        tuple(upstream or ()),
        capabilities,
        unguarded,
        tls,
        engines=engines,
        adapters=adapted,
        adapter_folder=adapters,
    )
    serve_forever({served: weights_of(run) for served, run in models.items()}, options, ready)


def _named(runs: list[Path], names: list[str]) -> dict[str, Path]:
    """Runs by the names that they are served under."""
    if names and len(names) != len(runs):
        raise InputError(f"--name: {len(names)} names for {len(runs)} runs; each run needs its own, in their order")
    names = names or [run.resolve().name for run in runs]
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise InputError(f"two models are called {twice[0]!r}; give each its own name with --name")
    return dict(zip(names, runs, strict=True))


def engines_of(
    models: list[str], precision: list[str], slots: list[str], cache: list[str], speculate: list[str]
) -> dict[str, EngineSettings]:
    """The settings of each model's engine. Raises InputError for what a flag cannot be."""
    from openbook.engine.linear import require_precision
    from openbook.serve.settings import EngineSettings, parse_size

    said: tuple[tuple[str, list[str], Callable[[str], Any]], ...] = (
        ("precision", precision, require_precision),
        ("slots", slots, partial(_whole, "slots")),
        ("cache", cache, parse_size),
        ("speculate", speculate, partial(_whole, "speculate")),
    )
    settings: dict[str, dict[str, Any]] = {model: {} for model in models}
    for flag, texts, parse in said:
        for model, text in _by_model(flag, texts, models).items():
            settings[model][flag] = parse(text)
    return {model: EngineSettings(**values) for model, values in settings.items()}


def _by_model(flag: str, said: list[str], models: list[str]) -> dict[str, str]:
    """What a flag says for each model: VALUE holds for all of them but those that MODEL=VALUE names."""
    found: dict[str, str] = {}
    for text in sorted(said, key=lambda text: "=" in text):
        model, equals, value = text.rpartition("=")
        if equals and model not in models:
            raise InputError(f"--{flag} {text}: there is no model {model!r}; there are {', '.join(models) or 'none on this machine'}")
        found |= dict.fromkeys([model] if equals else models, value)
    return found


def _whole(flag: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise InputError(f"--{flag} {text}: should be a whole number")
    return int(text)


def adapters_of(options: list[str]) -> dict[str, AdapterOf]:
    """Adapters by name, from NAME=FOLDER[,of=MODEL]. Raises InputError."""
    from openbook.serve.server import AdapterOf

    found: dict[str, AdapterOf] = {}
    for text in options:
        name, _, rest = text.partition("=")
        parts = rest.rsplit(",of=", 1)
        if not name or not all(parts):
            raise InputError(f"--adapter {text}: should be NAME=FOLDER, or NAME=FOLDER,of=MODEL")
        if name in found:
            raise InputError(f"--adapter {text}: two adapters are called {name!r}")
        found[name] = AdapterOf(Path(parts[0]), *parts[1:])
    return found
