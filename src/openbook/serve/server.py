"""`openbook serve`: a port, a model, an engine, and uvicorn until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.errors import InputError
from openbook.progress import say
from openbook.serve.local import load
from openbook.serve.settings import EngineSettings

if TYPE_CHECKING:
    from openbook.serve.front import Front
    from openbook.serve.served import Served

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
    store: Path | None = None
    """Keys, aliases and usage; see openbook.serve.front."""
    upstreams: tuple[str, ...] = ()
    """URL[,key=VARIABLE][,kind=KIND] of engines elsewhere, whose models are served, too."""
    capabilities: Path | None = None
    """A table of what engines elsewhere cannot do, in place of openbook's own."""
    open: bool = False
    """Whether a server without keys may listen beyond this machine."""
    tls: tuple[Path, Path] | None = None
    """(certificate chain, private key), both PEM."""
    engines: Mapping[str, EngineSettings] = field(default_factory=dict)
    """By model; the defaults for a model that is not here."""
    adapters: Mapping[str, AdapterOf] = field(default_factory=dict)
    """LoRA adapters by the names that they are asked for."""
    adapter_folder: Path | None = None
    """Adapters below it may be loaded while the server runs, and all be unloaded; None lets nobody."""


@dataclass(frozen=True)
class AdapterOf:
    """A folder in peft's format, and the model that it is for: the only one for None."""

    folder: Path
    model: str | None = None


def serve(models: Mapping[str, Path], options: Options, ready: Callable[[str], None]) -> None:
    """Serves folders of weights under their names until it is interrupted; calls `ready` with the server's URL once it answers.

    Port 0 takes any free port. Raises InputError if the address cannot be listened on, or not without keys, which is found out before the
    weights are read, or if the weights, the store or an option cannot be used.
    """
    import torch

    from openbook.serve.front import open_front

    if options.tls is not None:
        _check_tls(*options.tls)
    with listen(options.host, options.port) as listener:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.log is not None:
            _log_to(options.log)
        front = open_front(options.store, options.upstreams, options.capabilities)
        try:
            _check_open(listener, options, front)
            _run(models, listener, options, front, ready)
        finally:
            if front.store is not None:
                front.store.close()


def _check_open(listener: socket.socket, options: Options, front: Front) -> None:
    if options.open or front.has_keys or _local(listener):
        return
    have = f"openbook keys create {options.store or 'STORE'} NAME"
    raise InputError(f"--host {options.host}: whoever can reach it could use this server; make a key (`{have}`, --store), or say --open")


def _local(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


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


def _check_tls(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"--tls-cert {certificate} --tls-key {key}: cannot be used: {error.strerror or error}") from None


def _run(models: Mapping[str, Path], listener: socket.socket, options: Options, front: Front, ready: Callable[[str], None]) -> None:
    import uvicorn

    from openbook.serve.adapters import Adapters
    from openbook.serve.api import Desk, Limits, create_app
    from openbook.serve.protocol import PatientProtocol
    from openbook.serve.served import describe

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(url_of(listener, options.tls is not None))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            desk.draining = True
            for served in found.values():
                asyncio.get_running_loop().call_later(GRACE, served.engine.close)
            await super().shutdown(sockets)

    desk = Desk({}, Limits(origins=options.origins, local=_local(listener)))
    before = front if front.store or front.pool else None
    adapters = Adapters(desk, options.adapter_folder, before)
    found: dict[str, Served] = {}
    try:
        for name, weights in models.items():
            model, tokenizer = load(weights)
            engine = options.engines.get(name, EngineSettings()).engine(model)
            found[name] = describe(name, weights, engine, tokenizer)
        desk.models = found
        for name, adapter in options.adapters.items():
            adapters.load(name, adapter.folder, adapter.model)
        app = create_app(desk, options.data, options.log_text, before, adapters)
        quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
        tls: dict[str, Any] = dict(zip(("ssl_certfile", "ssl_keyfile"), options.tls or (), strict=False))
        config = uvicorn.Config(app, http=PatientProtocol, ws="none", timeout_graceful_shutdown=2 * GRACE, **quiet, **tls)
        Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has shut down in good order and passes the signal on
        say("stopped")
    finally:
        for served in found.values():
            served.engine.close()


def url_of(listener: socket.socket, tls: bool = False) -> str:
    address, port = listener.getsockname()[:2]
    return f"http{'s' if tls else ''}://{f'[{address}]' if ':' in address else address}:{port}"
