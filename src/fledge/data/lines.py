"""Lines and whole files, read with bounded memory from plain or gzip files.

A line longer than LINE_LIMIT is not text that anyone wrote: it is passed over without ever being held in memory.
"""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LINE_LIMIT = 1 << 24  # bytes
FILE_LIMIT = 1 << 29  # bytes of a format that can only be read whole
LONG_LINE = f"a line longer than {LINE_LIMIT >> 20} MiB"
NOT_UTF8 = "not valid UTF-8"


class Unusable(Exception):
    """A row, a file or the rest of a file that cannot be used; the message is the reason to report."""


def open_bytes(path: Path, compressed: bool) -> io.BufferedReader:
    """The file's bytes, unpacked if it is gzip."""
    return io.BufferedReader(gzip.GzipFile(path)) if compressed else path.open("rb")


def as_utf8(file: io.BufferedReader) -> IO[bytes]:
    """The file of a text format as UTF-8 without a byte order mark; raises Unusable for binary data."""
    head = file.peek(8192)[:8192]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return io.BytesIO(whole(file).decode("utf-16").encode())
        except UnicodeError:
            raise Unusable("not valid UTF-16, as its first bytes say it is") from None
    if b"\0" in head:
        raise Unusable("binary, not text")
    if head.startswith(b"\xef\xbb\xbf"):
        file.read(3)
    return file


def lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines with their ends; None stands for a line longer than LINE_LIMIT."""
    while line := file.readline(LINE_LIMIT):
        if len(line) < LINE_LIMIT or line.endswith(b"\n"):
            yield line
            continue
        del line
        while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        yield None


def sections(file: IO[bytes], size: int) -> Iterator[bytes | None]:
    """Consecutive lines joined to at most `size` bytes (or a single longer line); None as in `lines`."""
    held: list[bytes] = []
    total = 0
    for line in lines(file):
        if line is None:
            yield None
            continue
        if held and total + len(line) > size:
            yield b"".join(held)
            held, total = [], 0
        held.append(line)
        total += len(line)
    if held:
        yield b"".join(held)


def whole(file: IO[bytes], limit: int = FILE_LIMIT) -> bytes:
    """All bytes of a file of at most `limit` bytes (unpacked)."""
    chunks, size = [], 0
    while chunk := file.read(1 << 22):  # asked for all at once, Python allocates the limit whatever the file's size
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise Unusable(f"larger than {limit >> 20} MiB, in a format that is read whole")
    return b"".join(chunks)
