"""`openbook chat`: the same over HTTP and in process; Ctrl-C in a real terminal; errors in one line."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from openbook.cli_chat import _take
from openbook.errors import InputError, OpenbookError
from openbook.serve.local import chatting
from openbook.talk import Ask, Piece, Talk, over_http, pieces_of
from serve.fronts import guarded
from serve.serving import Served, running

SAMPLING = {"temperature": 0.8, "seed": 5, "max_tokens": 12}


def conversation(ask: Ask) -> list[dict[str, str]]:
    talk = Talk(ask, "be brief", dict(SAMPLING))
    pieces: list[str] = []
    assert talk.say("hello", pieces.append) and talk.say("naïve ✓", pieces.append)
    assert "".join(pieces) == talk.messages[1]["content"] + talk.messages[3]["content"]
    assert talk.usage is not None and 0 < talk.usage["completion_tokens"] <= 12
    return talk.messages


def test_a_server_and_its_weights_give_the_same_answers(chatty: Served, chatty_weights: Path) -> None:
    ask, name = over_http(chatty.url, None, None)
    assert name == "tiny" and over_http(f"{chatty.url}/v1/", "tiny", "key")[1] == "tiny"
    with chatting(chatty_weights, "tiny") as local:
        assert conversation(local) == conversation(ask)


def test_what_goes_wrong_is_one_line_and_leaves_the_conversation_alone(chatty: Served, chatty_weights: Path) -> None:
    with chatting(chatty_weights, "tiny") as local:
        for ask in (over_http(chatty.url, None, None)[0], local):
            talk = Talk(ask)
            with pytest.raises(OpenbookError, match="no complaints"):
                talk.say("complain", print)
            assert talk.messages == []
    with pytest.raises(OpenbookError, match=r"404: the model 'other' does not exist"):
        Talk(over_http(chatty.url, "other", None)[0]).say("hello", print)
    with pytest.raises(OpenbookError, match=r"cannot be reached .*openbook serve RUN"):
        over_http("http://127.0.0.1:1", None, None)
    with pytest.raises(InputError, match="cannot be asked"):
        over_http(chatty.url, "tiny", "a\nkey")[0]({"messages": []}, print)


def test_a_stream_that_fails_or_ends_early_says_so() -> None:
    chunk = b'data: {"choices":[{"delta":{"content":"a"}}]}\n'
    assert list(pieces_of([b": wait\n", chunk, b"\n", b"data: [DONE]\n"])) == [Piece("a")]
    with pytest.raises(OpenbookError, match="ended before"):
        list(pieces_of([chunk]))
    with pytest.raises(OpenbookError, match="too bad"):
        list(pieces_of([chunk, b'data: {"error":{"message":"too bad"}}\n']))


def test_settings_change_between_messages(chatty: Served) -> None:
    talk = Talk(over_http(chatty.url, None, None)[0], sampling={"max_tokens": 6, "stop": ["zq"]})
    assert talk.command("/set temperature 0.5") == "max_tokens=6 temperature=0.5"
    assert talk.command("/set seed 9007199254740993") == "max_tokens=6 temperature=0.5 seed=9007199254740993", "to the last digit"
    assert talk.command("/set seed 3") == "max_tokens=6 temperature=0.5 seed=3"
    assert talk.say("hello", str) and talk.command("/set temperature") == "max_tokens=6 seed=3"
    assert talk.command("/set top_k 2.5") == "max_tokens=6 seed=3 top_k=2.5"
    with pytest.raises(OpenbookError, match="top_k"):
        talk.say("hello", str)
    for line in ("/set stop x", "/set seed one"):
        with pytest.raises(InputError, match="/set s"):
            talk.command(line)


def test_a_schema_and_an_alias_by_the_command(weights: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": false}')
    with guarded(weights, tmp_path) as front:
        front.store.set_alias("prod", (("tiny", 1),))
        options = ["--model", "prod", "--schema", schema, "--top-k", 5, "--min-p", 0.01, "--stop", "zq", "--max-tokens", 60, "--json"]
        done = chat_through_a_pipe(front.url, *options)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert json.loads(said["messages"][1]["content"])["yes"] in (True, False)
        assert said["usage"]["prompt_tokens"] > 0 < said["usage"]["completion_tokens"]
    schema.write_text("{")
    done = chat_through_a_pipe(front.url, "--schema", schema)
    assert done.returncode == 2 and "is not JSON" in done.stderr


def chat_through_a_pipe(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openbook.cli", "chat", *map(str, arguments)]
    return subprocess.run(command, input="is it?\n", capture_output=True, text=True, timeout=60)


def test_a_redirect_does_not_get_the_key() -> None:
    heard: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/caught")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(OpenbookError, match="302"):
            over_http(f"http://127.0.0.1:{server.server_port}", None, "key")
        server.shutdown()
    assert heard == ["/v1/models"]


def test_a_models_words_are_no_commands_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _take(Talk(lambda body, take: take(Piece("\x1b[2J\x9b2J\nend\t."))), "hello", by_hand=True, as_json=False)
    assert capsys.readouterr().out == "␛[2J\ufffd2J\nend\t.\n"


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(chatty_weights: Path) -> None:
    with running(chatty_weights, slow=lambda: time.sleep(0.01)) as served:
        terminal, inside = pty.openpty()
        command = [sys.executable, "-m", "openbook.cli", "chat", served.url, "--seed", "1", "--temperature", "0"]
        start = {"stdin": inside, "stdout": inside, "stderr": inside, "start_new_session": True, "preexec_fn": _take_terminal}
        with subprocess.Popen(command, **start) as program:  # type: ignore[call-overload]
            os.close(inside)
            seen = read_until(terminal, "> ")
            assert "/system TEXT" in seen
            os.write(terminal, b"hello\n")
            while served.engine.tokens < 5:
                time.sleep(0.01)
            os.write(terminal, b"\x03")
            read_until(terminal, "> ")
            wait_for_idle(served)
            assert served.engine.tokens < 600
            os.write(terminal, b"/reset\n")
            assert "a new conversation" in read_until(terminal, "> ")
            os.write(terminal, b"\x04")
            assert program.wait(timeout=20) == 0
        os.close(terminal)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def wait_for_idle(served: Served) -> None:
    end = time.monotonic() + 10
    while served.engine.running:
        assert time.monotonic() < end, "the server goes on with an answer that nobody reads"
        time.sleep(0.01)


def read_until(terminal: int, mark: str) -> str:
    seen, end = "", time.monotonic() + 20
    while not seen.endswith(mark):
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
    return seen
