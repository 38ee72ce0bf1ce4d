"""An endpoint gives the scores of the same model in process; one that fails, refuses or gives no probabilities is told apart."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from toymodels import TEXT, make_folder

from openbook.errors import InputError, OpenbookError
from openbook.evaluate.journal import UNIT
from openbook.evaluate.models.endpoint import TRIES, Endpoint
from openbook.evaluate.models.interface import CannotScore, DoesNotFit
from openbook.evaluate.models.opening import open_engine, open_model
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.suite import evaluate_all
from openbook.evaluate.task import Task, task_named
from serve.serving import running

SUM = task_named("two_digit_addition")
MADE = {"generated": True, "shots": 2}


def _task(folder: Path, kind: str) -> Task:
    rows = [{"question": f"What is number {n}?", "options": ["yes", "the man — naïve", "no dog"], "right": n % 3} for n in range(6)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    form = {"context": "Question: {{ question }}\nAnswer:"}
    form |= {"choices": "options", "gold": "right"} if kind == "choice" else {"target": " {{ options[right] }}"}
    facts = {"name": kind, "version": 1, "title": "mine", "source": "a test", "kind": kind, "metric": "accuracy"}
    return Task.model_validate({**facts, "data": {"file": "mine.jsonl"}, "form": form})


def test_our_server_gives_the_scores_of_the_model_in_process(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "weights", "qwen3")
    here = open_engine(folder, "here")
    with running(folder) as served:
        by_texts, by_tokens = Endpoint(f"{served.url}/v1"), open_model(f"{served.url}/v1")
        for name, model in (("texts", by_texts), ("tokens", by_tokens)):
            for task in (_task(tmp_path, "choice"), _task(tmp_path, "completion"), SUM):
                _alike(model, here, task, Settings(limit=6, shots=1, generated=task is SUM), tmp_path, name)
        beyond = {"generated": True, "shots": 40, "limit": 3}  # more than the window holds
        result = _alike(by_tokens, here, SUM, Settings(**beyond), tmp_path, "beyond")
        assert result["truncated"]["prompts"] == 3
        with pytest.raises(DoesNotFit, match=r"refused with status 400.*context_length_exceeded.*; fewer --shots are shorter"):
            evaluate(by_texts, SUM, Settings(**beyond), tmp_path, tmp_path / "refused")
        found, wanted = by_tokens.loglikelihood_rolling([TEXT * 2]), here.loglikelihood_rolling([TEXT * 2])
        assert wanted[0].tokens > here.window and found[0].logprob == pytest.approx(wanted[0].logprob, abs=1e-4, rel=3e-7)
        assert replace(found[0], logprob=0.0) == replace(wanted[0], logprob=0.0)
        begun = [("", " the man"), ("", "true")]
        near = [pytest.approx(score.logprob, abs=1e-4) for score in here.loglikelihood(begun)]
        assert [score.logprob for score in by_tokens.loglikelihood(begun)] == near


def _alike(over: Any, here: Any, task: Task, settings: Settings, data: Path, name: str) -> dict[str, Any]:
    """The result over the wire, which is that of the model in process."""
    wire = evaluate(over, task, settings, data, data / name)
    inside = evaluate(here, task, settings, data, data / "inside")
    for one, other in zip(wire["items"], inside["items"], strict=True):
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)
        same = ("tokens", "scores", "prediction", "written", "greedy")
        assert [one.get(key) for key in same] == [other.get(key) for key in same]
    return wire


class _Handler(BaseHTTPRequestHandler):
    """Answers every completion with the server's `said`, after as many failures as it has `failures`."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append(body)
        status = server.failures.pop() if server.failures else 200
        content = json.dumps({"choices": [server.said]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving(said: dict[str, Any], failures: list[int]) -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), _Handler)
    server.said, server.failures, server.asked = said, failures, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _endpoint(server: Any, waits: list[float]) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", requests=1, sleep=waits.append)


def test_an_endpoint_that_cannot_score_still_writes(tmp_path: Path) -> None:
    with _serving({"text": " 143\nQ:", "logprobs": None}, []) as server:
        endpoint = _endpoint(server, [])
        result = evaluate(endpoint, SUM, Settings(limit=3, **MADE), tmp_path, tmp_path)
        assert [record["written"] for record in result["items"]] == [" 143"] * 3
        assert "bits_per_byte" not in result["metrics"]
        with pytest.raises(CannotScore, match=r"gives no log-probabilities of a prompt \(echo with logprobs\); only tasks that generate"):
            evaluate(endpoint, _task(tmp_path, "choice"), Settings(), tmp_path, tmp_path)
        with pytest.raises(InputError, match="no probability of a text's first token"):
            endpoint.loglikelihood_rolling(["text"])


def test_failures_are_tried_again_and_finished_items_are_kept(tmp_path: Path) -> None:
    with _serving({"text": " 1", "logprobs": None}, [503, 429]) as server:
        waits: list[float] = []
        evaluate(_endpoint(server, waits), SUM, Settings(limit=32, **MADE), tmp_path, tmp_path)
        assert waits == [1.0, 2.0]
        asked = len(server.asked)
        server.failures += [500] * TRIES
        with pytest.raises(OpenbookError, match=f"status 500, {TRIES} times; what is finished is kept"):
            evaluate(_endpoint(server, waits), SUM, Settings(limit=40, **MADE), tmp_path, tmp_path)
        server.failures.clear()
        result = evaluate(_endpoint(server, waits), SUM, Settings(limit=40, **MADE), tmp_path, tmp_path)
        assert result["count"] == 40
        assert len(server.asked) - asked == TRIES + 8 + 1  # the failed ones, eight texts, and one question whether it can score
        server.failures.append(401)
        with pytest.raises(InputError, match="refused with status 401"):
            _endpoint(server, waits).loglikelihood([("a", " b")])


def test_a_suite_over_an_endpoint_that_fails_halfway_goes_on(tmp_path: Path) -> None:
    tasks, settings = [task_named("two_digit_subtraction"), SUM], Settings(limit=2 * UNIT, **MADE)
    with _serving({"text": " 1", "logprobs": None}, []) as server:
        server.failures += [502] * TRIES + [200] * (1 + 3 * UNIT + 5)  # taken from the end: whether it can score, then texts
        with pytest.raises(OpenbookError, match=f"status 502, {TRIES} times; what is finished is kept: the same command goes on"):
            evaluate_all(_endpoint(server, []), tasks, settings, tmp_path, tmp_path)
        server.failures.clear()
        asked = len(server.asked)
        results, _ = evaluate_all(_endpoint(server, []), tasks, settings, tmp_path, tmp_path)
        assert [result["count"] for result in results] == [2 * UNIT] * 2
        assert len(server.asked) - asked == 1 + UNIT  # the unit that failed, and whether it can score; nothing that was finished
