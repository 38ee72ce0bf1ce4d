"""Figures as people read them."""

from __future__ import annotations

import math

from openbook.words import NOTHING, SPACE, count, duration, energy, hours, printable, rounded, size


def test_figures_keep_three_digits_and_their_unit() -> None:
    shown = [rounded(39_904), rounded(1_577_088), rounded(999_999), size(0), size(999.7), energy(6172.5)]
    expected = ["39,904", "1.58 million", "1.00 million", "0 bytes", "1.00 kB", "6.17 kJ (1.71 Wh)"]
    assert [text.replace(SPACE, " ") for text in shown] == expected


def test_times_take_two_units() -> None:
    shown = [duration(seconds).replace(SPACE, " ") for seconds in (0.04, 12.34, 59.96, 605, 3599.7, 7500, 200_000)]
    assert shown == ["0.04 s", "12.3 s", "1 min 00 s", "10 min 05 s", "1 h 00 min", "2 h 05 min", "2 days 8 h"]
    assert (hours(0.4), hours(1000)) == ("0.00011", "0.28")


def test_what_is_no_number_is_a_dash() -> None:
    for value in (None, math.nan, math.inf, "12", True):
        assert {show(value) for show in (count, rounded, size, energy, duration, hours)} == {NOTHING}


def test_text_keeps_its_lines_and_loses_its_controls() -> None:
    assert printable("a\n\tb\x00\x1b\x85\ud800é") == "a\n\tb␀␛\N{REPLACEMENT CHARACTER}?é"
