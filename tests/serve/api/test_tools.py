"""Reading tool calls from an answer: the same, however it is cut."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fledge.serve.tools import CallReader, Delta

NAMES = frozenset({"weather", "clock"})
CALLS = (
    'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "a \\"}{ b", "days": [1, {"x": 2}]}}\n'
    '</tool_call>\n<tool_call>{"arguments": {"zone": "UTC"}, "name": "clock"}</tool_call>\n Done <b>.'
)


def read(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    reader, found = CallReader(NAMES), list[Delta]()
    for piece in pieces:
        found += reader.add(piece)
    found += reader.close()
    calls: list[list[str]] = []
    for delta in found:
        if delta.name:
            assert delta.call == len(calls)
            calls.append([delta.name, ""])
        elif delta.call is not None:
            assert delta.call == len(calls) - 1
            calls[-1][1] += delta.arguments
    return "".join(delta.text for delta in found), [(name, arguments) for name, arguments in calls]


@given(st.lists(st.integers(0, len(CALLS)), max_size=20))
def test_a_cut_changes_nothing(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(CALLS)]
    text, calls = read([CALLS[a:b] for a, b in pairwise(places)])
    assert text == "Let me see.\nDone <b>."
    assert [name for name, _ in calls] == ["weather", "clock"]
    assert json.loads(calls[0][1]) == {"city": 'a "}{ b', "days": [1, {"x": 2}]}
    assert json.loads(calls[1][1]) == {"zone": "UTC"}


@given(st.text(alphabet='<>tool_call/{}"name: \n', max_size=200))
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read(list(text)) == read([text])
    if "<tool_call>" not in text:
        assert read([text]) == (text, [])


def test_an_unknown_tool_is_text() -> None:
    text = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'
    assert read([text]) == (text, [])


def test_a_call_that_breaks_off_keeps_what_there_is() -> None:
    assert read(['<tool_call>{"name": "clock", "arguments": {"zone": "U'])[1] == [("clock", '{"zone": "U')]
