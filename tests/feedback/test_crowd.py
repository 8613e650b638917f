"""People by the dozen over HTTP against a real server, and rounds of simulated people: `benchmarks/` in small."""

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install 'fledge[serve]'")
pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")
pytest.importorskip("httpx", reason="pip install httpx")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


def test_fifty_labellers_at_once(bench: Any, tiny: Path, tmp_path: Path) -> None:
    fifty = bench("fifty_labellers")
    figures, wrong = fifty.crowd(
        tiny / "base", str(tmp_path / "feedback.db"), tmp_path, people=50, seconds=4, first=160
    )
    assert wrong == []
    assert figures["judgements"] > 0


def test_fifty_labellers_at_once_on_postgresql(bench: Any, tiny: Path, tmp_path: Path, postgres_url: str) -> None:
    fifty = bench("fifty_labellers")
    figures, wrong = fifty.crowd(tiny / "base", postgres_url, tmp_path, people=50, seconds=4, first=160)
    assert wrong == []
    assert figures["judgements"] > 0


def test_what_is_lost_or_said_twice_is_noticed(bench: Any, tmp_path: Path) -> None:
    from fledge.feedback import queue
    from fledge.feedback.store import Store

    fifty, store = bench("fifty_labellers"), Store.open(tmp_path / "feedback.db")
    queue.add_task(store, "rank", [{"role": "user", "content": "?"}], [{"text": "a"}, {"text": "b"}], wanted=4)
    kept = []
    for who in ("a", "b", "c", "d"):
        given = queue.next_task(store, who)
        assert given
        ranks = {number: place for place, (number, _) in enumerate(given.answers)}
        content = {"completions": list(ranks), "ranks": list(ranks.values())}
        number = queue.submit(store, who, given.task, "ranking", content)
        kept.append([{"id": number, "task": given.task, "ranks": ranks}])
    people = ["a", "b", "c", "d"]
    assert fifty.wrong(store, people, kept) == ["task 1 was judged by 4"]
    assert any("lost" in line for line in fifty.wrong(store, people, [[kept[0][0] | {"id": 99}], *kept[1:]]))
    other = {number: 1 - place for number, place in kept[0][0]["ranks"].items()}
    assert any(
        "something else" in line for line in fifty.wrong(store, people, [[kept[0][0] | {"ranks": other}], *kept[1:]])
    )
    queue.submit(store, "a", 1, "ranking", {"completions": list(other), "ranks": list(other.values())})
    assert any("twice by a" in line for line in fifty.wrong(store, people, kept))


def test_rounds_with_simulated_people(bench: Any, tmp_path: Path) -> None:
    """Two rounds over HTTP, from nothing: too small to learn anything, but all that is said arrives and counts."""
    rounds = bench("three_rounds").main(["--smoke", "--out", str(tmp_path)])
    assert [each["round"] for each in rounds] == [0, 1, 2]
    from fledge.feedback.store import Store

    said = Store.open(tmp_path / "feedback.db").judgements()
    assert {each.kind for each in said} == {"demonstration", "ranking", "rating"}
    assert all(each.person.startswith("simulated") for each in said)
    first, second = rounds[1:]
    assert first["counts"]["all_comparisons"] < second["counts"]["all_comparisons"]
    assert {person["person"] for person in second["people"]} <= {
        person.name for person in bench("simulated_people").PEOPLE
    }
    assert "Round by round" in (tmp_path / "round-2" / "report" / "report.html").read_text()
