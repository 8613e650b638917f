"""Streaming text against the text decoded at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.generate.detokenise import Detokeniser


def stream(tokens: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], Detokeniser]:
    detokeniser = Detokeniser(tokens.__getitem__, stop)
    pieces = []
    for token in range(len(tokens)):
        pieces.append(detokeniser.add(token))
        if detokeniser.stopped:
            return pieces, detokeniser
    return [*pieces, detokeniser.close()], detokeniser


def test_a_character_in_pieces_appears_whole() -> None:
    snowman = "☃".encode()
    pieces, _ = stream([b"a", snowman[:1], snowman[1:2], snowman[2:] + b"b"])
    assert pieces == ["a", "", "", "☃b", ""]


@given(st.lists(st.binary(max_size=4), max_size=20))
def test_pieces_join_to_the_whole_decoding(tokens: list[bytes]) -> None:
    pieces, detokeniser = stream(tokens)
    assert "".join(pieces) == detokeniser.text == b"".join(tokens).decode("utf-8", errors="replace")


@given(
    st.lists(st.text("abé", max_size=3).map(str.encode), max_size=12),
    st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_text_ends_before_the_first_stop_string(tokens: list[bytes], stops: list[str]) -> None:
    """The brute force: the earliest prefix of tokens that contains a stop string, cut where the string begins."""
    whole = ""
    for token in tokens:
        whole += token.decode()
        hits = [whole.find(stop) for stop in stops if stop in whole]
        if hits:
            whole = whole[: min(hits)]
            break
    else:
        hits = []
    pieces, detokeniser = stream(tokens, tuple(stops))
    assert "".join(pieces) == detokeniser.text == whole
    assert detokeniser.stopped == bool(hits)


@pytest.mark.parametrize("last", [b"x", b""])
def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none(last: bytes) -> None:
    pieces, _ = stream([b"one\n", b"\n#", last], ("\n\n##",))
    assert pieces[:2] == ["one", ""]
    assert "".join(pieces) == "one\n\n#" + last.decode()
