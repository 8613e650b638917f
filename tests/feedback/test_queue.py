"""Tasks: given to as many as are wanted, the same again to who comes back, undone, never twice."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")

from fledge.core.errors import FledgeError
from fledge.feedback import queue, team
from fledge.feedback.store import Store

ANSWERS = [{"text": text, "model": f"m{i}"} for i, text in enumerate(("A", "B", "C", "D"))]


def asked(i: int = 0) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {i}?"}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "feedback.db")


def test_overlap_is_kept_and_order_is_ones_own(store: Store) -> None:
    task = queue.add_task(store, "rank", asked(), ANSWERS, wanted=2)
    ann, bob = (queue.next_task(store, name) for name in ("ann", "bob"))
    assert ann
    assert bob
    assert ann.task == bob.task == task
    assert queue.next_task(store, "cid") is None
    assert queue.next_task(store, "ann") == ann  # the tab was closed and opened again
    orders = {tuple(number for number, _ in queue.next_task(Store.open(store.engine.url.database), "ann").answers)}
    assert len(orders) == 1
    assert sorted(text for _, text in ann.answers) == ["A", "B", "C", "D"]


def ranked(given: queue.Given) -> dict[str, list[int]]:
    return {"completions": [number for number, _ in given.answers], "ranks": list(range(len(given.answers)))}


def test_tasks_come_in_their_order_and_only_once_to_each(store: Store) -> None:
    late = queue.add_task(store, "demonstrate", asked(1), place=2)
    soon = queue.add_task(store, "demonstrate", asked(2), place=1)
    first = queue.next_task(store, "ann")
    assert first
    assert first.task == soon
    queue.submit(store, "ann", soon, "demonstration", {"answer": "So."})
    second = queue.next_task(store, "ann")
    assert second
    assert second.task == late
    queue.submit(store, "ann", late, "skip", {"reason": "unclear"})
    assert queue.next_task(store, "ann") is None
    assert queue.progress(store, "ann") == {"done": 2, "left": 0}


def test_undo_opens_the_task_again_and_keeps_both(store: Store) -> None:
    queue.add_task(store, "rank", asked(), ANSWERS)
    given = queue.next_task(store, "ann")
    assert given
    queue.submit(store, "ann", given.task, "ranking", ranked(given))
    assert queue.undo(store, "ann") == given.task
    assert store.judgements(["ranking"]) == []
    assert queue.next_task(store, "ann") == given
    queue.submit(store, "ann", given.task, "ranking", ranked(given) | {"ranks": [0, 0, 1, 1]})
    assert [said.content["ranks"] for said in store.judgements(["ranking"])] == [[0, 0, 1, 1]]
    assert len(store.judgements(latest=False)) == 3
    assert queue.undo(store, "bob") is None


def test_a_task_that_was_left_goes_to_somebody_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.add_task(store, "demonstrate", asked())
    assert queue.next_task(store, "ann")
    assert queue.next_task(store, "bob") is None
    monkeypatch.setattr(queue, "LAPSE", timedelta(seconds=-1))
    assert queue.next_task(store, "bob")


def test_who_judged_one_task_and_left_another_holds_only_the_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (queue.add_task(store, "demonstrate", asked(n)) for n in (1, 2))
    assert queue.next_task(store, "ann")
    queue.submit(store, "ann", first, "demonstration", {"answer": "So."})
    left = queue.next_task(store, "ann")
    assert left
    assert left.task == second
    assert queue.progress(store, "ann") == {"done": 1, "left": 1}
    assert queue.progress(store, "bob") == {"done": 0, "left": 1}
    assert team.progress(store) == {"demonstrate": {"tasks": 2, "wanted": 2, "there": 1}}
    monkeypatch.setattr(queue, "LAPSE", timedelta(seconds=-1))
    assert queue.next_task(store, "bob") == left


def test_what_does_not_fit_is_refused(store: Store) -> None:
    with pytest.raises(FledgeError, match="2 to 9"):
        queue.add_task(store, "rank", asked(), ANSWERS[:1])
    task = queue.add_task(store, "rank", asked(), ANSWERS, wanted=5)
    with pytest.raises(FledgeError, match="was not given"):
        queue.submit(store, "ann", task, "skip", {})
    given = queue.next_task(store, "ann")
    assert given
    for kind, content, words in (
        ("ranking", ranked(given) | {"ranks": [0]}, "gives each answer"),
        ("ranking", ranked(given) | {"completions": [1, 2, 3, 99]}, "gives each answer"),
        ("demonstration", {"answer": "x"}, "takes no"),
    ):
        with pytest.raises(FledgeError, match=words):
            queue.submit(store, "ann", task, kind, content)
    assert store.judgements() == []


def test_people_at_once_get_every_place_once(store: Store) -> None:
    people_at_once(store)


def test_people_at_once_get_every_place_once_on_postgresql(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    people_at_once(store)
    assert queue.undo(store, store.judgements()[-1].person) is not None
    assert len(store.judgements(["demonstration"])) == 11


def people_at_once(store: Store) -> None:
    for i in range(6):
        queue.add_task(store, "demonstrate", asked(i), wanted=2)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            while given := queue.next_task(store, name):
                queue.submit(store, name, given.task, "demonstration", {"answer": name}, token=f"{name}-{given.task}")
                queue.submit(store, name, given.task, "demonstration", {"answer": name}, token=f"{name}-{given.task}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"person {i}",)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = store.judgements(latest=False)
    assert len(found) == 12
    assert len({(said.task_id, said.person) for said in found}) == 12
