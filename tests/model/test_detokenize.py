from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.model.detokenize import Decoder


def decoded(pieces: Sequence[bytes], stop: Sequence[str] = ()) -> tuple[list[str], Decoder]:
    decoder = Decoder(stop)
    parts = []
    for piece in pieces:
        parts.append(decoder.push(piece))
        if decoder.stopped:
            return parts, decoder
    return [*parts, decoder.finish()], decoder


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The specification: read on until the text ends in a stop string, and take the longest of those off."""
    for end in range(len(text) + 1):
        if ends := [string for string in stop if text[:end].endswith(string)]:
            return text[: end - len(max(ends, key=len))], True
    return text, False


@st.composite
def split(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes, cut into tokens anywhere."""
    whole = draw(content)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


FEW = st.text(alphabet="ab\n€😀", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\n€😀\ufffd", min_size=1, max_size=5), max_size=4)


@given(split(FEW.map(str.encode) | st.binary(max_size=30)), STOPS)
def test_the_stream_is_the_whole_text_cut_at_the_first_stop(pieces: list[bytes], stop: list[str]) -> None:
    parts, decoder = decoded(pieces, stop)
    assert ("".join(parts), decoder.stopped) == cut(b"".join(pieces).decode(errors="replace"), stop)


@given(split(st.text(max_size=20).map(str.encode)))
def test_without_stop_strings_every_whole_character_comes_at_once(pieces: list[bytes]) -> None:
    decoder = Decoder()
    taken, given_out = b"", ""
    for piece in pieces:
        taken += piece
        given_out += decoder.push(piece)
        assert given_out == taken.decode(errors="ignore")


@given(split(FEW.map(str.encode)), STOPS)
def test_no_more_is_held_back_than_could_become_a_stop_string(pieces: list[bytes], stop: list[str]) -> None:
    decoder = Decoder(stop)
    taken, given_out = b"", ""
    for piece in pieces:
        taken += piece
        given_out += decoder.push(piece)
        if not decoder.stopped:
            assert len(taken.decode(errors="ignore")) - len(given_out) < max(map(len, stop), default=1)


@given(split(FEW.map(str.encode) | st.binary(max_size=30)))
def test_each_token_begins_in_the_character_of_its_first_byte(pieces: list[bytes]) -> None:
    decoder = Decoder()
    taken = b""
    for piece in filter(None, pieces):
        decoder.push(piece)
        assert decoder.begin == len((taken + piece[:1]).decode(errors="replace")) - 1
        taken += piece


def test_a_stop_string_over_several_tokens_never_shows() -> None:
    parts, decoder = decoded([b"one\n", b"\n", b"two"], ["\n\n"])
    assert parts == ["one", ""] and decoder.stopped


def test_what_only_looked_like_a_stop_string_is_given_out() -> None:
    parts, decoder = decoded([b"a EN", b"TER"], ["END"])
    assert parts == ["a ", "ENTER", ""] and not decoder.stopped


def test_an_unfinished_character_at_the_end_is_shown_as_such() -> None:
    parts, _ = decoded(["ab€".encode()[:-1]])
    assert parts == ["ab", "\ufffd"]


@pytest.mark.parametrize("tokens", [[b"abcd"], [b"abc", b"d"], [b"a", b"b", b"c", b"d"]])
def test_the_cut_does_not_depend_on_how_tokens_divide_the_text(tokens: list[bytes]) -> None:
    """ "bc" is complete before "abcd" is, so a stream has already said "a" when "abcd" turns up."""
    parts, _ = decoded(tokens, ["abcd", "bc"])
    assert "".join(parts) == "a"


def test_nothing_comes_after_a_stop() -> None:
    decoder = Decoder(["."])
    assert (decoder.push(b"a.b"), decoder.push(b"c"), decoder.finish()) == ("a", "", "")
