"""Files → rows (dicts): text, Markdown, source code, HTML, WARC, JSONL, JSON, CSV, Parquet and Arrow, plain or .gz.

Streams: no more of a file than a line, a batch of rows or (HTML, WARC, JSON) a document is held at a time. What cannot
be used is dropped and counted with its reason and the first place it was seen; only when nothing at all is left, or the
path itself is wrong, is it an error. Every row gets `source` (where it came from) and `kind` (prose or code) unless
it has its own. Leaves out what columns mean (`columns`), zip and tar, PDF and office formats. HTML → text by
trafilatura, WARC by FastWARC.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path

from fledge.core.errors import FledgeError
from fledge.data import formats
from fledge.data.formats import Row
from fledge.data.lines import Unusable, open_bytes

TEXT_BYTES = 1 << 24
PROSE = ("", ".txt", ".text", ".md", ".markdown", ".rst")
CODE = (".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".rs", ".go", ".java", ".js", ".ts", ".sh", ".sql", ".rb")
READERS: dict[tuple[str, ...], Callable[[BufferedReader], formats.Rows]] = {
    (".jsonl", ".ndjson"): formats.jsonl,
    (".json",): formats.json_document,
    (".csv", ".tsv"): formats.comma_separated,
    (".parquet",): formats.parquet,
    (".arrow", ".feather"): formats.arrow,
    (".html", ".htm"): formats.html,
    (".warc", ".wet"): formats.warc,
}
DATASET_NOTES = ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json")


@dataclass
class Reading:
    """How a reading went: read == kept + sum(dropped.values()); `first` is where each reason was first met."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def keep(self) -> None:
        self.read += 1
        self.kept += 1

    def drop(self, reason: str, place: str) -> None:
        self.read += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.first.setdefault(reason, place)

    def __str__(self) -> str:
        reasons = [f"{count:,} × {reason} (first: {self.first[reason]})" for reason, count in self.dropped.items()]
        text = f"{self.read:,} read, {self.kept:,} kept"
        return f"{text}; dropped: {'; '.join(reasons)}" if reasons else text


@dataclass
class Rows:
    """The rows of a path and how the reading went."""

    rows: list[Row]
    report: Reading


def read(path: Path, *, text_bytes: int = TEXT_BYTES) -> Rows:
    """All rows of a file, or of every file below a folder, in order of name.

    A plain text is one row, or several, cut at line ends, if it is longer than `text_bytes`. Raises FledgeError for
    a path that is missing or unreadable, and if not a single row could be kept.
    """
    report = Reading()
    rows = list(iterate(path, report, text_bytes=text_bytes))
    if not rows:
        what = "holds no files" if report.read == 0 else f"holds nothing that can be used: {report}"
        raise FledgeError(
            f"{path} {what}", "give text, Markdown, HTML, WARC, JSONL, JSON, CSV, Parquet or Arrow files (.gz too)"
        )
    return Rows(rows, report)


def iterate(path: Path, report: Reading, *, text_bytes: int = TEXT_BYTES) -> Iterator[Row]:
    """The rows of `read`, one at a time; `report` is filled on the way."""
    path = Path(path)
    try:
        os.scandir(path).close() if path.is_dir() else path.open("rb").close()
    except FileNotFoundError:
        raise FledgeError(f"{path} does not exist", "check the path") from None
    except OSError as error:
        raise FledgeError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None
    for file, name in files(path, report):
        yield from rows_of(file, name, report, text_bytes)


def files(path: Path, report: Reading) -> Iterator[tuple[Path, str]]:
    """The files below a path, each with the name to report; hidden ones and notes of data sets are passed over."""
    if not path.is_dir():
        yield path, path.name
        return

    def unreadable(error: OSError) -> None:
        report.drop(f"unreadable folder ({error.strerror})", str(error.filename))

    for folder, folders, names in os.walk(path, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and name not in DATASET_NOTES:
                yield file, file.relative_to(path).as_posix()


def rows_of(path: Path, name: str, report: Reading, text_bytes: int) -> Iterator[Row]:
    """The rows of one file; whatever is wrong with it ends in the report."""
    compressed = name.lower().endswith(".gz")
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    reader = next((READERS[suffixes] for suffixes in READERS if suffix in suffixes), None)
    if suffix in PROSE or suffix in CODE:
        reader = partial(formats.text, size=text_bytes)
    if reader is None:
        report.drop(f"of an unknown type ({suffix})", name)
        return
    defaults = {"source": name, "kind": "code" if suffix in CODE else "prose"}
    try:
        with open_bytes(path, compressed) as file:
            for place, row in reader(file):
                source = f"{name}:{place}" if place else name
                if isinstance(row, Unusable):
                    report.drop(str(row), source)
                else:
                    report.keep()
                    yield defaults | {"source": source} | row
    except Unusable as reason:
        report.drop(str(reason), name)
    except (EOFError, zlib.error):
        report.drop("cut short or broken gzip", name)
    except OSError as error:  # gzip's own complaint has no errno
        report.drop(f"unreadable ({error.strerror})" if error.errno else "cut short or broken gzip", name)
