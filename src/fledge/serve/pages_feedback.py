"""Judgements from the chat: a thumb up or down with an optional correction, into the feedback store.

The store is opened at the first judgement, so that a server that nobody rates needs no database. Who speaks is the
API key's owner; on an open server it is everybody who can reach it, under one name.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from fledge.core.errors import FledgeError
from fledge.serve.service import caller_of

if TYPE_CHECKING:
    from fledge.feedback.store import Store

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


def person_of(http: Request) -> str:
    """Who asks: the owner of the API key."""
    return caller_of(http).name


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

    @router.get("/mine")
    def mine(http: Request) -> list[dict[str, Any]]:
        """Everything that the asking person has said, to take away."""
        return [
            {"kind": said.kind, "prompt": [turn.as_dict() for turn in said.prompt], "created": said.created}
            | said.content
            for said in store().judgements(latest=False)
            if said.person == person_of(http)
        ]

    @router.delete("/mine")
    def forget(http: Request) -> dict[str, int]:
        """Erases what the asking person has said, and who they are."""
        return {"erased": store().erase(person_of(http))}

    return router
