"""Judgements from the chat: a thumb up or down with an optional correction, into the feedback store; what a person
agreed to, what they said, and that it is forgotten if they want.

The store is opened at the first judgement, so that a server that nobody rates needs no database. Who speaks is the
API key's owner; on an open server it is everybody who can reach it, under one name.
"""

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from fledge.core.errors import FledgeError
from fledge.serve.service import ANYONE, caller_of

if TYPE_CHECKING:
    from fledge.feedback.store import Store

GUIDELINE = "1"  # the version of guideline.md and consent.md; other words need another
Name = Annotated[str, Field(max_length=100)]
Words = Annotated[str, Field(max_length=200_000)]


class Turn(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Words


class Rating(BaseModel):
    """A judgement of one answer in a chat."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    prompt: list[Turn] = Field(min_length=1, max_length=400)
    answer: Words
    rating: Literal[1, -1]
    correction: Words = ""
    model: str = Field("", max_length=200)
    sampling: dict[str, Any] = {}
    conversation: str = Field("", max_length=100)
    message: str = Field("", max_length=100)


class Agreed(BaseModel):
    """A person agrees that what they say may train models, or no longer does."""

    model_config = ConfigDict(extra="forbid")

    given: bool
    me: Name = ""


def opened(where: str) -> Callable[[], "Store"]:
    """A function that returns the store, opened at its first call."""

    @cache
    def store() -> "Store":
        try:
            from fledge.feedback.store import Store
        except ImportError as error:
            raise FledgeError(f"the feedback store needs {error.name}", "pip install 'fledge[serve]'") from None
        return Store.open(where)

    return store


@cache
def words_of(name: str) -> str:
    """A text that people are shown: guideline.md or consent.md."""
    return (resources.files("fledge.feedback") / name).read_text(encoding="utf-8")


def person_of(http: Request, name: str = "") -> str:
    """Who speaks: the owner of the API key; on an open server whoever they say. Nobody speaks for somebody else."""
    caller = caller_of(http)
    if caller is ANYONE and name.strip():
        return name.strip()
    if name.strip() and name.strip() != caller.name:
        raise FledgeError(f"the key belongs to {caller.name}, not to {name.strip()}")
    return caller.name


def feedback_router(store: Callable[[], "Store"]) -> APIRouter:
    """Routes below /app/feedback."""
    router = APIRouter(prefix="/app/feedback", tags=["app"])

    @router.post("/ratings")
    def rate(rating: Rating, http: Request) -> dict[str, int]:
        """Keeps a rating; the last one of a person on an answer counts."""
        number = store().rate(
            person_of(http),
            [turn.model_dump() for turn in rating.prompt],
            rating.answer,
            rating.rating,
            correction=rating.correction,
            model=rating.model,
            sampling=rating.sampling,
            conversation=rating.conversation,
            message=rating.message,
        )
        return {"id": number}

    @router.get("/consent")
    def consent(http: Request, me: Name = "") -> dict[str, Any]:
        """What one agrees to, in words, and the version under which the person did, if they have."""
        from fledge.feedback.people import standing

        agreed = standing(store(), person_of(http, me)).agreed
        return {"version": GUIDELINE, "text": words_of("consent.md"), "agreed": agreed}

    @router.post("/consent")
    def agree(word: Agreed, http: Request) -> dict[str, bool]:
        """Keeps that the person agrees, or withdraws it: then nothing that they said counts."""
        from fledge.feedback.people import consent as keep

        guideline = store().guideline(GUIDELINE, words_of("guideline.md"))
        keep(store(), person_of(http, word.me), guideline, word.given)
        return {"given": word.given}

    @router.get("/mine")
    def mine(http: Request, me: Name = "") -> list[dict[str, Any]]:
        """Everything that the asking person has said, with their consents and test results, to take away."""
        from fledge.feedback.people import known_about

        person = person_of(http, me)
        texts = store().answers()
        said = [
            {"kind": each.kind, "prompt": [turn.as_dict() for turn in each.prompt], "created": each.created}
            | each.content
            | {"answers": [texts[number][0] for number in shown_in(each.content) if number in texts]}
            for each in store().judgements(latest=False)
            if each.person == person
        ]
        return [*said, *known_about(store(), person)]

    @router.delete("/mine")
    def forget(http: Request, me: Name = "") -> dict[str, int]:
        """Erases what the asking person has said, and who they are."""
        return {"erased": store().erase(person_of(http, me))}

    return router


def shown_in(content: dict[str, Any]) -> list[int]:
    """The numbers of the answers that a judgement is about."""
    return list(content.get("completions") or filter(None, [content.get("completion")]))
