"""`openbook serve`: models over HTTP, of this machine and of engines elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from openbook.arguments import Json, show
from openbook.cli_stages import weights_of
from openbook.errors import InputError

StoreOption = Annotated[Path | None, typer.Option("--store", metavar="FILE", help="Keys, aliases and usage; see openbook keys.")]
Upstreams = Annotated[
    list[str] | None,
    typer.Option("--upstream", metavar="URL[,key=VARIABLE][,kind=KIND]", help="An OpenAI-compatible engine whose models are served, too."),
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

    def ready(url: str) -> None:
        seconds = time.monotonic() - begin
        first = next(iter(models), "MODEL")
        body = json.dumps({"model": first, "prompt": "import"})
        lines = [
            f"{', '.join(models) or 'engines elsewhere'} at {url}/v1, ready after {seconds:.1f} s (Ctrl-C stops it)",
            f"try  curl {url}/v1/completions -d '{body}'",
            f"or open {url}/ in a browser",
        ]
        show({"url": f"{url}/v1", "model": first, "models": list(models), "seconds": round(seconds, 2)}, "\n".join(lines), as_json)

    options = Options(
        host, port, threads, data, tuple(origin or ()), log, log_text, store, tuple(upstream or ()), capabilities, unguarded, tls
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
