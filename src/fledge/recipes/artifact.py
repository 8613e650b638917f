"""A step's artifact: a directory that is whole or absent, with a fingerprint of the config and inputs it came from.

A stage works in a hidden directory beside its final place. Interrupted, that directory stays and the same command
goes on in it; finished, it is renamed into place with `artifact.json` (what made it, and the checksums of its files)
and `summary.json` (its figures). What a step reads from another artifact is compared with those checksums first.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fledge.core.config import Config
from fledge.core.device import environment, peak_memory, release_memory, reset_peak_memory
from fledge.core.errors import FledgeError
from fledge.core.files import checksum, disk_errors, fingerprint, install, read_json, write_json, write_text_atomic
from fledge.core.log import Log
from fledge.stages import load_stage

UNFINISHED = ("resume", "fingerprint", "seconds", "progress.json")  # what only unfinished work needs


def outside_inputs(config: Config, run: Path | None = None) -> dict[str, Any]:
    """Sizes and times of the files and folders, outside the directory `run`, that the config's path fields name."""
    found = {}
    for key, value in config:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for path in values:
            if isinstance(path, Path) and path.exists() and not (run and path.is_relative_to(run)):
                found[f"{key}:{path}"] = stamp(path)
    return found


def stamp(path: Path) -> list[Any]:
    """What changes when a file or the files of a folder change; an artifact is known by its fingerprint."""
    mark = stamped(path)
    if mark:
        return [mark]
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(str(f), s.st_size, s.st_mtime_ns) for f in files if f.is_file() for s in [f.stat()]]


def finished(directory: Path, mark: str) -> bool:
    """Whether `directory` holds the whole artifact of fingerprint `mark`."""
    return stamped(directory) == mark


def stamped(directory: Path) -> str | None:
    """The fingerprint of the artifact in `directory`, None if there is none; refuses a damaged artifact.json."""
    path = directory / "artifact.json"
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except FledgeError as error:  # without it nobody knows what made the rest
        raise FledgeError(error.message, anew(directory)) from None
    return content.get("fingerprint") if isinstance(content, dict) else None


def anew(directory: Path) -> str:
    """What to do about a damaged artifact."""
    return f"delete {directory} and run the same command again: it is made anew"


def begun(directory: Path, mark: str) -> bool:
    """Whether unfinished work on the artifact of fingerprint `mark` lies beside `directory`."""
    path = work_of(directory) / "fingerprint"
    return path.is_file() and path.read_bytes() == mark.encode()


def work_of(directory: Path) -> Path:
    """Where an artifact is made before it is moved to `directory`."""
    return directory.with_name(f".{directory.name}.work")


def make(stage: str, config: Config, directory: Path, mark: str, log: Log) -> dict[str, Any]:
    """Runs one stage into `directory` and returns its summary; goes on where an interrupted run of it stopped.

    An artifact of other settings that stands there is replaced at the end; anything else is refused.
    """
    work = work_of(directory)
    with disk_errors(directory):
        if directory.exists() and stamped(directory) is None and (not directory.is_dir() or any(directory.iterdir())):
            remedy = "choose another --out"
            if (directory / "artifact.json").is_file():
                remedy = f"{anew(directory)}; if it is something else, {remedy}"
            raise FledgeError(f"{directory} is not empty and not a fledge artifact", remedy)
        if finished(work, mark):  # a process that was killed had only this left to do
            settle(work, directory)
            summary: dict[str, Any] = read_json(directory / "summary.json")
            return summary
        if not begun(directory, mark):
            if work.exists():
                log.say("[yellow]unfinished work with other settings or inputs is dropped[/]")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write_text_atomic(work / "fingerprint", mark)
        check_inputs(config)
        release_memory()
        reset_peak_memory()
        before, started = spent(work), time.monotonic()
        try:
            summary = load_stage(stage).run(config, work, Log(work, quiet=log.quiet, console=log.console))
        finally:
            seconds = before + time.monotonic() - started
            write_text_atomic(work / "seconds", f"{seconds:.2f}")
        write_json(work / "summary.json", summary)
        artifact = {
            "step": directory.name,
            "stage": stage,
            "fingerprint": mark,
            "seconds": round(seconds, 2),
            "peak_memory": peak_memory(),
            "config": config.model_dump(mode="json"),
            "environment": environment(),
            "files": checksums(work),
        }
        write_json(work / "artifact.json", artifact)
        settle(work, directory)
    return summary


def checksums(work: Path) -> dict[str, str]:
    """The sha256 of every file of a finished step."""
    files = [file for file in sorted(work.rglob("*")) if file.is_file()]
    names = {str(file.relative_to(work)): file for file in files}
    return {name: checksum(file) for name, file in names.items() if name.split("/")[0] not in UNFINISHED}


def damages(directory: Path) -> list[str]:
    """What is wrong with the artifact in `directory`: missing or changed files, by the checksums it was made with."""
    try:
        content = read_json(directory / "artifact.json")
    except FledgeError as error:
        return [error.message]
    files = content.get("files", {}) if isinstance(content, dict) else None
    if not isinstance(files, dict):
        return [f"{directory / 'artifact.json'} is damaged"]
    found = []
    for name, expected in files.items():
        file = directory / name
        if not file.is_file():
            found.append(f"{file} is missing")
        elif checksum(file) != expected:
            found.append(f"{file} is damaged or was changed since it was made")
    return found


def check_inputs(config: Config) -> None:
    """Refuses to read from an artifact whose files are not those that were made."""
    for _, value in config:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for path in values:
            if not isinstance(path, Path):
                continue
            artifact = next((p for p in (path, path.parent) if (p / "artifact.json").is_file()), None)
            if artifact:
                check_whole(artifact)


def check_whole(directory: Path) -> None:
    """Refuses an artifact whose files are not those that were made."""
    wrong = damages(directory)
    if wrong:
        meant = "if the change was meant, copy the file elsewhere and name the copy"
        raise FledgeError(wrong[0], f"{anew(directory)}; {meant}")


def settle(work: Path, directory: Path) -> None:
    """Removes what only unfinished work needs and moves the artifact into place."""
    for name in UNFINISHED:
        shutil.rmtree(work / name, ignore_errors=True)
        if (work / name).is_file():
            (work / name).unlink()
    install(work, directory)


def spent(work: Path) -> float:
    """Seconds that earlier, interrupted attempts took."""
    try:
        return float((work / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def mark_of(stage: str, config: Config) -> str:
    """The fingerprint of a stage run on its own (outside a recipe)."""
    return fingerprint([stage, config.model_dump(mode="json"), outside_inputs(config)])


@contextmanager
def locked(place: Path, file: Path) -> Iterator[None]:
    """Holds `place` for this process by a lock on `file`; a second process is refused with the first one's number."""
    import fcntl

    with disk_errors(place):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            raise FledgeError(
                f"{place} is in use by another fledge (process {owner})", "wait for it, or choose another --out"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
