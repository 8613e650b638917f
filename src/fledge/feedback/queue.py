"""Who judges what next: a task is given to as many people as are wanted, and comes back if somebody leaves it.

A person who comes back finds the task they had open, with the answers in the same order. Two people who ask at the
same moment never both get the last place: giving is one transaction at a time.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, aliased

from fledge.core.errors import FledgeError
from fledge.core.nouns import Message, messages_of
from fledge.feedback.people import conclude, items_of_test, last_result, rankings_of
from fledge.feedback.store import Store, bounded
from fledge.feedback.tables import FLAGS, Assignment, Completion, Judgement, Prompt, Task

LAPSE = timedelta(minutes=30)  # after which an open task may be given to somebody else
GIVING = 7_205_760  # the number of PostgreSQL's advisory lock while a task is given
MOST_ANSWERS = 9
MOST_WORDS = 2000  # that are compared to tell what was kept of a suggestion
KIND_OF = {"demonstrate": "demonstration", "rank": "ranking"}


@dataclass(frozen=True)
class Given:
    """A task in somebody's hands; `answers` are (number, text) in the order in which they are shown."""

    task: int
    kind: str
    prompt: list[dict[str, str]]
    answers: list[tuple[int, str]]


def add_task(
    store: Store,
    kind: str,
    prompt: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]] = (),
    *,
    wanted: int = 1,
    place: float = 0.0,
    known: Sequence[float] | None = None,
    source: str = "",
) -> int:
    """Adds a task and returns its number. `answers`: {text, model} each; `known`: their right ranks, if known."""
    if kind not in KIND_OF:
        raise FledgeError(f"unknown kind of task '{kind}'", "demonstrate or rank")
    if kind == "rank" and not 2 <= len({answer["text"] for answer in answers}) <= MOST_ANSWERS:
        raise FledgeError(f"a ranking needs 2 to {MOST_ANSWERS} different answers, not {len(answers)}")
    prompt_id = store.prompt(prompt, source)
    ids = [store.completion(prompt_id, answer["text"], answer.get("model", "")) for answer in answers]
    ranks = [rank for _, rank in sorted(zip(ids, known, strict=True))] if known is not None else None
    with store.session() as session:
        task = Task(
            kind=kind, prompt_id=prompt_id, completions=sorted(set(ids)), wanted=wanted, place=place, known=ranks
        )
        session.add(task)
        session.flush()
        return task.id


def asked(store: Store, kind: str) -> list[tuple[Message, ...]]:
    """The prompts of all tasks of a kind."""
    with store.session() as session:
        rows = session.scalars(select(Prompt.messages).join(Task, Task.prompt_id == Prompt.id).where(Task.kind == kind))
        return [messages_of(row) for row in rows]


def live(task: Any, person: Any) -> Any:
    """Judgements of a person on a task that were not withdrawn."""
    later = aliased(Judgement)
    replaced = select(later.id).where(later.replaces == Judgement.id).correlate_except(later).exists()
    return (
        select(Judgement.id)
        .where(Judgement.task_id == task, Judgement.person_id == person, Judgement.kind != "withdrawal", ~replaced)
        .correlate_except(Judgement)  # `task` may be a column of a query further out than the next one
        .exists()
    )


def taken() -> Any:
    """How many people have judged a task that was given to them, as a column beside `Task`."""
    return (
        select(func.count(Assignment.id))
        .where(Assignment.task_id == Task.id, live(Task.id, Assignment.person_id))
        .correlate(Task)
        .scalar_subquery()
    )


def next_task(store: Store, person: str, kinds: Sequence[str] = tuple(KIND_OF)) -> Given | None:
    """The task that the person has open, or the next one that wants somebody; None if there is none.

    Who has not passed the screening test gets its tasks first, and who failed it none.
    """
    person_id = store.person(person, "labeller")
    with store.session() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"SELECT pg_advisory_xact_lock({GIVING})"))
        result = last_result(session, person_id)
        items = [] if result is not None else items_of_test(session)
        if result is not None and not result.passed:
            return None
        if items:
            said = rankings_of(session, person_id, items)
            left = [item for item in items if item not in said]
            return given(session, assigned(session, left[0], person_id)) if left else None
        others = aliased(Assignment)
        busy = (
            select(func.count(others.id))
            .where(
                others.task_id == Task.id,
                others.person_id != person_id,
                live(Task.id, others.person_id) | (others.opened > datetime.now(UTC) - LAPSE),
            )
            .correlate(Task)
            .scalar_subquery()
        )
        mine = select(Assignment).join(Task).where(Assignment.person_id == person_id, Task.kind.in_(kinds))
        open_mine = session.scalar(
            mine.where(~live(Task.id, person_id), Task.known.is_(None), busy < Task.wanted)
            .order_by(Assignment.opened.desc())
            .limit(1)
        )
        if open_mine is not None:
            open_mine.opened = datetime.now(UTC)
            return given(session, open_mine)
        had = select(Assignment.id).where(Assignment.task_id == Task.id, Assignment.person_id == person_id).exists()
        chosen = session.scalar(
            select(Task.id)
            .where(Task.kind.in_(kinds), Task.known.is_(None), busy < Task.wanted, ~had)
            .order_by(Task.place, Task.id)
            .limit(1)
        )
        return given(session, assigned(session, chosen, person_id)) if chosen else None


def assigned(session: Session, task_id: int, person_id: int) -> Assignment:
    """The assignment of a task to a person: the one they have, or a new one."""
    found = session.scalar(select(Assignment).where(Assignment.task_id == task_id, Assignment.person_id == person_id))
    if found is None:
        found = Assignment(task_id=task_id, person_id=person_id, seed=random.SystemRandom().randrange(2**31))
        session.add(found)
        session.flush()
    return found


