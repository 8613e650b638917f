"""Out of the store into training, and into it from elsewhere; what is written is read back by our own readers."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")

from fledge.core.errors import FledgeError
from fledge.data.columns import to_comparisons, to_conversations
from fledge.feedback import queue
from fledge.feedback.chats import add_chats
from fledge.feedback.exporting import Filter, export
from fledge.feedback.importing import add_rows, import_rows
from fledge.feedback.privacy import masked
from fledge.feedback.store import Store

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ASKED = [{"role": "user", "content": "What does abs do?"}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "feedback.db")


def filled(store: Store) -> None:
    store.rate("ann", ASKED, "Nothing.", -1, correction="The absolute value.", model="sft")
    store.rate("bob", ASKED, "It is abs.", 1, model="sft")
    guideline = store.guideline("1", "Be true.")
    queue.add_task(store, "demonstrate", [{"role": "user", "content": "And max?"}])
    queue.add_task(store, "rank", ASKED, [{"text": text} for text in ("a", "b", "c")], wanted=3)
    for person, order in (("ann", (0, 0, 1)), ("bob", (0, 1, 2)), ("dan", (2, 1, 0))):
        ranks = dict(zip("abc", order))
        given = queue.next_task(store, person, ["rank"])
        assert given
        content = {"completions": [n for n, _ in given.answers], "ranks": [ranks[text] for _, text in given.answers]}
        queue.submit(store, person, given.task, "ranking", content, guideline_id=guideline)
    given = queue.next_task(store, "ann", ["demonstrate"])
    assert given
    written = {"answer": "The largest of them.", "suggestion": "The largest."}
    queue.submit(store, "ann", given.task, "demonstration", written)


def test_messages_are_demonstrations_and_corrections(store: Store) -> None:
    filled(store)
    rows = export(store, "messages")
    conversations, dropped = to_conversations(rows)
    assert dropped == {}
    assert {each.messages[-1].content for each in conversations} == {"The absolute value.", "The largest of them."}


def test_rankings_keep_ties_and_pairs_leave_them_out(store: Store) -> None:
    filled(store)
    rows = export(store, "rankings", Filter(people=("ann",)))
    by_size = {len(row["completions"]): row for row in rows}
    assert sorted(by_size[3]["completions"][:2]) == ["a", "b"]
    assert by_size[3]["ranks"] == [0, 0, 1]
    assert by_size[2]["completions"] == ["The absolute value.", "Nothing."]
    comparisons, dropped = to_comparisons(rows)
    assert dropped == {}
    assert len(comparisons) == 2
    pairs = export(store, "pairs", Filter(people=("ann",)))
    assert len(pairs) == 3
    assert to_comparisons(pairs)[1] == {}
    assert {(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs} == {
        ("a", "c"), ("b", "c"), ("The absolute value.", "Nothing."),
    }  # fmt: skip


def test_filters(store: Store) -> None:
    filled(store)
    assert len(export(store, "rankings", Filter(guideline="1"))) == 3
    assert export(store, "rankings", Filter(until="2000-01-01")) == []
    trusted = export(store, "rankings", Filter(guideline="1", agreement=0.4))
    assert {row["labeller"] for row in trusted} == {"ann", "bob"}
    assert len(export(store, "prompts")) == 2
    with pytest.raises(FledgeError, match="unknown layout"):
        export(store, "nonsense")  # type: ignore[arg-type]


def test_what_was_kept_of_a_suggestion_is_measured(store: Store) -> None:
    filled(store)
    (said,) = store.judgements(["demonstration"])
    assert said.content["kept"] == 0.5  # "The" of "The largest."; "largest" has lost its full stop


def said_of(store: Store) -> list[tuple[str, list[str], list[int]]]:
    texts = store.answers()
    return [
        (each.person, [texts[number][0] for number in each.content["completions"]], each.content["ranks"])
        for each in store.judgements(["ranking"])
    ]


HH = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away."}
ULTRA = {
    "instruction": "Say hello",
    "completions": [
        {"model": model, "response": text, "annotations": {"helpfulness": {"Rating": a}, "honesty": {"Rating": b}}}
        for model, text, a, b in (("m1", "No.", "1", "3"), ("m2", "Hello!", "5", "5"), ("m3", "Bye.", "2", "2"))
    ],
}
ARGILLA = {
    "id": "1",
    "fields": {"prompt": "Say hello", "response-1": "No.", "response-2": "Hello!"},
    "responses": {
        "ranking": [
            {"value": [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}], "user_id": "u1"},
            {"value": [{"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 1}], "user_id": "u2",
             "status": "discarded"},
        ]
    },
}  # fmt: skip
STUDIO: dict[str, Any] = {
    "id": 1,
    "data": {"prompt": "Say hello", "items": [{"id": "x", "body": "No."}, {"id": "y", "body": "Hello!"}]},
    "annotations": [
        {"completed_by": {"email": "eve@example.org"}, "result": [{"type": "ranker", "value": {"ranker": ["y", "x"]}}]}
    ],
}
PAIRWISE: dict[str, Any] = {
    "id": 2,
    "data": {"prompt": "Say hello", "answer1": "No.", "answer2": "Hello!"},
    "annotations": [{"completed_by": 3, "result": [{"type": "pairwise", "value": {"selected": "right"}}]}],
}


@pytest.mark.parametrize(
    ("row", "person", "answers", "ranks"),
    [
        (HH, "file", ["Hello!", "Go away."], [0, 1]),
        (ULTRA, "file", ["No.", "Hello!", "Bye."], [1, 0, 1]),
        (ARGILLA, "argilla u1", ["Hello!", "No."], [0, 1]),
        (STUDIO, "label studio eve@example.org", ["Hello!", "No."], [0, 1]),
        (PAIRWISE, "label studio 3", ["No.", "Hello!"], [1, 0]),
    ],
    ids=["hh-rlhf", "ultrafeedback", "argilla", "label studio ranker", "label studio pairwise"],
)
def test_what_others_write_is_read_once(
    store: Store, row: dict[str, Any], person: str, answers: list[str], ranks: list[int]
) -> None:
    assert import_rows(store, [row], "file") == {"ranking": 1}
    import_rows(store, [row], "file")
    assert said_of(store) == [(person, answers, ranks)]


def test_demonstrations_are_read(store: Store) -> None:
    assert import_rows(store, [{"instruction": "Say hello", "output": "Hello!"}], "file") == {"demonstration": 1}
    assert export(store, "messages")[0]["messages"][-1]["content"] == "Hello!"


def test_bad_rows_are_counted_and_the_good_ones_kept(store: Store) -> None:
    unknown = json.loads(json.dumps(ARGILLA).replace('"response-2", "rank"', '"response-9", "rank"'))
    counts = import_rows(store, [HH, unknown, {"nothing": 1}, {"prompt": 5, "completions": [None]}], "file")
    assert counts["ranking"] == 1
    assert sum(counts.values()) == 4
    assert any("response-9" in reason for reason in counts)
    with pytest.raises(FledgeError, match="nothing can be read"):
        import_rows(store, [{"nothing": 1}], "file")


def test_real_comparisons_go_through_the_store_unchanged(store: Store) -> None:
    file = DATA / "preferences" / "hh_harmless_base.jsonl.gz"
    if not file.is_file():
        pytest.skip("the hh-rlhf files of ../shared/data are not there")
    from fledge.data.readers import read

    rows = read(file).rows[:40]
    import_rows(store, rows, "hh")
    ours, _ = to_comparisons(export(store, "pairs"))
    theirs, _ = to_comparisons(rows)
    as_pairs = [{(each.prompt, each.completions) for each in found} for found in (ours, theirs)]
    assert as_pairs[0] == as_pairs[1]


def test_rows_become_tasks_all_or_none(store: Store) -> None:
    rows = [{"prompt": "One?"}, {"prompt": ASKED, "completions": ["a", {"text": "b", "model": "m"}]}]
    assert add_rows(store, rows, wanted=2) == 2
    with pytest.raises(FledgeError, match="row 2"):
        add_rows(store, [{"prompt": "Two?"}, {"prompt": ""}])
    assert queue.progress(store, "ann") == {"done": 0, "left": 2}


def test_chats_become_tasks_worst_first_without_private_data(store: Store) -> None:
    def ask(words: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": words}]

    store.rate("ann", ask("Fine?"), "x", 1)
    store.rate("ann", ask("Write to joe@example.org or +44 20 7946 0958"), "x", -1)
    store.rate("bob", ask("write to  JOE@example.org, or +44 20 7946 0958!"), "x", -1)
    store.rate("bob", ask("Corrected?"), "x", -1, correction="y")
    assert add_chats(store) == 2
    assert add_chats(store) == 0
    first = queue.next_task(store, "ann", ["demonstrate"])
    assert first
    assert first.prompt[0]["content"] == "Write to [e-mail] or [telephone]"
    assert masked("4111 1111 1111 1111 in 2026, 3.14159") == "[card number] in 2026, 3.14159"
