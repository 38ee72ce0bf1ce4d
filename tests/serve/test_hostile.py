"""A few hundred of the requests that `benchmarks/hostile.py` sends by the thousand."""

from __future__ import annotations

from hostile import bombard, canary
from serve.serving import Served


def test_no_request_does_harm(chatty: Served) -> None:
    before = canary(chatty.url)
    statuses = bombard(chatty.url, 250, seed=7)
    assert statuses[200] > 10 and statuses[400] > 50
    assert canary(chatty.url) == before
