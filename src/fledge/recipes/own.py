"""`fledge raise --data FOLDER`: looks at what a user's files hold and leaves out the steps they cannot feed."""

import json
from itertools import islice
from pathlib import Path

from fledge.data.readers import TEXT_BYTES, Reading, files, read, rows_of
from fledge.stages.ingest import kind_of

LOOKED_AT = 100  # rows of each file


def own_overrides(data: Path) -> list[str]:
    """Overrides of the recipe `own`: the data, and which of its steps to skip."""
    _, has_talk, has_ranks = looked_at(data)
    skips = []
    if not has_talk and not has_ranks:
        skips += ["sft", "reward", "ppo"]
    elif not has_ranks:
        skips += ["reward", "ppo"]
    return [f"data={json.dumps(str(data))}", *(f"{step}.skip=true" for step in skips)]


def looked_at(data: Path) -> tuple[bool, bool, bool]:
    """Whether there is text, are conversations, are comparisons among the first rows of each file."""
    kinds, reading = set(), Reading()
    for file, name in files(data, reading):
        kinds |= {kind_of(row) for row in islice(rows_of(file, name, reading, TEXT_BYTES), LOOKED_AT)}
    if not reading.kept:
        read(data)  # says why
    return "text" in kinds, "conversation" in kinds, "comparison" in kinds
