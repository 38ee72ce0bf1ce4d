"""What a key has left: requests and tokens of a minute as token buckets, requests under way, tokens of a month.

A request reserves its prompt and the most that it may draw, and gives back what it did not use. A prompt is estimated before it is
tokenized; the true count is settled at the end, and a bucket may then stand below zero, for which later requests wait.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from openbook.accounts.keys import Grants, Key
from openbook.serve.errors import ApiError

BYTES_PER_TOKEN = 4
UNSAID = 1024
"""Tokens reserved for a chat that names no maximum."""
MOST = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/responses": ("max_output_tokens",),
    "/infill": ("n_predict",),
}
"""The fields that bound what is drawn: another endpoint's would bound nothing."""
READ = ("messages", "tools", "input", "instructions", "prompt", "input_prefix", "input_suffix", "input_extra")


class Bucket:
    """Holds up to `limit`, and regains that much in a minute."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit, self._level, self._when = limit, float(limit), now

    def level(self, now: float) -> float:
        self._level = min(self.limit, self._level + max(0.0, now - self._when) * self.limit / 60)
        self._when = max(now, self._when)
        return self._level

    def take(self, amount: float, now: float) -> None:
        """A negative amount gives back."""
        self._level = min(self.limit, self.level(now) - amount)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much is there."""
        return max(0.0, (amount - self.level(now)) * 60 / self.limit)

    def resize(self, limit: int, now: float) -> None:
        """What has been used stays used."""
        self._level, self.limit = self.level(now) + limit - self.limit, limit


class Allowance:
    """The state of one key."""

    def __init__(self, grants: Grants, now: float) -> None:
        self.grants = Grants()
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.running = 0
        self.month, self.spent, self.held = "", 0, 0
        self.adopt(grants, now)

    def adopt(self, grants: Grants, now: float) -> None:
        self.requests = _resized(self.requests, grants.requests_per_minute, now)
        self.tokens = _resized(self.tokens, grants.tokens_per_minute, now)
        self.grants = grants


