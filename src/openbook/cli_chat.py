"""`openbook chat`: a conversation with a server or a run, by hand or through pipes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.arguments import Json, show
from openbook.cli_stages import weights_of
from openbook.errors import InputError, OpenbookError
from openbook.progress import say
from openbook.words import printable

if TYPE_CHECKING:
    from openbook.talk import Talk


def chat(
    where: Annotated[str, typer.Argument(metavar="URL|RUN", help="A server's address, such as http://127.0.0.1:8000, or a run directory.")],
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system message.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The server's model or alias; its first by default.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of each answer.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 0.95,
    top_k: Annotated[int | None, typer.Option(min=0, help="Draw among the likeliest K; 0 is all.")] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out what is less likely than this share of the likeliest.")
    ] = None,
    presence_penalty: Annotated[float | None, typer.Option(min=-2, max=2)] = None,
    frequency_penalty: Annotated[float | None, typer.Option(min=-2, max=2)] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Ends an answer; up to four times.")] = None,
    schema: Annotated[Path | None, typer.Option(metavar="FILE", help="A JSON schema that every answer follows.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
    as_json: Json = False,
) -> None:
    """Talk with a model; each line is a message, /reset and /system TEXT begin anew, /set changes a setting, Ctrl-C stops an answer.

    A server's key is read from the environment's OPENBOOK_API_KEY.
    """
    from openbook.talk import COMMANDS, Talk, over_http

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed, "max_tokens": max_tokens}
    sampling |= {"presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty}
    given = {key: value for key, value in sampling.items() if value is not None}
    given |= ({"stop": stop} if stop else {}) | (_form(schema) if schema else {})
    with ExitStack() as stack:
        if where.startswith(("http://", "https://")):
            ask, name = over_http(where, model, os.environ.get("OPENBOOK_API_KEY"))
        elif model is not None:
            raise InputError(f"--model {model}: a run has one model; leave it out, or give the address of a server")
        else:
            from openbook.serve.local import chatting

            run = Path(where)
            name = run.resolve().name
            ask = stack.enter_context(chatting(weights_of(run), name))
        talk = Talk(ask, system, given)
        by_hand = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
        if by_hand:
            say(f"{printable(name)}; {COMMANDS}; Ctrl-C stops an answer")
        usage = dict.fromkeys(("prompt_tokens", "completion_tokens"), 0)
        for line in _lines(by_hand):
            if line.strip() == "/exit":
                break
            _take(talk, line, by_hand, as_json)
            usage = {key: count + (talk.usage or {}).get(key, 0) for key, count in usage.items()}
    if as_json:
        show({"model": name, "system": talk.system, "messages": talk.messages, "usage": usage}, "", as_json)


def _form(path: Path) -> dict[str, Any]:
    """The field of a request that asks for answers of a schema. Raises InputError if the file is none."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--schema {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"--schema {path}: is not JSON: {error}") from None
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}}


def _lines(by_hand: bool) -> Iterator[str]:
    """What is typed, up to Ctrl-D or Ctrl-C, or what comes through the pipe, without empty lines."""
    if not by_hand:
        yield from filter(str.strip, (line.rstrip("\r\n") for line in sys.stdin))
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (`input` edits lines with it)
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            if (line := input("> ")).strip():
                yield line
    print()


def _take(talk: Talk, line: str, by_hand: bool, as_json: bool) -> None:
    """Carries out one line. A person is told of an error and goes on; a pipe ends with it, and with Ctrl-C."""
    begin, talk.usage = time.monotonic(), None
    try:
        if (said := talk.command(line)) is not None:
            say(said)
            return
        # A model's words may hold a terminal's commands: they are shown as symbols.
        whole = talk.say(line, lambda piece: None if as_json else print(printable(piece), end="", flush=True))
    except OpenbookError as error:
        if not by_hand:
            raise
        say(str(error))
        return
    if not as_json:
        print(flush=True)
    if not whole and not by_hand:
        raise typer.Exit(130)
    if by_hand and talk.usage:
        counts = f"{talk.usage['prompt_tokens']} tokens read, {talk.usage['completion_tokens']} written"
        say(f"{counts}, {time.monotonic() - begin:.1f} s")
