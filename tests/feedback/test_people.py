"""Who counts: consent that can be withdrawn, a test on known answers; what a team sees; private data in chats."""

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")

from fledge.core.errors import FledgeError
from fledge.feedback import queue
from fledge.feedback.chats import Answers, add_chat_rankings, add_chats
from fledge.feedback.importing import add_rows, import_rows
from fledge.feedback.people import TEST, admit, consent, known_about, standing
from fledge.feedback.privacy import masked
from fledge.feedback.store import Store
from fledge.feedback.team import fallen, team

RIGHT = {"Good": 0, "Fair": 1, "Bad": 2}


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return Store.open(tmp_path / "feedback.db")
    return Store.open(request.getfixturevalue("postgres_url"))


def items(count: int, offset: int = 0) -> list[dict[str, object]]:
    return [
        {"prompt": f"Question {i + offset}?", "completions": ["Bad", "Good", "Fair"], "ranks": [2, 0, 1]}
        for i in range(count)
    ]


def rank(store: Store, person: str, given: queue.Given, honest: bool = True) -> int:
    ranks = [RIGHT[text] if honest else 2 - RIGHT[text] for _, text in given.answers]
    content = {"completions": [number for number, _ in given.answers], "ranks": ranks}
    return queue.submit(store, person, given.task, "ranking", content)


def take_test(store: Store, person: str, honest: bool) -> None:
    for _ in range(TEST):
        given = queue.next_task(store, person, ["demonstrate"])  # the test comes first, whatever is asked for
        assert given
        assert given.kind == "rank"
        rank(store, person, given, honest)


def test_only_who_passes_the_test_gets_real_tasks(store: Store) -> None:
    add_rows(store, items(TEST + 2), screening=True)
    real = queue.add_task(store, "demonstrate", [{"role": "user", "content": "Real?"}], wanted=9)
    assert standing(store, "ann").test == "open"
    assert queue.progress(store, "ann") == {"done": 0, "left": 1}
    take_test(store, "ann", honest=True)
    take_test(store, "eve", honest=False)
    assert (standing(store, "ann").test, standing(store, "ann").share) == ("passed", 1.0)
    assert (standing(store, "eve").test, standing(store, "eve").share) == ("failed", 0.0)
    given = queue.next_task(store, "ann", ["demonstrate"])
    assert given
    assert given.task == real
    assert queue.next_task(store, "eve", ["demonstrate"]) is None
    assert {said.person for said in store.judgements(["ranking"])} == {"ann"}
    assert {said.person for said in store.judgements(["ranking"], counted=False)} == {"ann", "eve"}
    assert queue.undo(store, "eve") is None  # a test that is over stays as it was
    admit(store, "eve", by="root")
    assert queue.next_task(store, "eve", ["demonstrate"])
    assert [(row["passed"], row["admitted_by"]) for row in known_about(store, "eve")] == [(False, ""), (True, "root")]
    with pytest.raises(FledgeError, match="nobody"):
        admit(store, "nobody", by="root")


def test_a_test_half_done_can_be_undone_and_skipping_is_wrong(store: Store) -> None:
    add_rows(store, items(2), screening=True)
    first = queue.next_task(store, "ann")
    assert first
    rank(store, "ann", first, honest=False)
    assert queue.undo(store, "ann") == first.task
    assert queue.next_task(store, "ann") == first
    rank(store, "ann", first)
    second = queue.next_task(store, "ann")
    assert second
    queue.submit(store, "ann", second.task, "skip", {"reason": "hard"})
    assert (standing(store, "ann").test, standing(store, "ann").share) == ("failed", 0.5)
    with pytest.raises(FledgeError, match="is over"):
        rank(store, "ann", second)
    with pytest.raises(FledgeError, match="no right ranks"):
        add_rows(store, [{"prompt": "?", "completions": ["a", "b"]}], screening=True)


def test_consent_is_kept_with_its_version_and_can_be_withdrawn(store: Store) -> None:
    version = store.guideline("1", "Be kind.")
    assert standing(store, "ann").agreed == ""
    consent(store, "ann", version, True)
    assert standing(store, "ann").agreed == "1"
    store.rate("ann", [{"role": "user", "content": "Hi"}], "Hello", 1)
    store.rate("bob", [{"role": "user", "content": "Hi"}], "Hello", 1)
    consent(store, "ann", version, False)
    assert standing(store, "ann").agreed == ""
    assert [said.person for said in store.judgements()] == ["bob"]
    assert len(store.judgements(latest=False)) == 2  # nothing is thrown away
    consent(store, "ann", version, True)
    assert len(store.judgements()) == 2
    assert [row["given"] for row in known_about(store, "ann")] == [True, False, True]
    store.erase("ann")
    assert known_about(store, "ann") == []


