"""`openbook serve`: a port, a model, an engine, and uvicorn until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.progress import say
from openbook.serve.local import load

GRACE = 3
"""Seconds that answers under way get to finish after Ctrl-C, before they are told that the server stops."""


@dataclass(frozen=True)
class Options:
    """How `openbook serve` serves. `data` keeps files and batches; `log` gets a line of JSON for each request, "-" is standard output."""

    host: str = "127.0.0.1"
    port: int = 8000
    threads: int | None = None
    """torch's; None leaves it alone."""
    data: Path | None = None
    origins: tuple[str, ...] = ()
    log: str | None = None
    log_text: bool = False


def serve(weights: Path, name: str, options: Options, ready: Callable[[str], None]) -> None:
    """Serves a folder of weights under a name until it is interrupted; calls `ready` with the server's URL once it answers.

    Port 0 takes any free port. Raises InputError if the address cannot be listened on, which is found out before the weights are read, or
    if the weights cannot be loaded.
    """
    import torch

    with listen(options.host, options.port) as listener:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.log is not None:
            _log_to(options.log)
        _run(weights, name, listener, options, ready)


def _log_to(place: str) -> None:
    from openbook.serve.api.gate import access

    try:
        handler = logging.StreamHandler(sys.stdout) if place == "-" else logging.FileHandler(place)
    except OSError as error:
        raise InputError(f"--log {place}: cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(message)s"))
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    access.propagate = False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError, in one line, if there can be none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError):
        raise InputError(f"--host {host}: is not an address or a name of this machine") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise InputError(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what uses it, or choose another with --port (0 takes any free one)"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} is not for ordinary users; choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: is not an address of this machine"
    return f"cannot listen on port {port} of {host}: {error.strerror}; choose another with --port or --host"


def _run(weights: Path, name: str, listener: socket.socket, options: Options, ready: Callable[[str], None]) -> None:
    import uvicorn

    from openbook.serve.api import Desk, Limits, create_app
    from openbook.serve.engine import Engine
    from openbook.serve.protocol import PatientProtocol
    from openbook.serve.served import describe

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(url_of(listener))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            desk.draining = True
            asyncio.get_running_loop().call_later(GRACE, engine.close)
            await super().shutdown(sockets)

    address, _ = listener.getsockname()[:2]
    local = ipaddress.ip_address(address).is_loopback
    if not local:
        say(f"warning: whoever can reach {address} can use this server; it asks for no key")
    model, tokenizer = load(weights)
    engine = Engine(model)
    try:
        served = describe(name, weights, engine, tokenizer)
        desk = Desk({name: served}, Limits(origins=options.origins, local=local))
        app = create_app(desk, options.data, options.log_text)
        quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
        config = uvicorn.Config(app, http=PatientProtocol, ws="none", timeout_graceful_shutdown=2 * GRACE, **quiet)
        Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has shut down in good order and passes the signal on
        say("stopped")
    finally:
        engine.close()


def url_of(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
