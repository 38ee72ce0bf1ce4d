"""What the server counts, for Prometheus: its own registry for each application, so that two in one process do not mix."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openbook.serve.api.desk import Account, Desk

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class _Engines(Collector):
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterable[Metric]:
        running = GaugeMetricFamily("openbook_sequences_running", "Sequences that are being computed.", labels=["model"])
        waiting = GaugeMetricFamily("openbook_sequences_waiting", "Sequences in the queue.", labels=["model"])
        for name, served in list(self._desk.models.items()):
            runs, waits = served.engine.work_of(served.adapter)
            running.add_metric([name], runs)
            waiting.add_metric([name], waits)
        return [running, waiting]


class Metrics:
    def __init__(self, desk: Desk) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(desk))
        tokens = ["model"]
        self._requests = Counter("openbook_requests", "Requests answered.", ["path", "status", "model"], registry=self._registry)
        self._read = Counter("openbook_prompt_tokens", "Tokens of prompts.", tokens, registry=self._registry)
        self._cached = Counter("openbook_cached_tokens", "Tokens of prompts that need not be read.", tokens, registry=self._registry)
        self._drawn = Counter("openbook_completion_tokens", "Tokens drawn.", tokens, registry=self._registry)
        self._first = self._seconds("openbook_first_token_seconds", "From a request to its answer's first token.", "model")
        self._whole = self._seconds("openbook_request_seconds", "From a request to its answer's end.", "path")

    def _seconds(self, name: str, says: str, label: str) -> Histogram:
        return Histogram(name, says, [label], registry=self._registry, buckets=SECONDS)

    def count(self, path: str, status: int, seconds: float, account: Account) -> None:
        """One request that is over. `path` is a route of this server, never what a client made up."""
        model = account.model or ""
        self._requests.labels(path, str(status), model).inc()
        self._whole.labels(path).observe(seconds)
        if account.model is not None:
            self._read.labels(model).inc(account.prompt_tokens)
            self._cached.labels(model).inc(account.cached_tokens)
            self._drawn.labels(model).inc(account.completion_tokens)
            if account.first is not None:
                self._first.labels(model).observe(account.first)

    def page(self) -> bytes:
        return generate_latest(self._registry)
