"""Any endpoint with OpenAI's completions API as a model that can be asked.

A continuation's score needs `echo` with `logprobs`: the endpoint encodes context and continuation as one text, and the tokens that end
beyond the context are the continuation's. An endpoint without them, as most hosted ones are, can only generate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openbook.errors import InputError, OpenbookError
from openbook.evaluate.models.interface import CannotScore, DoesNotFit, Request, Score, Written

TRIES = 6
"""Before a request is given up; the waits between them double from one second: half a minute in all."""
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may be others next time."""
TIMEOUT = 300.0
"""Seconds for one answer."""


class Endpoint:
    """url: the base, such as http://127.0.0.1:8000/v1. requests: how many are under way at the same time."""

    def __init__(
        self, url: str, model: str | None = None, key: str | None = None, requests: int = 4, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        try:
            import httpx
        except ModuleNotFoundError:
            raise InputError(f"{url}: an endpoint needs httpx; pip install 'openbook[evaluate]'") from None
        self._httpx, self._sleep, self._requests = httpx, sleep, requests
        self._url = url.rstrip("/")
        self.root = self._url.removesuffix("/v1")
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=TIMEOUT)
        self._tells = True
        self.model = model or self._only_model()
        self.identity = f"{self._url} {self.model}"

    def _only_model(self) -> str:
        names = [entry["id"] for entry in self.ask("GET", self._url + "/models")["data"]]
        if len(names) != 1:
            raise InputError(f"{self._url}: serves {', '.join(names) or 'no model'}; say which with --model")
        return str(names[0])

    def ask(self, method: str, address: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One answer. Raises InputError where the endpoint refuses, DoesNotFit if it says that the prompt is too long, OpenbookError where
        it fails again and again."""
        why = ""
        for attempt in range(TRIES):
            if attempt:
                self._sleep(2.0 ** (attempt - 1))
            try:
                answer = self._client.request(method, address, json=body)
            except self._httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code in AGAIN:
                why = f"status {answer.status_code}"
                continue
            if answer.status_code != 200:
                too_long = answer.status_code in (400, 413) and re.search("context.{0,9}length", answer.text)
                told = f"{address}: refused with status {answer.status_code}: {answer.text[:300]}"
                raise DoesNotFit(f"{told}; fewer --shots are shorter") if too_long else InputError(told)
            try:
                content: dict[str, Any] = answer.json()
            except ValueError:
                raise InputError(f"{address}: answered something else than JSON; is it an OpenAI-compatible API?") from None
            return content
        raise OpenbookError(f"{address}: {why}, {TRIES} times; what is finished is kept: the same command goes on")

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = {"model": self.model, "temperature": 0, **body}
        choice: dict[str, Any] = self.ask("POST", self._url + "/completions", asked)["choices"][0]
        return choice

    def all(self, ask: Callable[[Any], Any], questions: Sequence[Any]) -> list[Any]:
        """Answers in the order of the questions, several of which are under way at the same time."""
        with ThreadPoolExecutor(self._requests) as pool:
            return list(pool.map(ask, questions))

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        first = [self._score(*pair) for pair in pairs[:1]]  # alone: an endpoint that cannot score is asked once, not as often as it may
        return first + self.all(lambda pair: self._score(*pair), pairs[1:])

    def told(self, prompt: str | list[int]) -> dict[str, Any]:
        """The log-probabilities of a prompt's tokens. Raises CannotScore from an endpoint that gives none."""
        told: dict[str, Any] = {}
        if self._tells:
            told = self._complete({"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 1}).get("logprobs") or {}
        if len(told.get("token_logprobs") or []) < 2:
            self._tells = False
            raise CannotScore(f"{self._url}: gives no log-probabilities of a prompt (echo with logprobs); only tasks that generate can run")
        return told

    def _score(self, context: str, continuation: str) -> Score:
        bare = context.rstrip()
        if not bare:
            raise CannotScore(
                f"{self._url}: an endpoint gives no probability of a text's first token; {continuation[:40]!r} has no context"
            )
        whole = context + continuation
        told = self.told(whole)
        starts = [*told["text_offset"], len(whole)]
        scored = [index for index in range(1, len(starts) - 1) if starts[index + 1] > len(bare)]
        while scored and starts[scored[0]] < len(bare):  # begun in the context: encoded alone, the context ends with it
            scored = scored[1:]
        if not scored:
            raise InputError(f"the continuation {continuation!r} of {context[-40:]!r} has no token to score; it should add some text")
        return Score(*summed(told, scored), len(scored), len(continuation.encode()))

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        raise CannotScore(f"{self._url}: an endpoint gives no probability of a text's first token; score whole texts by the weights")

    def generate_until(self, requests: Sequence[Request]) -> list[Written]:
        return [Written(text) for text in self.all(lambda request: self.write(request.prompt, request), requests)]

    def write(self, prompt: str | list[int], request: Request) -> str:
        """A continuation of the prompt, without the stop string, as the request has it drawn."""
        stop = {"stop": list(request.stop[:4])} if request.stop else {}
        drawn = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed} if request.temperature else {}
        text = str(self._complete({"prompt": prompt, "max_tokens": request.max_tokens, **drawn, **stop})["text"])
        ends = [text.index(string) for string in request.stop if string in text]  # the API takes four stop strings, a task may have more
        return text[: min(ends)] if ends else text


def summed(told: Mapping[str, Any], places: Sequence[int]) -> tuple[float, bool]:
    """Of tokens of a prompt the sum of log-probabilities, and whether each is the likeliest one."""
    logprobs = [float(told["token_logprobs"][place]) for place in places]
    likeliest = [logprob >= max(told["top_logprobs"][place].values()) - 1e-9 for place, logprob in zip(places, logprobs, strict=True)]
    return sum(logprobs), all(likeliest)
