"""Files that are whole or absent: atomic writes, checksums, fingerprints, JSONL.

A directory is written beside its final place, flushed to disk and renamed into it, so a reader never sees a half.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the disk's own failures (full, read-only, no permission) into one clear line about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FledgeError(
                f"the disk is full: {path} could not be written",
                "free some space, then run the same command again; finished work is kept",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise FledgeError(
                f"{path} cannot be written: {error.strerror}", "choose a directory you may write to (--out)"
            ) from None
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a fresh directory beside `path`; on success it replaces `path` as a whole, on failure it is removed."""
    work = path.with_name(f".{path.name}.writing")
    with disk_errors(path):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            yield work
            install(work, path)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def install(work: Path, path: Path) -> None:
    """Flushes the directory `work` to disk and renames it to `path`, replacing what was there."""
    for file in sorted(work.rglob("*")):
        flush(file)
    flush(work)
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    work.rename(path)
    flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """fsync of a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes a text file that is whole or absent."""
    work = path.with_name(f".{path.name}.writing")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work.write_text(text, encoding="utf-8")
        flush(work)
        work.rename(path)


def checksum(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A short hash (16 hex digits) of anything JSON can say; equal values have equal fingerprints."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON document, atomically and indented."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Reads one JSON document; a missing or broken file is a FledgeError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FledgeError(f"{path} does not exist", "run the step that writes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FledgeError(
            f"{path} is not valid JSON: {error}", "it was cut short or edited: delete it and run again"
        ) from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads one JSON object a line; a missing or broken file is a FledgeError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FledgeError(f"{path} does not exist", "run the step that writes it first") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise FledgeError(
                f"{path}, line {number}: not valid JSON ({error.msg})", "mend or remove that line"
            ) from None
    return rows
