"""The store of what people say: SQLite by default, PostgreSQL by URL; many may write at once.

Prompts and answers are kept once, whoever speaks of them; judgements only ever grow in number. The newest judgement
of a person on a task (or on an answer in a chat) counts, the earlier ones remain. Leaves out who may do what: that is
the server's.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Engine, create_engine, delete, event, func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from fledge.core.errors import FledgeError, Unavailable
from fledge.core.files import fingerprint
from fledge.core.nouns import Message
from fledge.feedback.privacy import hidden
from fledge.feedback.tables import (
    KINDS,
    Assignment,
    Completion,
    Consent,
    Guideline,
    Judgement,
    Person,
    Prompt,
    Screening,
)

LONGEST = 200_000  # characters of one text
WAIT = 30.0  # seconds for another writer
MIGRATING = 7_205_759  # the number of PostgreSQL's advisory lock while tables are made


@dataclass(frozen=True)
class Said:
    """A judgement with what it is about, as exports and statistics read it."""

    id: int
    kind: str
    prompt_id: int
    task_id: int | None
    prompt: tuple[Message, ...]
    person: str
    guideline: str
    content: dict[str, Any]
    seconds: float
    created: str


class Store:
    """An open store. `open` it once per process; every method is a transaction of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # SQLite's writers ask again and again, in no order, until they get their turn: threads had better queue.
        self.turn: AbstractContextManager[Any] = Lock() if engine.dialect.name == "sqlite" else nullcontext()

    @classmethod
    def open(cls, where: str | Path) -> "Store":
        """The store in a file, or at a URL (postgresql+psycopg://…); made if absent, migrated if old."""
        url = url_of(where)
        try:
            engine = create_engine(url, pool_pre_ping=True)
            if url.get_backend_name() == "sqlite":
                prepare_sqlite(engine, url)
            store = cls(engine)
            store.migrate()
        except NoSuchModuleError:
            raise FledgeError(f"no driver for {url.drivername}", "use sqlite:/// or postgresql+psycopg://") from None
        except ImportError as error:
            raise FledgeError(
                f"the store at {shown(url)} needs {error.name}", "pip install 'psycopg[binary]'"
            ) from None
        except SQLAlchemyError as error:
            raise unreachable(url, error) from None
        return store

    def migrate(self) -> None:
        """Brings the tables to the newest form; two processes may do so at once."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATING})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: all of it or nothing. Raises Unavailable for a database that cannot be reached now."""
        url = self.engine.url
        if is_file(url) and not Path(str(url.database)).exists():
            raise Unavailable(f"the feedback store {shown(url)} is not there now", "nothing was kept: try again")
        try:
            with self.turn, Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except IntegrityError:
            raise
        except (SQLAlchemyError, FileNotFoundError) as error:
            raise unreachable(self.engine.url, error) from None

    def person(self, name: str, role: str = "user") -> int:
        """The number of a person, added if unknown."""
        return self._once(Person, {"name": name[:200]}, {"role": role})

    def guideline(self, version: str, words: str) -> int:
        """The number of a version of the guideline. Other words under a version that exists are refused."""
        found = self._once(Guideline, {"version": version}, {"text": words})
        with self.session() as session:
            kept = session.get_one(Guideline, found)
            if kept.text != words:
                raise FledgeError(f"the guideline {version} exists with other words", "give it a new version")
        return found

    def prompt(self, messages: Sequence[Mapping[str, Any]], source: str = "") -> int:
        """The number of a prompt, added if new."""
        turns = [{"role": str(turn["role"]), "content": bounded(str(turn["content"]))} for turn in messages]
        if not turns or turns[-1]["role"] != "user":
            raise FledgeError("a prompt ends with what the user says", "leave the answer out of it")
        return self._once(Prompt, {"digest": fingerprint(turns)}, {"messages": turns, "source": source[:200]})

    def completion(
        self, prompt_id: int, answer: str, model: str = "", sampling: Mapping[str, Any] | None = None
    ) -> int:
        """The number of an answer to a prompt, added if new."""
        known = {"prompt_id": prompt_id, "digest": fingerprint(answer)}
        return self._once(
            Completion, known, {"text": bounded(answer), "model": model[:200], "sampling": dict(sampling or {})}
        )

    def judge(
        self,
        kind: str,
        prompt_id: int,
        person_id: int,
        content: Mapping[str, Any],
        *,
        task_id: int | None = None,
        guideline_id: int | None = None,
        replaces: int | None = None,
        seconds: float = 0.0,
        token: str = "",
    ) -> int:
        """Adds a judgement and returns its number; sent twice with one token, it is kept once."""
        if kind not in KINDS:
            raise FledgeError(f"unknown kind of judgement '{kind}'", f"known: {', '.join(KINDS)}")
        token = token or secrets.token_hex(16)
        try:
            with self.session() as session:
                row = Judgement(
                    token=token, kind=kind, prompt_id=prompt_id, person_id=person_id, content=dict(content),
                    task_id=task_id, guideline_id=guideline_id, replaces=replaces, seconds=seconds,
                )  # fmt: skip
                session.add(row)
                session.flush()
                return row.id
        except IntegrityError:
            with self.session() as session:
                found = session.scalar(select(Judgement.id).where(Judgement.token == token))
            if found is None:
                raise FledgeError("the judgement is about something that the store does not have") from None
            return found

    def replaced_by(self, number: int) -> int | None:
        """The judgement that another one replaces."""
        with self.session() as session:
            return session.scalar(select(Judgement.replaces).where(Judgement.id == number))

    def rate(
        self,
        person: str,
        prompt: Sequence[Mapping[str, Any]],
        answer: str,
        rating: int,
        *,
        correction: str = "",
        model: str = "",
        sampling: Mapping[str, Any] | None = None,
        conversation: str = "",
        message: str = "",
    ) -> int:
        """A thumb up (1) or down (-1) from a chat, with a better answer where one was written."""
        if rating not in (1, -1):
            raise FledgeError("a rating is 1 or -1")
        prompt_id = self.prompt(prompt, source="chat")
        completion = self.completion(prompt_id, answer, model, sampling)
        content = {"completion": completion, "rating": rating, "correction": bounded(correction)}
        content |= {"conversation": conversation[:100], "message": message[:100]}
        return self.judge("rating", prompt_id, self.person(person), content)

    def judgements(self, kinds: Sequence[str] = KINDS, *, latest: bool = True, counted: bool = True) -> list[Said]:
        """What was said, in order. `latest`: of judgements on one thing by one person only the last, none that was
        withdrawn, and (`counted`) none of people who withdrew their consent or failed the screening test."""
        query = (
            select(Judgement, Prompt.messages, Person.name, Guideline.version)
            .join(Prompt, Judgement.prompt_id == Prompt.id)
            .join(Person, Judgement.person_id == Person.id)
            .outerjoin(Guideline, Judgement.guideline_id == Guideline.id)
            .order_by(Judgement.id)
        )
        if latest and counted:
            query = query.where(Judgement.person_id.not_in(not_counted()))
        with self.session() as session:
            found = [
                (as_said(row, messages, name, version), row.replaces)
                for row, messages, name, version in session.execute(query)
            ]
        gone = {replaced for _, replaced in found if replaced} if latest else set()
        kept: dict[Any, Said] = {}
        for said, _ in found:
            if said.id not in gone and (said.kind != "withdrawal" or not latest):
                kept[about(said) if latest else said.id] = said
        return [said for said in sorted(kept.values(), key=lambda each: each.id) if said.kind in kinds]

    def answers(self) -> dict[int, tuple[str, str]]:
        """Every answer: its number → (text, model)."""
        with self.session() as session:
            rows = session.execute(select(Completion.id, Completion.text, Completion.model))
            return {number: (answer, model) for number, answer, model in rows}

    def erase(self, person: str) -> int:
        """Forgets what a person said and who they are, consents and test results with it; returns how many judgements
        went. Prompts and answers of chats that nobody else judged go with them, and tasks that were made of those."""
        with self.session() as session:
            found = session.scalar(select(Person).where(Person.name == person))
            if found is None:
                raise FledgeError(f"nobody is called '{person}'")
            mine = list(session.scalars(select(Judgement).where(Judgement.person_id == found.id)))
            prompts = {judgement.prompt_id for judgement in mine if judgement.kind == "rating"}
            for judgement in sorted(mine, key=lambda each: -each.id):
                session.delete(judgement)
                session.flush()
            turns = session.scalars(select(Prompt.messages).where(Prompt.id.in_(prompts)))
            queued = {fingerprint(hidden(each)) for each in turns}
            prompts |= set(session.scalars(select(Prompt.id).where(Prompt.digest.in_(queued), Prompt.source == "chat")))
            shared = select(Judgement.prompt_id).where(Judgement.prompt_id.in_(prompts))
            session.execute(delete(Prompt).where(Prompt.id.in_(prompts), Prompt.id.not_in(shared)))
            session.execute(delete(Assignment).where(Assignment.person_id == found.id))
            session.delete(found)
            return len(mine)

    def _once(self, table: type[Any], known: dict[str, Any], rest: dict[str, Any]) -> int:
        """The number of the row with the `known` values; made with `rest` if there is none, by whoever is first."""
        query = select(table.id).filter_by(**known)
        with self.session() as session:
            found: int | None = session.scalar(query)
        if found is not None:
            return found
        try:
            with self.session() as session:
                row = table(**known, **rest)
                session.add(row)
                session.flush()
                made: int = row.id
                return made
        except IntegrityError:
            with self.session() as session:
                other: int = session.scalars(query).one()
                return other


