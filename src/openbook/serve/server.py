"""`openbook serve`: a port, a model, an engine, and uvicorn until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.progress import say
from openbook.serve.local import load

GRACE = 3
"""Seconds that answers under way get to finish after Ctrl-C, before they are told that the server stops."""


def serve(weights: Path, name: str, host: str, port: int, threads: int | None, ready: Callable[[str], None]) -> None:
    """Serves a folder of weights under a name until it is interrupted; calls `ready` with the server's URL once it answers.

    Port 0 takes any free port. `threads` is torch's, None leaves it alone. Raises InputError if the address cannot be listened on, which
    is found out before the weights are read, or if the weights cannot be loaded.
    """
    import torch

    with listen(host, port) as listener:
        if threads is not None:
            torch.set_num_threads(threads)
        model, tokenizer = load(weights)
        _run(model, tokenizer, name, listener, ready)


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


def _run(model: Any, tokenizer: Any, name: str, listener: socket.socket, ready: Callable[[str], None]) -> None:
    import uvicorn

    from openbook.serve.app import create_app
    from openbook.serve.engine import Engine

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(url_of(listener))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().call_later(GRACE, engine.close)
            await super().shutdown(sockets)

    address, _ = listener.getsockname()[:2]
    if not ipaddress.ip_address(address).is_loopback:
        say(f"warning: whoever can reach {address} can use this server; it asks for no key")
    engine = Engine(model)
    config = uvicorn.Config(create_app(engine, tokenizer, name), log_level="warning", access_log=False, timeout_graceful_shutdown=2 * GRACE)
    try:
        Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has shut down in good order and passes the signal on
        say("stopped")
    finally:
        engine.close()


def url_of(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
