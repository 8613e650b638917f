"""What goes into the engine and what comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fledge.generate.sampling import Sampling

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it. Ends with one of `stop_ids`, before one of the strings `stop`, or at
    `max_new_tokens`. The same request gives the same completion; only `seed` and `sampling` decide.

    `logit_bias` adds to the logits of tokens before anything else (-100 forbids). `top_logprobs` asks for the
    likeliest tokens at each position, `prompt_logprobs` for those of the prompt too, and then `max_new_tokens` may
    be 0. `grammar` (a `grammar.Grammar`) admits only texts that it describes. The last three need a `LiveEngine`.
    """

    ids: list[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    grammar: Any = None


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


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its log-probability under the raw model and the likeliest tokens of its place, best first.
    The first token of a prompt has no log-probability."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Update:
    """What one step of a live engine did for one request: new tokens, the text that became certain with them.

    `prompt` comes once, before the first token, if it was asked for; `cached` is how many tokens of the prompt had
    their keys and values already. `finish` is set on the last update.
    """

    ticket: int
    tokens: list[Scored] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
    prompt: list[Scored] | None = None
    cached: int = 0
