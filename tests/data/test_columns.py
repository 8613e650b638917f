"""Every column layout, every reason to drop a row, and real files of both kinds."""

from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import FledgeError
from fledge.core.nouns import Comparison, Conversation, Document, Message
from fledge.data.columns import to_comparisons, to_conversations, to_documents
from fledge.data.readers import read

SHARED = Path(__file__).parents[3] / "shared" / "data"
S, U, A = (lambda content, role=role: Message(role, content) for role in ("system", "user", "assistant"))


def dicts(*messages: Message) -> list[dict[str, str]]:
    return [message.as_dict() for message in messages]


def test_documents() -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "source": "s", "kind": "code"},
        {"text": "b", "source": 3},
        {"text": " "},
        {"title": "x"},
        {"text": 5},
    ]
    documents, dropped = to_documents(rows)
    assert documents == [Document("a", "s", "code"), Document("b")]
    assert dropped == {"empty text": 1, "no text column": 1, "text is not a string": 1}


CONVERSATIONS: dict[str, tuple[dict[str, Any], tuple[Message, ...]]] = {
    "messages": ({"messages": dicts(S("s"), U("u"), A("a"), U("v"), A("b"))}, (S("s"), U("u"), A("a"), U("v"), A("b"))),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}, *dicts(A("a"))]},
        (U("u"), A("a")),
    ),
    "developer": (
        {"messages": [{"role": "developer", "content": "s"}, *dicts(U("u"), A("a"))]},
        (S("s"), U("u"), A("a")),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
        (U("u"), A("a")),
    ),
    "prompt and completion": ({"prompt": "u ", "completion": " a<|endoftext|>"}, (U("u"), A("a"))),
    "prompt messages": ({"prompt": dicts(S("s"), U("u")), "completion": dicts(A("a"))}, (S("s"), U("u"), A("a"))),
    "alpaca": ({"instruction": "i", "input": "x", "output": "o"}, (U("i\n\nx"), A("o"))),
    "alpaca without input": ({"instruction": "i", "input": "", "output": "o"}, (U("i"), A("o"))),
    "alpaca with response": ({"instruction": "i", "input": None, "response": "o"}, (U("i"), A("o"))),
    "alpaca with system": ({"instruction": "i", "system": "s", "output": "o"}, (S("s"), U("i"), A("o"))),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation_layouts(name: str) -> None:
    row, expected = CONVERSATIONS[name]
    assert to_conversations([{"source": "x", "kind": "prose"} | row]) == ([Conversation(expected)], {})


UNUSABLE: dict[str, dict[str, Any]] = {
    "two system messages": {"messages": dicts(S("s"), S("t"), U("u"), A("a"))},
    "a system message after the first turn": {"messages": dicts(U("u"), S("s"), A("a"))},
    "no turn from the assistant": {"messages": dicts(S("s"), U("u"))},
    "nothing before the assistant's first turn": {"messages": dicts(S("s"), A("a"), U("u"), A("b"))},
    "an empty turn": {"messages": dicts(U("u"), A(" "))},
    "a message whose role is 'tool'": {"messages": [*dicts(U("u"), A("a")), {"role": "tool", "content": "x"}]},
    "a message whose role is 'None'": {"messages": [{"content": "x"}]},
    "content is not text": {"messages": [{"role": "user", "content": None}, *dicts(A("a"))]},
    "messages is not a list of objects": {"messages": "hello"},
    "columns of no known layout": {"question": "q", "answer": "a"},
    "no prompt": {"completion": "a"},
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_unusable_conversations_are_dropped_with_the_reason(reason: str) -> None:
    good = {"prompt": "u", "completion": "a"}
    made, dropped = to_conversations([good, UNUSABLE[reason], good])
    assert made == [Conversation((U("u"), A("a")))] * 2
    assert dropped == {reason: 1}


HH = "\n\nHuman: u\n\nAssistant: a\n\nHuman: Human: v?\nok\n\nAssistant: "
HH_PROMPT = (U("u"), A("a"), U("Human: v?\nok"))
UP = (U("u"),)
COMPARISONS: dict[str, tuple[dict[str, Any], Comparison]] = {
    "strings": ({"prompt": "u", "chosen": "a", "rejected": "b"}, Comparison(UP, ("a", "b"), (0, 1))),
    "messages": (
        {"prompt": dicts(S("s"), U("u")), "chosen": dicts(A("a")), "rejected": dicts(A("b"))},
        Comparison((S("s"), U("u")), ("a", "b"), (0, 1)),
    ),
    "prompt repeated in the answers": (
        {"prompt": dicts(U("u")), "chosen": dicts(U("u"), A("a")), "rejected": dicts(U("u"), A("b"))},
        Comparison(UP, ("a", "b"), (0, 1)),
    ),
    "implicit": (
        {"chosen": dicts(U("u"), A("a")), "rejected": dicts(U("u"), A("b"))},
        Comparison(UP, ("a", "b"), (0, 1)),
    ),
    "dialogue": (
        {"chosen": HH + "good\n\nx", "rejected": HH + "bad"},
        Comparison(HH_PROMPT, ("good\n\nx", "bad"), (0, 1)),
    ),
    "dialogue as prompt": (
        {"prompt": HH, "chosen": " good", "rejected": " bad"},
        Comparison(HH_PROMPT, ("good", "bad"), (0, 1)),
    ),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "u"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        Comparison(UP, ("a", "b"), (0, 1)),
    ),
    "alpaca": (
        {"instruction": "i", "input": "x", "chosen": "a", "rejected": "b"},
        Comparison((U("i\n\nx"),), ("a", "b"), (0, 1)),
    ),
    "in order": ({"prompt": "u", "completions": ["a", "b", "c"]}, Comparison(UP, ("a", "b", "c"), (0, 1, 2))),
    "ranks with ties": (
        {"prompt": "u", "completions": ["a", "b", "c", "d"], "ranks": [3, 1, 3, 7]},
        Comparison(UP, ("a", "b", "c", "d"), (1, 0, 1, 2)),
    ),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison_layouts(name: str) -> None:
    row, expected = COMPARISONS[name]
    assert to_comparisons([row]) == ([expected], {})


BAD_COMPARISONS: dict[str, list[dict[str, Any]]] = {
    "no prompt": [{"chosen": "a", "rejected": "b"}],
    "chosen and rejected answer different prompts": [
        {"chosen": dicts(U("u"), A("a")), "rejected": dicts(U("v"), A("b"))},
        {"chosen": dicts(U("u"), A("a"), U("w"), A("c")), "rejected": dicts(U("u"), A("b"))},
    ],
    "fewer than two different answers": [
        {"prompt": "u", "chosen": "a", "rejected": "a "},
        {"prompt": "u", "completions": ["a"]},
    ],
    "all answers tie": [{"prompt": "u", "completions": ["a", "b"], "ranks": [1, 1]}],
    "as many ranks as completions are needed": [{"prompt": "u", "completions": ["a", "b"], "ranks": [1]}],
    "ranks are not numbers": [{"prompt": "u", "completions": ["a", "b"], "ranks": [1, "2"]}],
    "completions is not a list": [{"prompt": "u", "completions": "ab"}],
    "an empty turn": [{"prompt": "u", "chosen": "a", "rejected": " "}],
    "an answer is not one turn of the assistant": [
        {"prompt": "u", "chosen": dicts(A("a"), U("v"), A("b")), "rejected": "c"},
        {"chosen": dicts(U("u"), A("a"), U("v")), "rejected": dicts(U("u"), A("a"), U("w"))},
    ],
    "columns of no known layout": [{"prompt": "u", "chosen": "a"}],
}


@pytest.mark.parametrize("reason", BAD_COMPARISONS)
def test_unusable_comparisons_are_dropped_with_the_reason(reason: str) -> None:
    good, expected = COMPARISONS["strings"]
    rows = BAD_COMPARISONS[reason]
    assert to_comparisons([good, *rows]) == ([expected], {reason: len(rows)})


@pytest.mark.parametrize("convert", [to_documents, to_conversations, to_comparisons])
def test_wrong_columns_are_an_error_that_names_both(convert: Any) -> None:
    with pytest.raises(FledgeError, match=r"no row can be used: 2 × .*\(columns: title, body\)") as error:
        convert([{"title": "a", "body": "b", "source": "x"}, {"title": "c"}])
    assert error.value.remedy.startswith("expected columns: ")
    assert convert([]) == ([], {})


def shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"needs the real data in {SHARED}")
    return SHARED / path