def test_said_twice_the_later_counts_and_both_stay(store: Store) -> None:
    queue.add_task(store, "rank", [{"role": "user", "content": "?"}], [{"text": text} for text in RIGHT])
    given = queue.next_task(store, "ann")
    assert given
    first, second = rank(store, "ann", given, honest=False), rank(store, "ann", given)
    assert store.replaced_by(second) == first
    assert [said.id for said in store.judgements(["ranking"])] == [second]
    assert len(store.judgements(latest=False)) == 2
    queue.undo(store, "ann")
    assert store.judgements(["ranking"]) == []
    assert queue.next_task(store, "ann") == given


def test_a_task_left_and_done_by_another_does_not_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.add_task(store, "rank", [{"role": "user", "content": "?"}], [{"text": text} for text in RIGHT])
    given = queue.next_task(store, "ann")
    assert given
    monkeypatch.setattr(queue, "LAPSE", -queue.LAPSE)
    other = queue.next_task(store, "bob")
    assert other
    assert other.task == given.task
    rank(store, "bob", other)
    assert queue.next_task(store, "ann") is None
    rank(store, "ann", given)  # the tab was open still: what was done is kept
    assert {said.person for said in store.judgements(["ranking"])} == {"ann", "bob"}


def test_overlap_is_a_share_of_the_tasks(store: Store) -> None:
    rows = [{"prompt": f"Question {i}?", "completions": ["a", "b"]} for i in range(10)]
    add_rows(store, rows, 3, overlap=0.2)
    assert team(store)["progress"] == {"rank": {"tasks": 10, "wanted": 2 * 3 + 8, "there": 0}}


def test_a_team_at_a_glance(store: Store) -> None:
    add_rows(store, [{key: row[key] for key in ("prompt", "completions")} for row in items(24)], 4)
    for person in ("ann", "bob", "cid", "dan"):
        for number in range(24):
            given = queue.next_task(store, person)
            assert given
            rank(store, person, given, honest=person != "bob" or number < 12)
    queue.add_task(store, "demonstrate", [{"role": "user", "content": "Write."}])
    written = queue.next_task(store, "ann", ["demonstrate"])
    assert written
    content = {"answer": "one two five", "suggestion": "one two three four", "suggested_by": "tiny"}
    queue.submit(store, "ann", written.task, "demonstration", content)
    found = team(store)
    assert found["progress"]["rank"] == {"tasks": 24, "wanted": 96, "there": 96}
    assert found["suggestions"] == {"demonstrations": 1, "suggested": 1, "kept": 0.5}
    assert sum(day["ranking"] for day in found["days"]) == 96
    rows = {row["person"]: row for row in found["people"]}
    assert [share for _, share in rows["bob"]["drift"]] == [1.0] * 4 + [0.0] * 4
    assert [share for _, share in rows["ann"]["drift"]] == [1.0] * 8
    assert [name for name, row in rows.items() if row["falling"]] == ["bob"]  # not those whom he left
    assert store.judgements(["demonstration"])[0].content["suggested_by"] == "tiny"


