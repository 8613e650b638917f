"""What the labelling page asks for an admin: the team's work and people, letting somebody in, what to ask next."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from fledge.serve.pages_feedback import Name
from fledge.serve.service import caller_of

if TYPE_CHECKING:
    from fledge.feedback.store import Store


class Admitted(BaseModel):
    """Somebody whom an admin lets judge, whatever the test said."""

    model_config = ConfigDict(extra="forbid")

    person: Name


def team_router(store: Callable[[], "Store"]) -> APIRouter:
    """Routes below /app/label/team, for admins."""
    router = APIRouter(prefix="/app/label/team", tags=["app"])

    @router.get("")
    def team() -> dict[str, Any]:
        """Progress, days, and every person's work, pace, drift and standing."""
        from fledge.feedback.team import team as measured

        return measured(store())

    @router.post("/admit")
    def admit(who: Admitted, http: Request) -> dict[str, str]:
        """Lets a person in; kept with the name of who did it."""
        from fledge.feedback.people import admit as let_in

        let_in(store(), who.person, by=caller_of(http).name)
        return {"admitted": who.person}

    return router
