"""The store: kept once, never changed, many writers, both databases, and what a person may ask for."""

import threading
from pathlib import Path

import pytest

sqlalchemy = pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")
pytest.importorskip("alembic")

from fledge.core.errors import FledgeError  # noqa: E402
from fledge.feedback.store import LONGEST, Store  # noqa: E402
from fledge.feedback.tables import Row  # noqa: E402

ASKED = [{"role": "user", "content": "What does abs do?"}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "feedback.db")


def test_tables_are_what_the_migrations_make(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Row.metadata) == []


def test_a_rating_is_kept_and_the_last_one_counts(store: Store) -> None:
    store.rate("ann", ASKED, "Nothing.", 1, model="pydoc/sft", message="m1")
    store.rate("ann", ASKED, "Nothing.", -1, correction="The absolute value.", message="m1")
    assert [said.content["rating"] for said in store.judgements()] == [-1]
    assert [said.content["rating"] for said in store.judgements(latest=False)] == [1, -1]
    (said,) = store.judgements()
    assert said.prompt[0].content == "What does abs do?"
    assert store.answers()[said.content["completion"]] == ("Nothing.", "pydoc/sft")


def test_a_judgement_cannot_be_changed(store: Store) -> None:
    store.rate("ann", ASKED, "Nothing.", 1)
    with pytest.raises(sqlalchemy.exc.IntegrityError, match="never changed"), store.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE judgements SET seconds = 9"))


def test_the_same_token_twice_is_one_judgement(store: Store) -> None:
    prompt, person = store.prompt(ASKED), store.person("ann")
    first = store.judge("skip", prompt, person, {"reason": "unclear"}, token="t1")
    assert store.judge("skip", prompt, person, {"reason": "unclear"}, token="t1") == first
    assert len(store.judgements(latest=False)) == 1


def test_a_withdrawn_judgement_no_longer_counts_but_stays(store: Store) -> None:
    prompt, person = store.prompt(ASKED), store.person("ann")
    first = store.judge("demonstration", prompt, person, {"answer": "x"})
    store.judge("withdrawal", prompt, person, {}, replaces=first)
    assert store.judgements() == []
    assert [said.kind for said in store.judgements(latest=False)] == ["demonstration", "withdrawal"]


def test_what_is_refused(store: Store) -> None:
    with pytest.raises(FledgeError, match="ends with what the user says"):
        store.prompt([{"role": "assistant", "content": "hello"}])
    with pytest.raises(FledgeError, match="1 or -1"):
        store.rate("ann", ASKED, "x", 5)
    with pytest.raises(FledgeError, match="too long"):
        store.rate("ann", ASKED, "x" * (LONGEST + 1), 1)
    with pytest.raises(FledgeError, match="does not have"):
        store.judge("skip", 99, 99, {})
    assert store.judgements() == []
    store.guideline("1", "Be kind.")
    with pytest.raises(FledgeError, match="other words"):
        store.guideline("1", "Be unkind.")


def test_odd_characters_come_back(store: Store) -> None:
    for words in ("<script>alert(1)</script>", "a\ud800b", "nul\0", "🦜" * 1000, "x" * 100_000):
        store.rate("ann", ASKED, words, 1)
    assert {answer for answer, _ in store.answers().values()} == {
        "<script>alert(1)</script>", "a?b", "nul\ufffd", "🦜" * 1000, "x" * 100_000,
    }  # fmt: skip


def test_a_person_can_be_erased(store: Store) -> None:
    store.rate("ann", ASKED, "one", 1)
    secret = [{"role": "user", "content": "my telephone number is …"}]
    store.rate("ann", secret, "two", 1)
    store.rate("bob", ASKED, "one", -1)
    assert store.erase("ann") == 2
    assert [said.person for said in store.judgements(latest=False)] == ["bob"]
    assert [answer for answer, _ in store.answers().values()] == ["one"]
    with pytest.raises(FledgeError, match="nobody"):
        store.erase("ann")


def test_reopening_keeps_everything(tmp_path: Path) -> None:
    Store.open(tmp_path / "a" / "f.db").rate("ann", ASKED, "one", 1)
    assert len(Store.open(tmp_path / "a" / "f.db").judgements()) == 1


def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("not a database, but a text that is long enough to look like one" * 20)
    with pytest.raises(FledgeError, match="cannot be used"):
        Store.open(broken)
    with pytest.raises(FledgeError, match="no driver"):
        Store.open("nosuch://host/db")


def many_writers(where: str | Path, writers: int, each: int) -> None:
    Store.open(where)
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            mine = Store.open(where)
            for i in range(each):
                mine.rate(f"person {number}", ASKED, f"answer {i % 3}", 1, message=str(i))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    found = Store.open(where)
    assert len(found.judgements(latest=False)) == writers * each
    assert len(found.answers()) == 3


def test_many_writers_on_sqlite(tmp_path: Path) -> None:
    many_writers(tmp_path / "feedback.db", 8, 12)


def test_many_writers_on_postgresql(postgres_url: str) -> None:
    many_writers(postgres_url, 8, 12)


def test_postgresql_keeps_the_rules(postgres_url: str) -> None:
    store = Store.open(postgres_url)
    store.rate("carol", ASKED, "postgres", -1, correction="nul\0 here")
    with pytest.raises(sqlalchemy.exc.DBAPIError, match="never changed"), store.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE judgements SET seconds = 9"))
    assert store.erase("carol") == 1