@pytest.mark.parametrize(
    "name",
    [
        "alpaca_en_demo.jsonl.gz",
        "code_alpaca_2k.jsonl.gz",
        "gpteacher_codegen.jsonl.gz",
        "gpteacher_roleplay.jsonl.gz",
        "gpteacher_toolformer.jsonl.gz",
        "llms_from_scratch_instructions.jsonl",
        "p3_t0_mixture.jsonl.gz",
    ],
)
def test_real_demonstrations(name: str) -> None:
    rows = read(shared("sft") / name).rows
    made, dropped = to_conversations(rows)
    assert len(made) + sum(dropped.values()) == len(rows)
    assert len(made) >= 0.98 * len(rows), dropped
    assert all([m.role for m in c.messages] == ["user", "assistant"] for c in made)
    assert not any(c.messages[-1].content.endswith("<|endoftext|>") for c in made)


def test_a_real_file_of_another_layout_is_refused_clearly() -> None:
    with pytest.raises(FledgeError, match=r"no row can be used: .* no known layout"):
        to_conversations(read(shared("sft") / "self_instruct_seed_tasks.jsonl").rows)


@pytest.mark.parametrize("name", ["harmless_base", "helpful_base", "helpful_online", "helpful_rejection_sampled"])
def test_real_preferences(name: str) -> None:
    rows = read(shared("preferences") / f"hh_{name}.jsonl.gz").rows
    made, dropped = to_comparisons(rows)
    assert len(made) + sum(dropped.values()) == len(rows)
    assert len(made) >= 0.95 * len(rows), dropped
    for comparison in made:
        assert comparison.prompt[0].role == comparison.prompt[-1].role == "user"
        assert comparison.ranks == (0, 1)
    # The parts spell the file's own text again, up to the blanks around turns.
    words = [[w for m in c.prompt for w in m.content.split()] + c.completions[0].split() for c in made[:200]]
    originals = [row["chosen"].replace("\n\nHuman:", " ").replace("\n\nAssistant:", " ").split() for row in rows]
    assert all(w in originals for w in words)


def test_a_comparison_may_have_a_weight() -> None:
    row = {"prompt": "u", "chosen": "a", "rejected": "b"}
    rows = [row, row | {"weight": 0.25}, row | {"weight": None}, row | {"weight": "much"}, row | {"weight": -1}]
    comparisons, dropped = to_comparisons(rows)
    assert [comparison.weight for comparison in comparisons] == [1.0, 0.25, 1.0]
    assert list(dropped.values()) == [2]