def _resized(bucket: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None or bucket is None:
        return None if limit is None else Bucket(limit, now)
    bucket.resize(limit, now)
    return bucket


class Quotas:
    """`spent` gives the tokens of each key from a time on (seconds since 1970): asked at the first use and in each new month."""

    def __init__(
        self, spent: Callable[[float], dict[str, int]], now: Callable[[], float] = time.monotonic, clock: Callable[[], float] = time.time
    ) -> None:
        self._spent, self._now, self._clock = spent, now, clock
        self._allowances: dict[str, Allowance] = {}

    def reserve(self, key: Key, tokens: int, in_person: bool = True) -> Reservation:
        """Raises ApiError 429 that says which limit, and how long until it allows as much.

        What is not asked `in_person` does not count among the requests at a time.
        """
        now, grants = self._now(), key.grants
        have = self._allowances.get(key.id)
        if have is None:
            have = self._allowances[key.id] = Allowance(grants, now)
        if have.grants != grants:
            have.adopt(grants, now)
        self._turn_month(key, have)
        headers = rate_headers(have, now)
        if in_person and grants.concurrency is not None and have.running >= grants.concurrency:
            raise _refused(key, f"{grants.concurrency} requests at a time", 1, headers)
        if have.requests and (wait := have.requests.wait(1, now)):
            raise _refused(key, f"{have.requests.limit} requests a minute", wait, headers)
        if have.tokens and tokens > have.tokens.limit:
            message = f"this request may take {tokens} tokens, and the key {key.name!r} has {have.tokens.limit} a minute; lower max_tokens"
            raise ApiError(429, message, "max_tokens", "rate_limit_exceeded", headers | {"x-should-retry": "false"})
        if have.tokens and (wait := have.tokens.wait(tokens, now)):
            raise _refused(key, f"{have.tokens.limit} tokens a minute", wait, headers)
        if grants.monthly_tokens is not None and have.spent + have.held + tokens > grants.monthly_tokens:
            raise self._exhausted(key, have, headers)
        return Reservation(have, tokens, self._now, int(in_person))

    def _turn_month(self, key: Key, have: Allowance) -> None:
        month = datetime.fromtimestamp(self._clock(), UTC)
        if have.month != f"{month:%Y-%m}":
            start = month.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            have.month, have.spent = f"{month:%Y-%m}", self._spent(start.timestamp()).get(key.id, 0)

    def _exhausted(self, key: Key, have: Allowance, headers: dict[str, str]) -> ApiError:
        month = datetime.fromtimestamp(self._clock(), UTC)
        following = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
        wait = {"Retry-After": str(math.ceil(following.timestamp() - self._clock())), "x-should-retry": "false"}
        left = max(0, (key.grants.monthly_tokens or 0) - have.spent - have.held)
        message = f"the key {key.name!r} has {left} of its {key.grants.monthly_tokens} tokens of this month left, fewer than this may take"
        return ApiError(429, message, None, "insufficient_quota", headers | wait)


class Reservation:
    """Counts as under way until it is settled. `headers` tell the client what is left."""

    def __init__(self, have: Allowance, tokens: int, now: Callable[[], float], places: int) -> None:
        self._have, self._tokens, self._now, self._places, self._open = have, tokens, now, places, True
        have.running += places
        have.held += tokens
        if have.requests:
            have.requests.take(1, now())
        if have.tokens:
            have.tokens.take(tokens, now())
        self.headers = rate_headers(have, now())

    def settle(self, used: int) -> None:
        """Gives back what was not used, or takes what was used beyond."""
        if not self._open:
            return
        self._open = False
        have = self._have
        have.running -= self._places
        have.held -= self._tokens
        have.spent += used
        if have.tokens:
            have.tokens.take(used - self._tokens, self._now())

    def undo(self) -> None:
        """Gives back everything, the request too."""
        if self._open and self._have.requests:
            self._have.requests.take(-1, self._now())
        self.settle(0)


def _refused(key: Key, limit: str, wait: float, headers: dict[str, str]) -> ApiError:
    message = f"the key {key.name!r} has {limit}; try again in {max(wait, 0.1):.1f} seconds"
    return ApiError(429, message, None, "rate_limit_exceeded", headers | {"Retry-After": str(math.ceil(wait))})


def rate_headers(have: Allowance, now: float) -> dict[str, str]:
    """`x-ratelimit-*` as OpenAI's, for the limits that there are."""
    headers: dict[str, str] = {}
    for name, bucket in (("requests", have.requests), ("tokens", have.tokens)):
        if bucket:
            left = bucket.level(now)
            headers |= {
                f"x-ratelimit-limit-{name}": str(bucket.limit),
                f"x-ratelimit-remaining-{name}": str(max(0, math.floor(left))),
                f"x-ratelimit-reset-{name}": span((bucket.limit - left) * 60 / bucket.limit),
            }
    return headers


def span(seconds: float) -> str:
    """As OpenAI writes it: 12ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def at_most(path: str, body: dict[str, Any]) -> tuple[int, int]:
    """(read, drawn): tokens of a request's prompts, estimated at one for each four bytes, and the most that may be drawn."""
    if path in ("/tokenize", "/detokenize"):
        return 0, 0
    copies = max(_whole(body.get("n"), 1), _whole(body.get("best_of"), 1))
    if path == "/v1/completions":
        prompts = _prompts(body.get("prompt"))
        return sum(prompts) + tokens_of(body.get("suffix")), len(prompts) * copies * _whole(body.get("max_tokens"), 16)
    if path == "/v1/embeddings":
        return sum(_prompts(body.get("input"))), 0
    most = [_whole(body[name], UNSAID) for name in MOST[path] if body.get(name) is not None]
    return sum(tokens_of(body.get(name)) for name in READ), copies * min(most, default=UNSAID)


def _whole(value: Any, otherwise: int) -> int:
    """A number of things. A negative one says nothing: it is for the endpoint to refuse, or to choose."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def tokens_of(value: Any) -> int:
    """An estimate, of a text or of anything that JSON spells."""
    if value is None:
        return 0
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return -(-len(text.encode(errors="surrogatepass")) // BYTES_PER_TOKEN)


def _prompts(value: Any) -> list[int]:
    """Tokens of each prompt."""
    if not isinstance(value, list):
        return [tokens_of(value)]
    if all(isinstance(part, int) for part in value):
        return [len(value)]
    return [len(part) if isinstance(part, list) else tokens_of(part) for part in value]
