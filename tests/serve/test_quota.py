"""Keys, buckets, shares and energy: the arithmetic, on clocks that the tests move."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.accounts.aliases import choose, parse_alias, who_asks
from openbook.accounts.keys import Grants, Key, Keyring, make
from openbook.errors import InputError
from openbook.logbook.meter import counters
from openbook.serve.errors import ApiError
from openbook.serve.front.energy import SharedEnergy
from openbook.serve.front.quota import Quotas, at_most, span

NOVEMBER = 1795996800.0 - 10 * 86400
"""20 November 2026."""


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def quotas_of(clock: Clock, spent: dict[str, int] | None = None) -> Quotas:
    return Quotas(lambda since: spent or {}, clock, clock)


def key_of(**grants: int) -> Key:
    return make("somebody", Grants(**grants), admin=False)[0]


def test_a_key_is_known_by_its_whole_text_until_it_is_revoked() -> None:
    (one, text), (other, _) = make("one", Grants(), False), make("other", Grants(), False)
    ring = Keyring([one, other])
    assert ring.find(text) is one and text.encode() not in repr(one).encode()
    wrong = [
        text[:-1],
        text + "x",
        text.replace(one.id, other.id),
        f"ob-{one.id}-",
        "",
        "ob",
        "ob--",
        "ob-\udce9-x",
        text.upper(),
        one.hash.hex(),
    ]
    assert [ring.find(attempt) for attempt in wrong] == [None] * len(wrong)
    revoked = Key(one.id, one.name, one.hash, one.salt, revoked=1.0)
    assert Keyring([revoked]).find(text) is None and Keyring([revoked]) and not Keyring([])


def test_the_time_to_refuse_does_not_tell_a_known_id_from_an_unknown_one() -> None:
    """A coarse check that no path skips the hash: medians within a factor of two."""
    key, text = make("one", Grants(), False)
    ring = Keyring([key])

    def median(attempt: str) -> float:
        times = []
        for _ in range(400):
            begin = time.perf_counter()
            ring.find(attempt)
            times.append(time.perf_counter() - begin)
        return sorted(times)[200]

    known, unknown = median(text[:-1] + "!"), median("ob-ffffffffffff-" + "x" * 43)
    assert 0.5 < known / unknown < 2


def test_a_bucket_refills_and_says_how_long_it_takes() -> None:
    clock = Clock(NOVEMBER)
    quotas, key = quotas_of(clock), key_of(requests_per_minute=2)
    first = quotas.reserve(key, 0)
    assert first.headers == {"x-ratelimit-limit-requests": "2", "x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "30s"}
    quotas.reserve(key, 0)
    with pytest.raises(ApiError) as refused:
        quotas.reserve(key, 0)
    assert refused.value.status == 429 and refused.value.headers is not None and refused.value.headers["Retry-After"] == "30"
    clock.now += 30
    quotas.reserve(key, 0)
    clock.now -= 1000  # a clock that is set back gives nothing
    with pytest.raises(ApiError):
        quotas.reserve(key, 0)


def test_tokens_are_reserved_and_what_was_not_used_comes_back() -> None:
    clock = Clock(NOVEMBER)
    quotas, key = quotas_of(clock), key_of(tokens_per_minute=100)
    held = quotas.reserve(key, 90)
    with pytest.raises(ApiError, match="100 tokens a minute"):
        quotas.reserve(key, 20)
    held.settle(10)
    held.settle(0)  # once is enough
    assert quotas.reserve(key, 90).headers["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(ApiError) as refused:
        quotas.reserve(key, 101)
    assert (
        refused.value.headers is not None
        and refused.value.headers["x-should-retry"] == "false"
        and "Retry-After" not in refused.value.headers
    )


def test_use_beyond_the_reservation_is_a_debt() -> None:
    clock = Clock(NOVEMBER)
    quotas, key = quotas_of(clock), key_of(tokens_per_minute=60)
    quotas.reserve(key, 10).settle(120)
    clock.now += 60
    with pytest.raises(ApiError):
        quotas.reserve(key, 1)
    clock.now += 1
    quotas.reserve(key, 1)


def test_a_month_ends_and_counts_what_is_under_way() -> None:
    clock = Clock(NOVEMBER)
    spent = {}
    quotas, key = quotas_of(clock, spent), key_of(monthly_tokens=100)
    spent[key.id] = 40
    held = quotas.reserve(key, 50)
    with pytest.raises(ApiError, match="10 of its 100") as refused:
        quotas.reserve(key, 11)
    assert refused.value.code == "insufficient_quota"
    held.settle(20)
    quotas.reserve(key, 40).settle(40)
    spent[key.id] = 0
    clock.now += 11 * 86400
    quotas.reserve(key, 100)


def test_requests_at_a_time_and_limits_changed_meanwhile() -> None:
    clock = Clock(NOVEMBER)
    quotas, key = quotas_of(clock), key_of(concurrency=1, requests_per_minute=10)
    held = quotas.reserve(key, 0)
    with pytest.raises(ApiError, match="1 requests at a time"):
        quotas.reserve(key, 0)
    held.settle(0)
    changed = Key(key.id, key.name, key.hash, key.salt, Grants(requests_per_minute=5))
    assert quotas.reserve(changed, 0).headers["x-ratelimit-remaining-requests"] == "3", "what was used stays used"


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90), st.floats(0, 90)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_no_sequence_of_requests_gets_more_than_the_limit_and_its_refill(steps: list[tuple[int, int, float]]) -> None:
    clock = Clock(NOVEMBER)
    quotas, key, used = quotas_of(clock), key_of(tokens_per_minute=60), 0
    for asked, waited, share in steps:
        clock.now += waited
        try:
            taken = quotas.reserve(key, asked)
        except ApiError:
            continue
        part = int(asked * share / 90)
        taken.settle(part)
        used += part
        assert used <= 60 + (clock.now - NOVEMBER) + 1e-6


def test_what_a_request_may_take() -> None:
    assert at_most("/v1/completions", {"prompt": "x" * 8, "max_tokens": 5}) == (2, 5)
    assert at_most("/v1/completions", {"prompt": [[1, 2, 3], [4]], "max_tokens": 5, "best_of": 3}) == (4, 30)
    assert at_most("/v1/completions", {"prompt": [1, 2, 3]}) == (3, 16)
    assert at_most("/v1/completions", {"prompt": "a", "max_tokens": -(10**9), "n": -5}) == (1, 16), "nobody earns tokens"
    assert at_most("/infill", {"input_prefix": "abcd", "n_predict": -1, "max_tokens": 1}) == (1, 1024), "nor by another endpoint's field"
    assert at_most("/infill", {"input_extra": [{"text": "x" * 400}], "n_predict": 3})[0] > 100
    assert at_most("/v1/chat/completions", {"messages": [], "max_completion_tokens": 7, "max_tokens": 9, "n": 2})[1] == 14
    assert at_most("/v1/chat/completions", {"messages": "\ud800"}) == (1, 1024)
    assert at_most("/v1/embeddings", {"input": ["abcd", "efgh"]}) == (2, 0)
    assert [span(value) for value in (0, 0.0123, 1.5, 60, 361)] == ["0ms", "13ms", "1.5s", "1m0s", "6m1s"]


def test_an_alias_is_written_and_refused() -> None:
    assert parse_alias("prod=a:90,ft:base:7:10") == ("prod", (("a", 90), ("ft:base:7", 10)))
    assert parse_alias("prod=a") == ("prod", (("a", 1),))
    for odd in ("prod", "=a", "prod=", "prod=a:0", "prod=a:-1", "prod=a:1.5", "prod=a:1,a:2", "prod=a:٣", "prod=:4"):
        with pytest.raises(InputError):
            parse_alias(odd)


def test_shares_hold_and_a_moved_share_moves_only_its_own_traffic() -> None:
    before = {who: choose("prod", (("a", 90), ("b", 10)), str(who)) for who in range(4000)}
    after = {who: choose("prod", (("a", 80), ("b", 20)), str(who)) for who in range(4000)}
    assert 0.08 < Counter(before.values())["b"] / 4000 < 0.12
    moved = {(before[who], after[who]) for who in before if before[who] != after[who]}
    assert moved == {("a", "b")}, "who was on the new model stays there while its share grows"


def test_a_conversation_is_known_by_its_user_or_its_beginning() -> None:
    opening = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
    later = [*opening, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]
    assert who_asks({"messages": opening}, "1") == who_asks({"messages": later}, "2")
    assert who_asks({"messages": later, "user": "ann"}, "1") == who_asks({"prompt": "x", "user": "ann"}, "2")
    assert who_asks({"prompt": "x"}, "1") != who_asks({"prompt": "x"}, "2")


def test_energy_is_shared_by_those_who_run_and_adds_up(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text(str(10**12))

    def burn(joules: float) -> None:
        burn.total += joules  # type: ignore[attr-defined]
        (package / "energy_uj").write_text(str(int(burn.total * 1e6)))  # type: ignore[attr-defined]

    burn.total = 0.0  # type: ignore[attr-defined]
    burn(0)
    energy = SharedEnergy(counters(tmp_path))
    assert energy.source == "measured:rapl, shared by requests in flight"
    burn(100)  # idle: nobody's
    one = energy.begin()
    burn(10)
    two = energy.begin()
    burn(6)
    assert energy.end(one) == pytest.approx(13)
    burn(4)
    assert energy.end(two) == pytest.approx(7)
    burn(50)
    three = energy.begin()
    (package / "energy_uj").unlink()
    assert energy.end(three) is None and energy.source is None
    assert SharedEnergy([]).source is None