def given(session: Session, assignment: Assignment) -> Given:
    """A task as it is shown to the person it is given to: answers shuffled, and nothing said about their models."""
    task = session.get_one(Task, assignment.task_id)
    prompt = session.get_one(Prompt, task.prompt_id)
    rows = session.execute(select(Completion.id, Completion.text).where(Completion.id.in_(task.completions)))
    answers = sorted((number, words) for number, words in rows)
    random.Random(assignment.seed).shuffle(answers)
    return Given(task.id, task.kind, prompt.messages, answers)


def submit(
    store: Store,
    person: str,
    task_id: int,
    kind: str,
    content: Mapping[str, Any],
    *,
    seconds: float = 0.0,
    token: str = "",
    guideline_id: int | None = None,
) -> int:
    """Keeps what a person says on a task that was given to them; said twice, the later replaces the earlier and both
    stay. Raises FledgeError for what does not fit it."""
    person_id = store.person(person, "labeller")
    with store.session() as session:
        task = session.get(Task, task_id)
        holds = select(Assignment.id).where(Assignment.task_id == task_id, Assignment.person_id == person_id)
        if task is None or session.scalar(holds) is None:
            raise FledgeError(f"task {task_id} was not given to {person}", "ask for the next task")
        before = rankings_of(session, person_id, [task_id]).get(task_id)
        if task.known is not None and last_result(session, person_id) is not None:
            raise FledgeError("the screening test is over", "ask for the next task")
    checked = check(task, kind, content)
    replaces = before.id if before is not None and before.token != token else None
    number = store.judge(
        kind, task.prompt_id, person_id, checked, task_id=task_id, guideline_id=guideline_id, seconds=seconds,
        token=token, replaces=replaces,
    )  # fmt: skip
    if task.known is not None:
        conclude(store, person_id)
    return number


def check(task: Task, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a judgement, if it fits the task."""
    if kind == "skip":
        return {"reason": str(content.get("reason", ""))[:1000]}
    if kind != KIND_OF[task.kind]:
        raise FledgeError(f"a {task.kind} task takes no {kind}")
    if kind == "demonstration":
        answer = str(content.get("answer", "")).strip()
        if not answer:
            raise FledgeError("the answer is empty", "write one, or skip the task")
        suggestion = bounded(str(content.get("suggestion", "")))
        by = str(content.get("suggested_by", ""))[:200] if suggestion else ""
        kept = share_kept(suggestion, answer)
        return {"answer": bounded(answer), "suggestion": suggestion, "suggested_by": by, "kept": kept}
    shown, ranks = list(content.get("completions", [])), list(content.get("ranks", []))
    if sorted(shown) != sorted(task.completions) or len(ranks) != len(shown):
        raise FledgeError("a ranking gives each answer of the task a rank")
    flags = {str(key): [flag for flag in found if flag in FLAGS] for key, found in content.get("flags", {}).items()}
    quality = {str(key): int(value) for key, value in content.get("quality", {}).items() if 1 <= int(value) <= 7}
    return {
        "completions": shown, "ranks": [int(rank) for rank in ranks], "flags": flags, "quality": quality,
        "note": str(content.get("note", ""))[:4000],
    }  # fmt: skip


def share_kept(suggestion: str, answer: str) -> float:
    """The share of a suggestion's words that stand in the answer, in their order; 0 without a suggestion."""
    words = suggestion.split()[:MOST_WORDS]
    if not words:
        return 0.0
    blocks = SequenceMatcher(None, words, answer.split()[:MOST_WORDS], autojunk=False).get_matching_blocks()
    return round(sum(block.size for block in blocks) / len(words), 4)


def undo(store: Store, person: str) -> int | None:
    """Withdraws the last judgement of a person on a task; the task is open again. Returns the task's number. What
    was said in a screening test that is over stays."""
    person_id = store.person(person, "labeller")
    with store.session() as session:
        over = items_of_test(session) if last_result(session, person_id) is not None else []
        last = session.scalar(
            select(Judgement)
            .where(
                Judgement.person_id == person_id,
                Judgement.task_id.is_not(None),
                Judgement.task_id.not_in(over),
                Judgement.kind != "withdrawal",
                Judgement.id.not_in(select(Judgement.replaces).where(Judgement.replaces.is_not(None))),
            )
            .order_by(Judgement.id.desc())
            .limit(1)
        )
        if last is None:
            return None
        assignment = session.scalar(
            select(Assignment).where(Assignment.task_id == last.task_id, Assignment.person_id == person_id)
        )
        if assignment is not None:
            assignment.opened = datetime.now(UTC)
    store.judge("withdrawal", last.prompt_id, person_id, {}, task_id=last.task_id, replaces=last.id)
    return last.task_id


def leave(store: Store, person: str) -> int:
    """Gives back the tasks that a person has open and not judged; returns how many."""
    person_id = store.person(person, "labeller")
    with store.session() as session:
        mine = select(Assignment).where(Assignment.person_id == person_id, ~live(Assignment.task_id, person_id))
        found = list(session.scalars(mine))
        for assignment in found:
            session.delete(assignment)
        return len(found)


def progress(store: Store, person: str) -> dict[str, int]:
    """How many tasks the person has judged, and how many places are left that they could take."""
    person_id = store.person(person, "labeller")
    with store.session() as session:
        real = select(func.count(Task.id)).where(Task.known.is_(None))
        done = session.scalar(real.where(live(Task.id, person_id)))
        left = session.scalar(real.where(taken() < Task.wanted, ~live(Task.id, person_id)))
    return {"done": done or 0, "left": left or 0}
