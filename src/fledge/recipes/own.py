"""`fledge raise --data FOLDER`: looks at what a user's files hold and leaves out the steps they cannot feed."""

from itertools import islice
from pathlib import Path

from fledge.core.errors import FledgeError
from fledge.data.readers import Reading, iterate
from fledge.stages.ingest import kind_of

LOOKED_AT = 20_000  # rows: enough to meet every file of a small folder


def own_overrides(data: Path) -> list[str]:
    """Overrides of the recipe `own`: the data, and which of its steps to skip."""
    has_text, has_talk, has_ranks = looked_at(data)
    if not has_text and not has_talk and not has_ranks:
        raise FledgeError(f"{data} holds neither text nor conversations", "give files with text, messages or comparisons")
    skips = []
    if not has_talk and not has_ranks:
        skips += ["sft", "reward", "ppo"]
    elif not has_ranks:
        skips += ["reward", "ppo"]
    return [f"data={data}", *(f"{step}.skip=true" for step in skips)]


def looked_at(data: Path) -> tuple[bool, bool, bool]:
    """Whether there is text, are conversations, are comparisons among the rows."""
    found = [False, False, False]
    for row in islice(iterate(data, Reading()), LOOKED_AT):
        found[kind_of(row)] = True
    return found[0], found[1], found[2]