def not_counted() -> Any:
    """The people (a query of their numbers) whose judgements train nothing: consent withdrawn, screening failed."""
    agreed = select(func.max(Consent.id)).group_by(Consent.person_id)
    tested = select(func.max(Screening.id)).group_by(Screening.person_id)
    withdrew = select(Consent.person_id).where(Consent.id.in_(agreed), Consent.given.is_(False))
    return withdrew.union(select(Screening.person_id).where(Screening.id.in_(tested), Screening.passed.is_(False)))


def about(said: Said) -> tuple[Any, ...]:
    """What a judgement is about: the same for all that one person said on one thing."""
    if said.task_id is not None:
        return ("task", said.person, said.task_id)
    if said.kind == "rating":
        return ("rating", said.person, said.content["completion"], said.content["message"])
    return ("judgement", said.id)


def as_said(row: Judgement, messages: list[Any], person: str, guideline: str | None) -> Said:
    """A row and what belongs to it as one value."""
    prompt = tuple(Message(turn["role"], turn["content"]) for turn in messages)
    return Said(
        row.id, row.kind, row.prompt_id, row.task_id, prompt, person, guideline or "", row.content, row.seconds,
        row.created.isoformat(),
    )  # fmt: skip


def bounded(words: str) -> str:
    """A text as the database can hold it (no NUL); one that is too long is refused."""
    if len(words) > LONGEST:
        raise FledgeError(f"a text of {len(words):,} characters is too long", f"at most {LONGEST:,} are kept")
    return words.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def url_of(where: str | Path) -> URL:
    """The URL of a store: as given, or of a SQLite file."""
    given = str(where)
    if "://" not in given:
        Path(given).expanduser().parent.mkdir(parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(Path(given).expanduser()))
    try:
        return make_url(given)
    except ArgumentError:
        raise FledgeError(f"'{given}' is no database URL", "write sqlite:///FILE or postgresql+psycopg://…") from None


def shown(url: URL) -> str:
    """A URL without its password."""
    return url.render_as_string(hide_password=True)


def is_file(url: URL) -> bool:
    """Whether the store is a SQLite file."""
    return url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")


def unreachable(url: URL, error: Exception) -> Unavailable:
    """The database's complaint in one line."""
    reason = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
    return Unavailable(f"the feedback store {shown(url)} cannot be used: {reason}", "check that it is there and yours")


def prepare_sqlite(engine: Engine, url: URL) -> None:
    """Readers beside a writer, writers one after another, foreign keys that hold."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(WAIT * 1000)}")
        connection.execute("PRAGMA foreign_keys = ON")
        if is_file(url):
            connection.execute("PRAGMA journal_mode = WAL")
            record.info["file"] = Path(str(url.database)).stat().st_ino

    @event.listens_for(engine, "checkout")
    def checked_out(_: Any, record: Any, __: Any) -> None:
        """A file that was taken away and put back is opened again: what goes into the old one would be lost."""
        if is_file(url) and record.info["file"] != Path(str(url.database)).stat().st_ino:
            raise DisconnectionError("the file is another one")

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
