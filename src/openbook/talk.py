"""A conversation with a model, and a server over HTTP to have it with.

`serve.local` has it with weights in this process; both ways speak the API's events.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from openbook.errors import InputError, OpenbookError

PATIENCE = 600
"""Seconds without a byte after which a server is given up."""
COMMANDS = (
    "/reset forgets the conversation, /system TEXT begins a new one under another system message, "
    "/set NAME VALUE changes a setting, /exit ends"
)
SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")
"""What /set changes: the numbers of a request, under the API's names."""


@dataclass(frozen=True)
class Piece:
    """Of an answer; the last one may have its usage, {"prompt_tokens": …, "completion_tokens": …}."""

    text: str
    usage: dict[str, int] | None = None


Ask = Callable[[dict[str, Any], Callable[[Piece], None]], None]
"""Sends the body of a chat request and hands on each piece of the answer. Raises OpenbookError; Ctrl-C stops the work at the other end."""


@dataclass
class Talk:
    """A conversation. `system` is its system message, if any; `sampling` goes into each request; `usage` is that of the last answer."""

    ask: Ask
    system: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    usage: dict[str, int] | None = None

    def say(self, text: str, show: Callable[[str], None]) -> bool:
        """Adds a message and its answer; an answer that Ctrl-C cuts short counts as far as it went. False if it was cut.

        Raises OpenbookError, and then the conversation is what it was.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        head = [{"role": "system", "content": self.system}] if self.system else []
        pieces: list[str] = []
        self.usage = None

        def take(piece: Piece) -> None:
            self.usage = piece.usage or self.usage
            if piece.text:
                pieces.append(piece.text)
                show(piece.text)

        whole = True
        try:
            self.ask({**self.sampling, "messages": head + asked, "stream": True, "stream_options": {"include_usage": True}}, take)
        except KeyboardInterrupt:
            whole = False
        self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
        return whole

    def command(self, line: str) -> str | None:
        """Carries out a line that is a command and returns what to tell of it; None for a message. Raises InputError for an unknown one."""
        word, _, rest = line.strip().partition(" ")
        if not re.fullmatch(r"/[a-z]+", word):
            return None
        if word == "/set":
            return self._set(*rest.partition(" ")[::2])
        if word not in ("/reset", "/system"):
            raise InputError(f"{word}: is no command; {COMMANDS}")
        self.messages = []
        if word == "/system":
            self.system = rest.strip() or None
        return "a new conversation" + (f" under: {self.system}" if self.system else "")

    def _set(self, name: str, value: str) -> str:
        """Whether the value will do, the server knows."""
        if name not in SETTINGS:
            raise InputError(f"/set {name}: is no setting; there are {', '.join(SETTINGS)}")
        try:
            number = _number(value) if value.strip() else None
        except ValueError:
            raise InputError(f"/set {name} {value}: should be a number, or nothing for the server's own") from None
        self.sampling.pop(name, None)
        if number is not None:
            self.sampling[name] = number
        return " ".join(f"{key}={given}" for key, given in self.sampling.items() if key in SETTINGS)


def _number(text: str) -> int | float:
    """Raises ValueError. A seed may have more digits than a float."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def over_http(url: str, model: str | None, key: str | None) -> tuple[Ask, str]:
    """A server's chat, and the model's name, by default the server's first. `url` may end in /v1.

    Raises OpenbookError if it cannot be reached, InputError if it is no such server.
    """
    base = url.rstrip("/").removesuffix("/v1") + "/v1"
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(_NoRedirects)

    def get(path: str, body: bytes | None) -> Any:
        with _told(base):
            return opener.open(urllib.request.Request(base + path, body, headers), timeout=PATIENCE)

    if model is None:
        with get("/models", None) as answer:
            try:
                model = str(json.load(answer)["data"][0]["id"])
            except (ValueError, LookupError, TypeError):
                raise InputError(f"{base}/models: is no list of models; give the address of an OpenAI-compatible server") from None
    named = {"model": model}

    def ask(body: dict[str, Any], take: Callable[[Piece], None]) -> None:
        with get("/chat/completions", json.dumps(body | named).encode()) as answer, _told(base):
            for piece in pieces_of(answer):
                take(piece)

    return ask, model


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another server."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


@contextmanager
def _told(base: str) -> Iterator[None]:
    """What goes wrong between here and the server, in one line."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise OpenbookError(f"{base}: {error.code}: {_message(error.read(65536)) or error.reason}") from None
    except urllib.error.URLError as error:
        raise OpenbookError(f"{base}: cannot be reached ({error.reason}); `openbook serve RUN` starts a server") from None
    except OSError as error:
        raise OpenbookError(f"{base}: the connection was lost ({error})") from None
    except ValueError as error:
        raise InputError(f"{base}: cannot be asked: {error}") from None


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ""


def pieces_of(lines: Iterable[bytes]) -> Iterator[Piece]:
    """What is in the lines of a chat's stream of events. Raises OpenbookError for an error among them, or if its end does not come."""
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if data == b"[DONE]":
            return
        if message := _message(data):
            raise OpenbookError(message)
        event = json.loads(data)
        text = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", [])[:1])
        if text or event.get("usage"):
            yield Piece(text, event.get("usage"))
    raise OpenbookError("the connection ended before the answer did")
