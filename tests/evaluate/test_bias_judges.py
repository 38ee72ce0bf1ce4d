"""What an audit's figures rest on: intervals, the test of HolisticBias, the toxicity classifier and external scorers."""

from __future__ import annotations

import csv
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openbook.errors import InputError, OpenbookError
from openbook.evaluate.bias.audit import MEASURES, audit
from openbook.evaluate.bias.classifier import Example, auc, examples, measured, train
from openbook.evaluate.bias.estimate import correlation, estimates, share
from openbook.evaluate.bias.holistic import mann_whitney
from openbook.evaluate.bias.judges import Judges, external
from openbook.evaluate.bias.measure import Options
from openbook.evaluate.models import Request, Written
from shared_data import DATA, needs_data


def test_intervals_cover_and_clusters_widen_them() -> None:
    """Of 200 samples from a known population about 95 % of the intervals hold its share; copies of items in clusters add nothing."""
    dice = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        drawn = dice.random(100) < 0.3
        found = estimates([(n, (float(value), 1.0)) for n, value in enumerate(drawn)], {"share": share()}, 0)["share"]
        hits += found["low"] <= 0.3 <= found["high"]  # type: ignore[operator]
    assert 0.90 <= hits / 200 <= 0.99
    once = [(n, (float(n % 3 == 0), 1.0)) for n in range(60)]
    alone = estimates(once, {"share": share()}, 0)["share"]
    copied = [part for part in once for _ in range(5)]
    assert estimates(copied, {"share": share()}, 0)["share"] == pytest.approx(alone), "five copies in one cluster are one item"
    assert estimates([(1, (1.0, 2.0))], {"share": share()}, 0)["share"] == {"value": 0.5, "low": None, "high": None}
    assert estimates([(1, (0.0, 0.0)), (2, (0.0, 0.0))], {"share": share()}, 0)["share"]["value"] is None
    x, y = dice.random(50), dice.random(50)
    columns = [(n, (1.0, a, b, a * a, b * b, a * b)) for n, (a, b) in enumerate(zip(x, y, strict=True))]
    assert estimates(columns, {"r": correlation}, 0)["r"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_mann_whitney_as_scipy_has_it() -> None:
    stats = pytest.importorskip("scipy.stats")
    dice = np.random.default_rng(2)
    for ties in (False, True):
        for shift in (0.0, 0.5, 2.0):
            first, second = dice.normal(size=23), dice.normal(size=31) + shift
            if ties:
                first, second = np.round(first), np.round(second)
            expected = stats.mannwhitneyu(first, second, alternative="two-sided", method="asymptotic").pvalue
            assert mann_whitney(first, second) == pytest.approx(expected, abs=1e-12)
    assert mann_whitney(np.ones(5), np.ones(5)) == 1.0


def test_a_classifier_s_quality_by_hand() -> None:
    told = [("you idiot", True, 0.9), ("gay people", False, 0.8), ("a gay man", False, 0.2), ("fine", False, 0.1), ("scum", True, 0.4)]
    quality = measured([Example(text, toxic, "tweets") for text, toxic, _ in told], [score for _, _, score in told])
    assert quality["auc"] == pytest.approx(5 / 6)  # of six pairs one is the wrong way round
    assert (quality["precision"], quality["recall"], quality["f1"]) == (0.5, 0.5, 0.5)
    rates = {name: (rate["texts"], rate["value"]) for name, rate in quality["false_positive_rates"].items()}
    assert rates["all"] == (3, pytest.approx(1 / 3))
    assert (rates["gay"], rates["men"], rates["no group named"], rates["muslim"]) == ((2, 0.5), (1, 0.0), (1, 0.0), (0, None))
    assert auc(np.array([True, True]), np.array([0.1, 0.2])) is None
    assert auc(np.array([True, False, False]), np.array([0.5, 0.5, 0.5])) == 0.5


@needs_data("bias")
def test_the_classifier_is_measured_on_what_it_did_not_see(tmp_path: Path) -> None:
    """Labels of held-out texts do not change what is learnt, and do change what is measured."""
    small = tmp_path / "bias"
    small.mkdir()
    known = examples(DATA)[:3000] + examples(DATA)[-500:]

    def write(flip: bool) -> Path:
        from zlib import crc32

        labelled = [(one, one.toxic != (flip and crc32(one.text.encode()) % 4 == 0)) for one in known]
        with gzip.open(small / "davidson_hate_offensive_tweets.csv.gz", "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerows(
                [("class", "tweet"), *(("1" if toxic else "2", one.text) for one, toxic in labelled if one.origin == "tweets")]
            )
        with (small / "ethos_binary.csv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerows([("comment", "isHate"), *((one.text, float(toxic)) for one, toxic in labelled if one.origin == "comments")])
        return tmp_path

    right, wrong = train(write(flip=False)), train(write(flip=True))
    assert (right.weights == wrong.weights).all()
    assert right.quality["auc"] > 0.85
    assert wrong.quality["auc"] == pytest.approx(1 - right.quality["auc"])
    assert right.quality["held_out"] + right.quality["trained_on"] == len(known)
    assert right.identity != wrong.identity
    assert right.scores(["", "you stupid bitch"])[1] > 0.5


@contextmanager
def scorer(answers: list[tuple[int, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives the answers in turn, the last one for ever; and what it was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, content = answers.pop(0) if len(answers) > 1 else answers[0]
            body = json.dumps(content(asked[-1]) if callable(content) else content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_external_scorer_and_the_ways_in_which_it_fails(tmp_path: Path) -> None:
    def rude(body: Any) -> Any:
        return {"scores": [0.9 if "damn" in text else 0.1 for text in body["texts"]]}

    naps: list[float] = []
    with scorer([(503, {}), (429, {}), (200, rude)]) as (url, asked):
        assert external(url, ["damn", "fine"], naps.append) == [0.9, 0.1]
        assert naps == [1.0, 2.0]
        assert asked[-1] == {"texts": ["damn", "fine"]}

        (tmp_path / "bias").mkdir()
        (tmp_path / "bias/realtoxicityprompts.jsonl").write_text(
            '{"prompt": {"text": "Well", "toxicity": 0.7}}\n{"prompt": {"text": "So", "toxicity": 0.1}}\n'
        )

        class Swears:
            identity = "swears"

            def loglikelihood(self, pairs: Any) -> list[Any]:
                return []

            loglikelihood_rolling = loglikelihood

            def generate_until(self, requests: Any) -> list[Written]:
                """Rude to the first prompt in every second sample, polite to the other."""
                return [self._one(request) for request in requests]

            def _one(self, request: Request) -> Written:
                return Written("damn" if request.prompt == "Well" and request.seed % 2 else "fine")

        result = audit(Swears(), MEASURES["toxicity"], Options(generations=8), tmp_path, tmp_path / "out", Judges(tmp_path, url))
    by_group = {row["group"]: {name: found["value"] for name, found in row["figures"].items()} for row in result["rows"]}
    rude_ones = sum(record["written"] == "damn" for record in result["items"])
    assert 0 < rude_ones < 8
    assert by_group["overall"] == pytest.approx({"maximum": 0.5, "probability": 0.5, "toxic": rude_ones / 16})
    assert by_group["toxic prompts"]["probability"] == 1
    assert (result["judges"], result["scorer_quality"]) == ({"toxicity": url}, {"external": url})
    for answer, told in (
        ((200, {"scores": [2]}), "with 1 numbers from 0 to 1"),
        ((404, {}), "refused with status 404"),
        ((200, [1]), "should answer"),
    ):
        with scorer([answer]) as (url, _), pytest.raises(InputError, match=told):
            external(url, ["x"])
    with scorer([(500, {})]) as (url, _), pytest.raises(OpenbookError, match="status 500, 4 times; what is finished is kept"):
        external(url, ["x"], naps.append)
