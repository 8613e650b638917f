"""Who may judge: they agreed that it may train models, and passed the screening test where there is one.

The test is the first ranking tasks whose right ranks are known; the share of pairs put right decides. Consents and
results are only ever added, and the last one counts: `Store.judgements` leaves out who withdrew or failed. Screening
on agreement with known answers follows InstructGPT (arXiv:2203.02155, appendix B.1).
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from fledge.core.errors import FledgeError
from fledge.feedback.store import Store
from fledge.feedback.tables import Consent, Guideline, Judgement, Person, Screening, Task

TEST = 5  # tasks of a screening test, or as many as there are
PASS = 0.75  # the share of pairs that must be right


@dataclass(frozen=True)
class Standing:
    """Where a person stands. `agreed` is the version of the guideline that they agreed under, or nothing; `test` is
    none where there is no test; `share` is of pairs put right."""

    agreed: str
    test: Literal["none", "open", "passed", "failed"]
    done: int = 0
    of: int = 0
    share: float | None = None


def consent(store: Store, person: str, guideline_id: int, given: bool) -> None:
    """Keeps that a person agrees, or no longer does."""
    person_id = store.person(person)
    with store.session() as session:
        session.add(Consent(person_id=person_id, guideline_id=guideline_id, given=given))


def admit(store: Store, person: str, by: str) -> None:
    """An admin lets a person in, whatever the test said. Raises FledgeError for somebody unknown."""
    with store.session() as session:
        person_id = session.scalar(select(Person.id).where(Person.name == person))
        if person_id is None:
            raise FledgeError(f"nobody is called '{person}'")
        session.add(Screening(person_id=person_id, right=0.0, pairs=0, passed=True, admitted_by=by[:200]))


def standing(store: Store, person: str) -> Standing:
    """Where a person stands, known or not."""
    with store.session() as session:
        person_id = session.scalar(select(Person.id).where(Person.name == person)) or 0
        word = session.execute(
            select(Consent.given, Guideline.version)
            .join(Guideline, Consent.guideline_id == Guideline.id)
            .where(Consent.person_id == person_id)
            .order_by(Consent.id.desc())
            .limit(1)
        ).first()
        agreed = word.version if word and word.given else ""
        items, result = items_of_test(session), last_result(session, person_id)
        if result is not None:
            share = result.right / result.pairs if result.pairs else None
            return Standing(agreed, "passed" if result.passed else "failed", len(items), len(items), share)
        if not items:
            return Standing(agreed, "none")
        return Standing(agreed, "open", len(rankings_of(session, person_id, items)), len(items))


def known_about(store: Store, person: str) -> list[dict[str, Any]]:
    """What the store has of a person beside their judgements: consents, and results of the test."""
    with store.session() as session:
        words = session.execute(
            select(Consent.given, Consent.created, Guideline.version)
            .join(Guideline, Consent.guideline_id == Guideline.id)
            .join(Person, Consent.person_id == Person.id)
            .where(Person.name == person)
            .order_by(Consent.id)
        )
        found: list[dict[str, Any]] = [
            {"kind": "consent", "given": given, "guideline": version, "created": created.isoformat()}
            for given, created, version in words
        ]
        results = session.scalars(
            select(Screening).join(Person, Screening.person_id == Person.id).where(Person.name == person)
        )
        return found + [
            {"kind": "screening", "right": row.right, "pairs": row.pairs, "passed": row.passed,
             "admitted_by": row.admitted_by, "created": row.created.isoformat()}
            for row in results
        ]  # fmt: skip


def items_of_test(session: Session) -> list[int]:
    """The tasks of the test, the same for everybody."""
    return list(session.scalars(select(Task.id).where(Task.known.is_not(None)).order_by(Task.place, Task.id)))[:TEST]


def last_result(session: Session, person_id: int) -> Screening | None:
    """How the person's test ended, if it has."""
    return session.scalar(
        select(Screening).where(Screening.person_id == person_id).order_by(Screening.id.desc()).limit(1)
    )


def rankings_of(session: Session, person_id: int, tasks: list[int]) -> dict[int, Judgement]:
    """What the person last said on tasks, unless they took it back: task → judgement."""
    later = aliased(Judgement)
    rows = session.scalars(
        select(Judgement)
        .where(
            Judgement.person_id == person_id,
            Judgement.task_id.in_(tasks),
            Judgement.kind != "withdrawal",
            ~select(later.id).where(later.replaces == Judgement.id).exists(),
        )
        .order_by(Judgement.id)
    )
    return {row.task_id: row for row in rows if row.task_id is not None}


def conclude(store: Store, person_id: int) -> None:
    """Keeps the result of a person's test as soon as every task of it is judged; a task that was skipped is wrong."""
    with store.session() as session:
        items = items_of_test(session)
        said = rankings_of(session, person_id, items)
        if not items or len(said) < len(items) or last_result(session, person_id) is not None:
            return
        right = pairs = 0.0
        for task in session.scalars(select(Task).where(Task.id.in_(items))):
            got, count = pairs_right(task, said[task.id])
            right, pairs = right + got, pairs + count
        session.add(Screening(person_id=person_id, right=right, pairs=int(pairs), passed=right >= PASS * pairs))


def pairs_right(task: Task, said: Judgement) -> tuple[float, int]:
    """How many pairs of a task a ranking puts right (a tie on one side counts half), of how many."""
    truth = dict(zip(task.completions, task.known or []))
    ranks = dict(zip(said.content.get("completions", []), said.content.get("ranks", [])))
    pairs = list(combinations(task.completions, 2))
    if not ranks:
        return 0.0, len(pairs)

    def verdict(of: dict[int, Any], a: int, b: int) -> int:
        return int(of[a] > of[b]) - int(of[a] < of[b])

    return sum(1 - abs(verdict(truth, a, b) - verdict(ranks, a, b)) / 2 for a, b in pairs), len(pairs)
