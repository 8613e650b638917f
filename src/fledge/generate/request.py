"""What goes into the engine and what comes out."""

from dataclasses import dataclass, field
from typing import Literal

from fledge.generate.sampling import Sampling

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it. Ends with one of `stop_ids`, before one of the strings `stop`, or at
    `max_new_tokens`. The same request gives the same completion; only `seed` and `sampling` decide."""

    ids: list[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What was generated. `ids` include the token that ended it, `text` does not show it (nor a stop string).
    `logprobs[i]` is the log-probability of `ids[i]` under the raw model: temperature 1, no filter, no penalty."""

    ids: list[int]
    logprobs: list[float]
    finish: Finish
    text: str


@dataclass(frozen=True)
class Event:
    """One token of request `index`; `text` is what has become certain with it, `finish` is set on the last."""

    index: int
    token: int
    text: str
    finish: Finish | None
