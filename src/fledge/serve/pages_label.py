"""What the labelling page asks for: the next task, what a person says of it, undo, and how far people agree.

On an open server (loopback, no keys) several people may share it by giving a name; with keys the key's owner speaks.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from fledge.serve.errors import APIError
from fledge.serve.pages_feedback import GUIDELINE, Name, Turn, Words, person_of, words_of
from fledge.serve.service import allow, caller_of

if TYPE_CHECKING:
    from fledge.feedback.store import Store

MOST_TASKS = 10_000


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
    ranks: list[int] | None = None


class Tasks(BaseModel):
    """Tasks to add; a share `overlap` of them is given to `wanted` people, the others to one. With `screening` the
    rows' `ranks` are right, and labellers are tested on them."""

    rows: list[Asked] = Field(max_length=MOST_TASKS)
    wanted: int = Field(1, ge=1, le=50)
    overlap: float = Field(1.0, ge=0, le=1)
    screening: bool = False


def label_router(store: Callable[[], "Store"]) -> APIRouter:
    """Routes below /app/label."""
    router = APIRouter(prefix="/app/label", tags=["app"])

    @router.get("/guideline")
    def guideline() -> dict[str, str]:
        """What labellers are asked to look for."""
        return {"version": GUIDELINE, "text": words_of("guideline.md")}

    @router.get("/me")
    def who(http: Request, me: Name = "") -> dict[str, Any]:
        """Who asks, what they may do, and whether they agreed and passed the test."""
        from fledge.feedback.people import standing

        person = person_of(http, me)
        return {"person": person, "role": caller_of(http).role, "standing": asdict(standing(store(), person))}

    @router.get("/next")
    def following(http: Request, kind: Literal["demonstrate", "rank"] = "rank", me: Name = "") -> dict[str, Any]:
        """The task that the person has open, or the next one; `task` is null if there is none. Until the screening
        test is passed, its tasks come, whatever kind is asked for."""
        from fledge.feedback.people import standing
        from fledge.feedback.queue import next_task, progress

        person = agreed(store(), person_of(http, me))
        given = next_task(store(), person, [kind])
        told: dict[str, Any] = {"progress": progress(store(), person), "task": None}
        told["standing"] = asdict(standing(store(), person))
        if given is None:
            return told
        answers = [{"id": number, "text": text} for number, text in given.answers]
        return told | {"task": given.task, "kind": given.kind, "prompt": given.prompt, "answers": answers}

    @router.post("/said")
    def said(judgement: Said, http: Request) -> dict[str, int | None]:
        """Keeps a judgement; the same token again changes nothing. `replaces` is what the person had said before."""
        from fledge.feedback.queue import submit

        number = submit(
            store(),
            agreed(store(), person_of(http, judgement.me)),
            judgement.task,
            judgement.kind,
            judgement.content,
            seconds=judgement.seconds,
            token=judgement.token,
            guideline_id=store().guideline(GUIDELINE, words_of("guideline.md")),
        )
        return {"id": number, "replaces": store().replaced_by(number)}

    @router.post("/undo")
    def undo(http: Request, me: Name = "") -> dict[str, int | None]:
        """Takes back the person's last judgement: its task is open again."""
        from fledge.feedback.queue import undo as taken_back

        return {"task": taken_back(store(), person_of(http, me))}

    @router.post("/leave")
    def leave(http: Request, me: Name = "") -> dict[str, int]:
        """Gives back what the person has open, for others."""
        from fledge.feedback.queue import leave as given_back

        return {"left": given_back(store(), person_of(http, me))}

    @router.post("/tasks", dependencies=[Depends(allow("admin"))])
    def add(tasks: Tasks) -> dict[str, int]:
        """Adds tasks: rows with a prompt, or a prompt and completions."""
        from fledge.feedback.importing import add_rows

        rows = [row.model_dump() for row in tasks.rows]
        added = add_rows(store(), rows, tasks.wanted, overlap=tasks.overlap, screening=tasks.screening)
        return {"added": added}

    @router.post("/tasks/chats", dependencies=[Depends(allow("admin"))])
    def from_chats() -> dict[str, int]:
        """Adds demonstration tasks for prompts of rated chats, those with a thumb down first."""
        from fledge.feedback.chats import add_chats

        return {"added": add_chats(store())}

    @router.get("/agreement", dependencies=[Depends(allow("admin"))])
    def agreement() -> dict[str, Any]:
        """Krippendorff's alpha, agreement per pair of people and per person, speed."""
        from fledge.feedback.agreement import agreement as measured
        from fledge.feedback.weights import weights

        return measured(store().judgements(["ranking"]), weights(store()))

    return router


def agreed(store: "Store", person: str) -> str:
    """The person, if they agreed under this version of the guideline. Raises APIError 403."""
    from fledge.feedback.people import standing

    if standing(store, person).agreed != GUIDELINE:
        message = f"{person} has not agreed yet that judgements may train models: POST /app/feedback/consent"
        raise APIError(403, message, code="consent_needed")
    return person
