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

LARGEST = 1 << 28  # bytes of a JSON file that is read whole
HEAVIEST = 1 << 32  # bytes that its values may take
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the disk's own failures (full, read-only, no permission) into one clear line about `path`.

    Libraries in Rust say them in words of their own, with the system's number in them.
    """
    try:
        yield
    except FledgeError:
        raise
    except Exception as error:
        found = error.errno if isinstance(error, OSError) else 0
        if found in FULL or any(f"(os error {number})" in str(error) for number in FULL):
            raise FledgeError(
                f"the disk is full: {path} could not be written",
                "free some space, then run the same command again; finished work is kept",
            ) from None
        place = (isinstance(error, OSError) and error.filename) or path
        if found in FORBIDDEN or any(f"(os error {number})" in str(error) for number in FORBIDDEN):
            raise FledgeError(
                f"{place} cannot be opened or written: {os.strerror(found) if found else error}",
                "mend its permissions, or choose another directory (--out)",
            ) from None
        if found in IN_THE_WAY:
            raise FledgeError(
                f"{place} cannot be made or opened: a file is in the way",
                "move that file, or choose another directory (--out)",
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
    """Reads one JSON document; a missing, broken or enormous file is a FledgeError."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        return parse_json(read_text(path).encode())
    except OSError:
        read_text(path)  # which says why
        raise
    except (ValueError, RecursionError) as error:
        raise FledgeError(
            f"{path} is not valid JSON: {error}", "it was cut short or edited: delete it and run again"
        ) from None


def parse_json(data: bytes) -> Any:
    """The value of a JSON text. Raises ValueError (RecursionError, if it is nested too deeply), also for a text whose
    values would take more memory than HEAVIEST: a document of empty objects takes thirty times its size."""
    if weight(data) > HEAVIEST:
        raise ValueError(f"its values would take more than {HEAVIEST >> 30} GiB of memory")
    return json.loads(data)


def weight(data: bytes) -> int:
    """A bound on the bytes that the values of a JSON text take: what every value costs, and its characters."""
    return 100 * sum(data.count(mark) for mark in (b",", b":", b"[", b"{")) + 4 * len(data)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads one JSON object a line, blank lines aside; a missing or broken file is a FledgeError."""
    try:
        lines = read_text(path).split("\n")  # and at nothing else: JSON leaves U+2028 and the like as they are
    except UnicodeDecodeError as error:
        raise FledgeError(f"{path} is not valid UTF-8: {error}", "save it as UTF-8") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FledgeError(f"{path}, line {number}: not valid JSON ({error})", "mend or remove that line") from None
        if not isinstance(row, dict):
            raise FledgeError(f"{path}, line {number}: not an object with named columns", "mend or remove that line")
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; a missing or unreadable one is a FledgeError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FledgeError(f"{path} does not exist", "run the step that writes it first") from None
    except OSError as error:
        raise FledgeError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from None
