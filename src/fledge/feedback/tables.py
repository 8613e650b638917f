"""The tables of the store. A judgement is never changed: another one may replace it, and both stay.

`content` of a judgement, by kind:
demonstration: {answer, suggestion, suggested_by, kept}: what was written, what which model had suggested, the share of
that kept.
ranking: {completions: ids as shown, ranks (0 best, equal = tie), flags: {id: [flag…]}, quality: {id: 1…7}, note}.
rating: {completion, rating: 1 or -1, correction, conversation, message}.
skip: {reason}. withdrawal: {} (of the judgement that it replaces).
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Float, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

KINDS = ("demonstration", "ranking", "rating", "skip", "withdrawal")
FLAGS = ("wrong", "harmful", "off-task", "hallucinated")


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Row(DeclarativeBase):
    """What all tables have in common."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, datetime: DateTime(timezone=True), str: Text}


class Person(Row):
    """Somebody who judges; `role` is user, labeller or admin, or says where else the judgement comes from
    (import, simulated)."""

    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[str] = mapped_column(String(20))
    created: Mapped[datetime] = mapped_column(default=now)


class Guideline(Row):
    """A version of what labellers are asked to look for."""

    __tablename__ = "guidelines"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(String(40), unique=True)
    text: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=now)


class Consent(Row):
    """A person agrees (`given`) that what they say may train models, or no longer does; the last word counts. What
    they had read is the guideline's version."""

    __tablename__ = "consents"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"))
    guideline_id: Mapped[int] = mapped_column(ForeignKey("guidelines.id"))
    given: Mapped[bool]
    created: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (Index("consents_by_person", "person_id"),)


class Screening(Row):
    """How a person did on tasks with known ranks: `right` of `pairs` pairs; or an admin (`admitted_by`) let them in.
    The last one counts."""

    __tablename__ = "screenings"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"))
    right: Mapped[float] = mapped_column(Float)
    pairs: Mapped[int]
    passed: Mapped[bool]
    admitted_by: Mapped[str] = mapped_column(String(200), default="")
    created: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (Index("screenings_by_person", "person_id"),)


class Prompt(Row):
    """A conversation up to the answer; `digest` is the fingerprint of its messages."""

    __tablename__ = "prompts"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(16), unique=True)
    messages: Mapped[list[Any]]
    source: Mapped[str] = mapped_column(String(200), default="")
    created: Mapped[datetime] = mapped_column(default=now)


class Completion(Row):
    """An answer to a prompt, and what wrote it."""

    __tablename__ = "completions"
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id", ondelete="CASCADE"))
    digest: Mapped[str] = mapped_column(String(16))
    text: Mapped[str]
    model: Mapped[str] = mapped_column(String(200), default="")
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("prompt_id", "digest", name="one_of_each_answer"),)


class Task(Row):
    """Something to be judged by `wanted` people. `kind` is demonstrate or rank; `known` holds the right ranks of a
    screening item; the lower `place`, the earlier it is asked."""

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id", ondelete="CASCADE"))
    completions: Mapped[list[Any]] = mapped_column(default=list)
    wanted: Mapped[int] = mapped_column(default=1)
    place: Mapped[float] = mapped_column(Float, default=0.0)
    known: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True), nullable=True)
    created: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (Index("tasks_by_prompt", "prompt_id"),)


class Assignment(Row):
    """A task given to a person. It lapses if no judgement follows; `seed` fixes the order in which answers stand."""

    __tablename__ = "assignments"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    seed: Mapped[int]
    opened: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        UniqueConstraint("task_id", "person_id", name="one_assignment_each"),
        Index("assignments_by_person", "person_id"),
    )


class Judgement(Row):
    """What a person said, when, under which guideline. `token` makes a second sending of the same one harmless."""

    __tablename__ = "judgements"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id", ondelete="CASCADE"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    guideline_id: Mapped[int | None] = mapped_column(ForeignKey("guidelines.id"))
    task_id: Mapped[int | None] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    replaces: Mapped[int | None] = mapped_column(ForeignKey("judgements.id", ondelete="CASCADE"))
    content: Mapped[dict[str, Any]]
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    created: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        Index("judgements_by_task", "task_id", "person_id"),
        Index("judgements_by_prompt", "prompt_id"),
        Index("judgements_by_person", "person_id"),
        Index("judgements_by_replaced", "replaces"),
    )