def test_drift_needs_more_than_noise() -> None:
    assert fallen([1.0, 0.0] * 12) is False
    assert fallen([1.0] * 6 + [0.9] * 6) is True
    assert fallen([0.9] * 6 + [1.0] * 6) is False
    assert fallen([1.0, 0.0]) is None


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Write to ann.b+c@example.co.uk, please", "Write to [e-mail], please"),
        ("Card 4111 1111 1111 1111.", "Card [card number]."),
        ("Order 4111 1111 1111 1112", "Order 4111 1111 1111 1112"),
        ("IBAN DE89 3704 0044 0532 0130 00 and GB82WEST12345698765432", "IBAN [account] and [account]"),
        ("GB82WEST12345698765433 is none", "GB82WEST12345698765433 is none"),
        ("Ring +49 30 1234567 or (030) 123 4567", "Ring [telephone] or [telephone]"),
        ("Ring 555-123-4567, 030/123456, 01701234567", "Ring [telephone], [telephone], [telephone]"),
        ("2026-11-25, 25.11.2026, 01/2000, 3.141592653589", "2026-11-25, 25.11.2026, 01/2000, 3.141592653589"),
        ("2 + 2 = 4; 1000000 * 7 = 7000000", "2 + 2 = 4; 1000000 * 7 = 7000000"),
        ("My name is Ann van Dyke. Ann van Dyke!", "My name is [name]. [name]!"),
        ("hi, my name is anna and I", "hi, my name is [name] and I"),
        ("my name is not important", "my name is not important"),
        ("call me when Python ends", "call me when Python ends"),
        ("Call me Ishmael", "Call me [name]"),
        ("My name’s Zoë", "My name’s [name]"),
        ("What does str.upper do?", "What does str.upper do?"),
    ],
)  # fmt: skip
def test_private_data_is_masked(words: str, shown: str) -> None:
    assert masked(words) == shown


def test_chats_come_worst_first_once_each_and_masked(store: Store) -> None:
    def asked(words: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": words}]

    store.rate("ann", asked("What does the abs function do in Python 3?"), "x", 1)
    store.rate("bob", asked("what does the abs function do, in Python 3"), "x", -1)
    store.rate("bob", asked("What does the abs function do in Python 3, please?"), "x", 1)
    store.rate("bob", asked("Write to me@example.org about len"), "x", 1)
    store.rate("eve", asked("I will withdraw"), "x", -1)
    consent(store, "eve", store.guideline("1", "Be kind."), False)
    assert add_chats(store) == 2
    assert add_chats(store) == 0
    first, second = (queue.next_task(store, name, ["demonstrate"]) for name in ("p", "q"))
    assert first
    assert second
    assert first.prompt[0]["content"] == "what does the abs function do, in Python 3"
    assert second.prompt[0]["content"] == "Write to [e-mail] about len"
    assert store.erase("bob") == 3  # and the tasks that were made of his chats
    assert queue.next_task(store, "r", ["demonstrate"]) is None


def test_rated_chats_become_rankings_of_answers_by_several_models(store: Store) -> None:
    def asked(words: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": words}]

    def model(name: str) -> Answers:
        return lambda prompts, seed: [f"{name} {seed} on {turns[-1]['content']}" for turns in prompts]

    store.rate("ann", asked("fine"), "served to ann", 1)
    store.rate("bob", asked("write to me@example.org"), "to me@example.org?", -1, correction="no")
    store.rate("eve", asked("always the same"), "same", -1)
    models = {"a": model("a"), "b": model("b")}
    assert add_chat_rankings(store, {"a": lambda prompts, seed: ["same"] * len(prompts)}, count=2) == 2
    assert add_chat_rankings(store, models, count=4, wanted=2) == 1  # the one whose answers were all the same
    assert add_chat_rankings(store, models, count=4) == 0
    shown = [queue.next_task(store, person, ["rank"]) for person in ("p", "q", "r", "s", "t")]
    assert [each.prompt[0]["content"] if each else None for each in shown] == [
        "write to [e-mail]", "always the same", "always the same", "fine", None,
    ]  # fmt: skip
    assert shown[0]
    assert shown[1]
    assert {text for _, text in shown[0].answers} == {"to [e-mail]?", "same"}
    assert {text for _, text in shown[1].answers} == {"same"} | {
        f"{name} {seed} on always the same" for name, seed in (("a", 1), ("b", 2), ("a", 3))
    }
    names = {model for _, model in store.answers().values()}
    assert names == {"", "a", "b"}
    assert store.erase("bob") == 1
    assert queue.next_task(store, "u", ["rank"]) is None
    assert not any("e-mail" in text for text, _ in store.answers().values())


def test_a_ranking_of_an_unknown_item_is_left_out_with_the_reason(store: Store) -> None:
    task = {
        "data": {"prompt": "?", "items": [{"id": "x", "body": "one"}, {"id": "y", "body": "two"}]},
        "annotations": [{"completed_by": 1, "result": [{"type": "ranker", "value": {"ranker": ["x", "gpt-9"]}}]}],
    }
    with pytest.raises(FledgeError, match="'gpt-9', which is no item"):
        import_rows(store, [task], "file")
    assert store.judgements() == []
