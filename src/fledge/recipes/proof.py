"""Whether what lies on disk is what was made (`fledge verify`), and whether it can be made again (`fledge reproduce`).

Verifying compares checksums and reads nothing else. Reproducing runs a finished step again, from the config and inputs
it was made with, into a directory of its own, and compares the files bit by bit.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from fledge.checkpoint.directory import CHECKSUMS, verify
from fledge.checkpoint.resume import read_state, saved
from fledge.core.config import make_config
from fledge.core.device import environment
from fledge.core.errors import FledgeError
from fledge.core.files import checksum, read_json
from fledge.core.log import Log
from fledge.recipes.artifact import check_inputs, checksums, damages
from fledge.stages import STAGES, load_stage

TIMED = ("metrics.jsonl", "summary.json", "artifact.json")  # they hold times, which never repeat


class Verdict(NamedTuple):
    """What was found at `place`: `wrong` says what, `remedy` what to do; both are empty for what is whole."""

    place: Path
    kind: str
    wrong: list[str]
    remedy: str = ""


def verified(directory: Path) -> list[Verdict]:
    """Every artifact, model and resume state in `directory` (itself, or the steps of a run) and how it is.

    Raises FledgeError if there is nothing that has checksums.
    """
    if not directory.is_dir():
        raise FledgeError(f"{directory} is not a directory", "give a run, an artifact or a model directory")
    places = [directory, *sorted(path for path in directory.iterdir() if path.is_dir())]
    found = [verdict for place in places for verdict in verdicts(place)]
    if not found:
        raise FledgeError(f"{directory} holds nothing with checksums", "give a run, an artifact or a model directory")
    return found


def verdicts(place: Path) -> list[Verdict]:
    """What stands in one directory."""
    found = []
    if (place / "artifact.json").is_file():
        remedy = f"delete {place} and run the same command again: this step and those that hang on it are made anew"
        found.append(Verdict(place, "artifact", said(lambda: damages(place)), remedy))
    elif (place / CHECKSUMS).is_file() and (place / "config.json").is_file():
        found.append(Verdict(place, "model", said(lambda: verify(place)), "copy it again from where it came"))
    for state in saved(place / "resume"):
        remedy = "nothing need be done: the run goes on from the state before it"
        found.append(Verdict(state, "resume state", said(lambda state=state: read_state(state)), remedy))
    return found


def said(look: Any) -> list[str]:
    """What a look at something finds wrong: what it returns as a list, or the error it raises."""
    try:
        result = look()
    except Exception as error:  # damaged files fail in any way
        return [str(error).splitlines()[0]]
    return result if isinstance(result, list) else []


class Comparison(NamedTuple):
    """A file that was made again: `same` bits or not."""

    name: str
    same: bool


def reproduced(directory: Path, log: Log) -> tuple[list[Comparison], dict[str, tuple[str, str]]]:
    """Runs the step in `directory` again and compares; also what differs in the environment: name → (then, now).

    Raises FledgeError if it is no finished artifact, or its inputs are gone or have changed.
    """
    path = directory / "artifact.json"
    if not path.is_file():
        raise FledgeError(f"{directory} is not a finished step", "give a run directory and the name of a finished step")
    made = read_json(path)
    stage, then = made.get("stage"), made.get("environment", {})
    if stage not in STAGES:
        raise FledgeError(f"{path} names no known stage", "the file is damaged: run the step again")
    loaded = load_stage(stage)
    config = make_config(loaded.config, made["config"], where=str(path))
    missing = [str(p) for _, p in config if isinstance(p, Path) and not p.exists()]
    if missing:
        raise FledgeError(f"'{stage}' was made from {missing[0]}, which is gone", "put it back where it was")
    check_inputs(config)
    now = environment()
    changed = {key: (old, now.get(key, "")) for key, old in then.items() if now.get(key) != old}
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.again.") as work:
        loaded.run(config, Path(work), Log(Path(work), quiet=log.quiet, console=log.console))
        again = {name: mark for name, mark in checksums(Path(work)).items() if name not in TIMED}
        before = {
            str(file.relative_to(directory)): checksum(file) for file in sorted(directory.rglob("*")) if file.is_file()
        }
    names = sorted(again.keys() | (before.keys() - set(TIMED)))
    return [Comparison(name, again.get(name) == before.get(name)) for name in names], changed
