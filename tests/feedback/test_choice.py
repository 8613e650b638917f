"""Active choice: the entropy of what models would say, by hand; a queue that asks the least sure first."""

from math import log, log2
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")

from fledge.core.errors import FledgeError
from fledge.feedback import queue
from fledge.feedback.choice import choose, doubt, hardest, reorder, unsure
from fledge.feedback.store import Store


def length(conversations: list[list[dict[str, str]]]) -> list[float]:
    """A reward model for tests: the longer the better."""
    return [float(len(turns[-1]["content"])) for turns in conversations]


def shortness(conversations: list[list[dict[str, str]]]) -> list[float]:
    """Its opposite."""
    return [-value for value in length(conversations)]


def test_doubt_is_the_entropy_of_the_mean_preference() -> None:
    assert doubt([1.0], [1.0]) == 1.0
    assert doubt([1e9], [-1e9]) == 0.0
    assert doubt([log(3)], [0.0]) == pytest.approx(-0.75 * log2(0.75) - 0.25 * log2(0.25))
    assert doubt([log(3)], [0.0]) == pytest.approx(doubt([0.0], [log(3)]))
    assert doubt([9.0, -9.0], [0.0, 0.0]) == pytest.approx(1.0)  # two certain models that disagree
    assert doubt([9.0, 9.0], [0.0, 0.0]) < 0.01
    assert unsure([[0.0, 0.0, 50.0]]) == pytest.approx(1 / 3)
    assert unsure([[1.0]]) == 0.0


def test_the_hardest_answers_are_those_alike() -> None:
    assert hardest([[0.0, 10.0, 10.1, 20.0, 10.3]], 3) == [1, 2, 4]
    assert hardest([[0.0, 1.0]], 9) == [0, 1]


def test_rows_come_with_the_least_sure_first() -> None:
    rows = [
        {"prompt": "sure", "completions": ["a", "b" * 30]},
        {"prompt": [{"role": "user", "content": "unsure"}], "completions": ["aaaa", {"text": "bbbb"}, "c" * 40]},
        {"prompt": "no answers"},
    ]
    found = choose(rows, [length], answers=2)
    assert [row["completions"] for row in found] == [["aaaa", {"text": "bbbb"}], ["a", "b" * 30]]
    assert len(choose(rows, [length], most=1)) == 1
    assert choose(rows, [length, shortness], answers=2)[0]["prompt"] in ("sure", rows[1]["prompt"])
    with pytest.raises(FledgeError, match="no row has completions"):
        choose([{"prompt": "x"}], [length])


def test_waiting_tasks_are_asked_in_the_order_of_doubt(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "feedback.db")

    def add(words: str, *answers: str) -> int:
        prompt = [{"role": "user", "content": words}]
        return queue.add_task(store, "rank", prompt, [{"text": text} for text in answers])

    sure, unsure_, done = add("1", "a", "b" * 30), add("2", "aaa", "bbb"), add("0", "x", "y")
    first = queue.next_task(store, "ann", ["rank"])
    assert first
    assert first.task == sure
    queue.leave(store, "ann")
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE tasks SET place = -9 WHERE id = {done}")
    judged = queue.next_task(store, "bob", ["rank"])
    assert judged
    queue.submit(store, "bob", done, "skip", {"reason": "x"})
    assert reorder(store, [length]) == 2
    order = []
    for _ in range(2):
        given = queue.next_task(store, "ann", ["rank"])
        assert given
        order.append(given.task)
        queue.submit(store, "ann", given.task, "skip", {"reason": "x"})
    assert order == [unsure_, sure]


def test_a_real_reward_model_orders_the_queue(tiny: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fledge.cli.feedback import app

    rows, store, model = tmp_path / "rows.jsonl", str(tmp_path / "feedback.db"), str(tiny / "reward")
    long = "word " * 2000  # more than the model can read
    short = '{"prompt": "Hi", "completions": ["Hello", "Go", "Hm"]}'
    rows.write_text(f'{{"prompt": "Long", "completions": ["{long}", "b"]}}\n{short}\n')
    result = CliRunner().invoke(app, ["queue", str(rows), "--choose", model, "--answers", "2", "--store", store])
    assert result.exit_code == 0, result.output
    assert "1 in the order of doubt" in result.output
    given = queue.next_task(Store.open(store), "ann", ["rank"])
    assert given
    assert (given.prompt[0]["content"], len(given.answers)) == ("Hi", 2)


def test_real_models_answer_chats_for_people_to_rank(tiny: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fledge.cli.feedback import app

    store = str(tmp_path / "feedback.db")
    Store.open(store).rate("ann", [{"role": "user", "content": "Hi"}], "Go away", -1)
    options = ["--chats", "--answered-by", str(tiny / "base"), "--answers", "3", "--store", store]
    result = CliRunner().invoke(app, ["queue", *options])
    assert result.exit_code == 0, result.output
    assert "1 tasks added" in result.output
    given = queue.next_task(Store.open(store), "bob", ["rank"])
    assert given
    assert len(given.answers) == 3
    assert "Go away" in [text for _, text in given.answers]
    alone = CliRunner().invoke(app, ["queue", str(tmp_path), *options[1:3]])
    assert alone.exit_code != 0
