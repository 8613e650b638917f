"""What the labelling page asks for: the next task, what a person says of it, undo, and how far people agree.

On an open server (loopback, no keys) several people may share it by giving a name; with keys the key's owner speaks.
"""

from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from fledge.core.errors import FledgeError
from fledge.serve.pages_feedback import Turn, Words
from fledge.serve.service import ANYONE, allow, caller_of

if TYPE_CHECKING:
    from fledge.feedback.store import Store

GUIDELINE = "1"  # the version of guideline.md; other words need another
MOST_TASKS = 10_000
Name = Annotated[str, Field(max_length=100)]


class Said(BaseModel):
    """A judgement on a task; `content` as `feedback.tables` tells it, by kind."""

    model_config = ConfigDict(extra="forbid")

    task: int
    kind: Literal["demonstration", "ranking", "skip"]
    content: dict[str, Any]
    seconds: float = Field(0.0, ge=0, le=86400)
    token: str = Field(min_length=8, max_length=64)
    me: Name = ""


class Asked(BaseModel):
    """A prompt to be answered, or (with `completions`) answers to be ranked."""

    model_config = ConfigDict(extra="ignore")

    prompt: str | list[Turn]
    completions: list[Words | dict[str, Any]] = Field([], max_length=20)


class Tasks(BaseModel):
    """Tasks to add; each is given to `wanted` people."""

    rows: list[Asked] = Field(max_length=MOST_TASKS)
    wanted: int = Field(1, ge=1, le=50)


def label_router(store: Callable[[], "Store"]) -> APIRouter:
    """Routes below /app/label."""
    router = APIRouter(prefix="/app/label", tags=["app"])
    words = (resources.files("fledge.feedback") / "guideline.md").read_text(encoding="utf-8")

    @router.get("/guideline")
    def guideline() -> dict[str, str]:
        """What labellers are asked to look for."""
        return {"version": GUIDELINE, "text": words}

    @router.get("/next")
    def following(http: Request, kind: Literal["demonstrate", "rank"] = "rank", me: Name = "") -> dict[str, Any]:
        """The task that the person has open, or the next one; `task` is null if there is none."""
        from fledge.feedback.queue import next_task, progress

        person = labeller_of(http, me)
        given = next_task(store(), person, [kind])
        told: dict[str, Any] = {"progress": progress(store(), person), "task": None}
        if given is None:
            return told
        answers = [{"id": number, "text": text} for number, text in given.answers]
        return told | {"task": given.task, "kind": given.kind, "prompt": given.prompt, "answers": answers}

    @router.post("/said")
    def said(judgement: Said, http: Request) -> dict[str, int]:
        """Keeps a judgement; the same token again changes nothing."""
        from fledge.feedback.queue import submit

        number = submit(
            store(),
            labeller_of(http, judgement.me),
            judgement.task,
            judgement.kind,
            judgement.content,
            seconds=judgement.seconds,
            token=judgement.token,
            guideline_id=store().guideline(GUIDELINE, words),
        )
        return {"id": number}

    @router.post("/undo")
    def undo(http: Request, me: Name = "") -> dict[str, int | None]:
        """Takes back the person's last judgement: its task is open again."""
        from fledge.feedback.queue import undo as taken_back

        return {"task": taken_back(store(), labeller_of(http, me))}

    @router.post("/leave")
    def leave(http: Request, me: Name = "") -> dict[str, int]:
        """Gives back what the person has open, for others."""
        from fledge.feedback.queue import leave as given_back

        return {"left": given_back(store(), labeller_of(http, me))}

    @router.post("/tasks", dependencies=[Depends(allow("admin"))])
    def add(tasks: Tasks) -> dict[str, int]:
        """Adds tasks: rows with a prompt, or a prompt and completions."""
        from fledge.feedback.importing import add_rows

        return {"added": add_rows(store(), [row.model_dump() for row in tasks.rows], tasks.wanted)}

    @router.post("/tasks/chats", dependencies=[Depends(allow("admin"))])
    def from_chats() -> dict[str, int]:
        """Adds demonstration tasks for prompts of rated chats, those with a thumb down first."""
        from fledge.feedback.importing import add_chats

        return {"added": add_chats(store())}

    @router.get("/agreement", dependencies=[Depends(allow("admin"))])
    def agreement() -> dict[str, Any]:
        """Krippendorff's alpha, agreement per pair of people and per person, speed."""
        from fledge.feedback.agreement import agreement as measured
        from fledge.feedback.weights import weights

        return measured(store().judgements(["ranking"]), weights(store()))

    return router


def labeller_of(http: Request, name: str) -> str:
    """Who judges. On a server with keys nobody can speak for somebody else."""
    caller = caller_of(http)
    if caller is ANYONE and name.strip():
        return name.strip()
    if name.strip() and name.strip() != caller.name:
        raise FledgeError(f"the key belongs to {caller.name}, not to {name.strip()}")
    return caller.name
