"""What the labelling page asks for an admin: the team's work and people, letting somebody in, what to ask next."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from fledge.checkpoint.directory import read_config
from fledge.core.errors import FledgeError
from fledge.generate.assistant import load
from fledge.serve.errors import APIError
from fledge.serve.pages_feedback import Name
from fledge.serve.pages_runs import finished_steps, runs_in
from fledge.serve.service import caller_of

if TYPE_CHECKING:
    from fledge.feedback.store import Store


class Admitted(BaseModel):
    """Somebody whom an admin lets judge, whatever the test said."""

    model_config = ConfigDict(extra="forbid")

    person: Name


class Choice(BaseModel):
    """Reward models, by the names that `/rewards` gives, whose doubts order the tasks."""

    model_config = ConfigDict(extra="forbid")

    models: list[Name] = Field(min_length=1, max_length=8)


def team_router(store: Callable[[], "Store"], runs: Path) -> APIRouter:
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

    @router.get("/rewards")
    def rewards() -> list[str]:
        """The reward models among the runs."""
        return sorted(reward_models(runs))

    @router.post("/choose")
    def choose(choice: Choice) -> dict[str, int]:
        """Puts the rankings that wait in the order of the models' doubt."""
        from fledge.feedback.choice import reorder

        known = reward_models(runs)
        missing = [name for name in choice.models if name not in known]
        if missing:
            raise APIError(404, f"there is no reward model '{missing[0]}' among the runs", code="model_not_found")
        return {"ordered": reorder(store(), [load(known[name]).score for name in choice.models])}

    return router


def reward_models(runs: Path) -> dict[str, Path]:
    """RUN/STEP → the directory of every model of the runs that gives rewards."""
    steps = [step for run in runs_in(runs) for step in finished_steps(run) if (step / "config.json").is_file()]
    return {f"{step.parent.name}/{step.name}": step for step in steps if gives_rewards(step)}


def gives_rewards(step: Path) -> bool:
    """Whether the model in a directory has one number for an answer."""
    try:
        return read_config(step)[0].head == "scalar"
    except FledgeError:
        return False
