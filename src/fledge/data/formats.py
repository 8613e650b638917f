"""One reader per file format: an open file → (place in it, row or the reason why there is none).

A reader yields `Unusable` for a row that is lost and raises it where the rest of the file is.
"""

import csv
import gzip
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from fledge.core.files import parse_json
from fledge.data.lines import LINE_LIMIT, LONG_LINE, NOT_UTF8, Unusable, as_utf8, lines, sections, whole

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row | Unusable]]
BATCH = 1024  # rows of a columnar file held at once
WARC_HEADER, WARC_PLACE = 1 << 16, 500  # bytes of a record's header; characters of an address that are kept
LONG_PAGE = f"a page of more than {LINE_LIMIT >> 20} MiB"
NO_OBJECT = "not an object with named columns"


def text(file: io.BufferedReader, size: int) -> Rows:
    """A text as one row, or as several of at most `size` bytes, cut at line ends."""
    found = False
    for number, section in enumerate(sections(as_utf8(file), size), 1):
        found = True
        yield "" if number == 1 else str(number), Unusable(LONG_LINE) if section is None else text_row(section)
    if not found:
        yield "", Unusable("empty")


def text_row(data: bytes) -> Row | Unusable:
    """A row of a text, if it is UTF-8 and not blank."""
    try:
        content = data.decode()
    except UnicodeDecodeError:
        return Unusable(NOT_UTF8)
    return {"text": content} if content.strip() else Unusable("empty")


def html(file: io.BufferedReader) -> Rows:
    """The main text of a page."""
    yield "", page(whole(file, LINE_LIMIT))


def page(data: bytes) -> Row | Unusable:
    """A row of the main text of an HTML page, if it has one."""
    import trafilatura  # half a second, and few need it

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    content = trafilatura.extract(data)
    return {"text": content} if content else Unusable("a page without a main text")


def warc(file: io.BufferedReader) -> Rows:
    """A web archive (ISO 28500) such as Common Crawl's: the main text of pages (WARC), texts as they are (WET)."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    kinds = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
    found = False
    try:
        for record in ArchiveIterator(
            file, kinds, auto_decode="none", max_header_len=WARC_HEADER, stream_detect=False, fsspec_args=False
        ):
            found = True
            place = (record.headers.get("WARC-Target-URI") or record.record_id or "")[:WARC_PLACE]
            yield place, archived(record)
    except (OSError, ValueError):
        raise Unusable("broken WARC") from None
    if not found:
        raise Unusable("without a page or a text")


def archived(record: Any) -> Row | Unusable:
    """The row of one record of a web archive."""
    http = record.http_headers
    if http is not None and http.status_code != 200:
        return Unusable("an answer other than 200 OK")
    kind = (record.http_content_type if http is not None else record.headers.get("Content-Type")) or ""
    kind = kind.partition(";")[0].strip().lower()
    if kind not in ("text/html", "application/xhtml+xml", "text/plain"):
        return Unusable("neither HTML nor plain text")
    promised = record.content_length
    if promised > LINE_LIMIT:
        return Unusable(LONG_PAGE)
    try:
        record.freeze()
        if record.content_length < promised:
            return Unusable("a page that is cut short")
        content = unpacked(record)
    except (OSError, ValueError, StopIteration):
        return Unusable("a page that cannot be unpacked")
    if len(content) > LINE_LIMIT:
        return Unusable(LONG_PAGE)
    return text_row(content) if kind == "text/plain" else page(content)


def unpacked(record: Any) -> bytes:
    """The content of a record, at most LINE_LIMIT + 1 bytes of it, without the encodings it was sent in.

    It is unpacked as an archive of its own: FastWARC 2.0 loses its place in an archive where a packed page is not read
    to its end.
    """
    from fastwarc.warc import ArchiveIterator

    alone = io.BytesIO()
    record.write(alone)
    alone.seek(0)
    return next(iter(ArchiveIterator(alone, auto_decode="all"))).reader.read(LINE_LIMIT + 1)


def jsonl(file: io.BufferedReader) -> Rows:
    """One JSON object a line."""
    yield from json_lines(as_utf8(file))


def json_lines(file: IO[bytes]) -> Rows:
    """One JSON object a line; blank lines are passed over."""
    for number, line in enumerate(lines(file), 1):
        if line is None:
            yield str(number), Unusable(LONG_LINE)
        elif line.strip():
            try:
                yield str(number), checked(parse(line))
            except Unusable as reason:
                yield str(number), reason


def json_document(file: io.BufferedReader) -> Rows:
    """A list of objects, an object that holds such a list, one object, or JSONL under another name."""
    data = whole(as_utf8(file))
    try:
        value = parse(data)
    except Unusable as reason:
        if b"\n{" not in data.strip():
            raise
        rows = list(json_lines(io.BytesIO(data)))
        if all(isinstance(row, Unusable) for _, row in rows):
            raise reason from None
        yield from rows
        return
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
        value = lists[0] if len(lists) == 1 and len(value) <= 2 else [value]
    if not isinstance(value, list):
        raise Unusable(NO_OBJECT)
    for number, row in enumerate(value, 1):
        yield str(number), checked(row)


def parse(data: bytes) -> Any:
    """The value of a JSON text; raises Unusable with the reason if it has none that can be written again."""
    try:
        value = parse_json(data)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise Unusable("not valid Unicode (half of a surrogate pair)") from None
    except UnicodeDecodeError:
        raise Unusable(NOT_UTF8) from None
    except RecursionError:
        raise Unusable("JSON nested too deeply") from None
    except ValueError:
        raise Unusable("not valid JSON") from None


def checked(row: Any) -> Row | Unusable:
    """The row, if it has named columns."""
    return row if isinstance(row, dict) else Unusable(NO_OBJECT)


def comma_separated(file: io.BufferedReader) -> Rows:
    """A header and rows; the delimiter is the one of comma, semicolon and tab that the header has most of."""
    source = lines(as_utf8(file))
    header = next(source, None) or b""
    delimiter = max(",\t;", key=lambda mark: header.count(mark.encode()))
    lost = 0

    def decoded() -> Iterator[str]:
        nonlocal lost
        yield header.decode("utf-8", "surrogateescape")
        for line in source:
            lost += line is None
            if line is not None:
                yield line.decode("utf-8", "surrogateescape")

    csv.field_size_limit(LINE_LIMIT)
    reader = csv.reader(decoded(), delimiter=delimiter)
    try:
        names = next(reader, [])
        if not names or len(set(names)) < len(names):
            raise Unusable("without a header of distinct column names")
        for fields in reader:
            place = str(reader.line_num + lost)
            if len(fields) != len(names):
                if fields:
                    yield place, Unusable("a row with more or fewer columns than the header")
                continue
            try:
                "".join(fields).encode()
                yield place, dict(zip(names, fields))
            except UnicodeEncodeError:
                yield place, Unusable(NOT_UTF8)
    except csv.Error as error:
        raise Unusable(f"broken CSV ({error})") from None
    for _ in range(lost):
        yield "", Unusable(LONG_LINE)


def parquet(file: io.BufferedReader) -> Rows:
    """A Parquet file, a batch of rows at a time."""
    yield from columnar(lambda: pyarrow.parquet.ParquetFile(seekable(file)).iter_batches(batch_size=BATCH), "Parquet")


def arrow(file: io.BufferedReader) -> Rows:
    """An Arrow IPC file, or stream as Hugging Face `datasets` writes it."""

    def batches() -> Iterator[pa.RecordBatch]:
        source = mapped(file)
        try:
            whole_file = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            for batch in pa.ipc.open_stream(source):
                batch.validate(full=True)  # its offsets are the file's own: nothing else keeps them inside it
                yield batch
            return
        for index in range(whole_file.num_record_batches):
            batch = whole_file.get_batch(index)
            batch.validate(full=True)
            yield batch

    yield from columnar(batches, "Arrow")


def columnar(batches: Callable[[], Iterator[pa.RecordBatch]], name: str) -> Rows:
    """The rows of record batches, at most BATCH of them held at once; `name` is the format's, for the report."""
    number = 0
    try:
        for batch in batches():
            for start in range(0, batch.num_rows, BATCH):
                for row in batch_rows(batch.slice(start, BATCH)):
                    number += 1
                    yield str(number), row
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        raise Unusable(f"broken {name}") from None


def batch_rows(batch: pa.RecordBatch) -> list[Row | Unusable]:
    """The rows of a batch; a row with a string that is not UTF-8 costs only itself."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [Unusable(NOT_UTF8)]
        return [row for index in range(batch.num_rows) for row in batch_rows(batch.slice(index, 1))]


def mapped(file: io.BufferedReader) -> pa.NativeFile:
    """The file's bytes (unpacked) without reading them: what it says about its own sizes is then never allocated."""
    return pa.BufferReader(whole(file)) if isinstance(file.raw, gzip.GzipFile) else pa.memory_map(file.name)


def seekable(file: io.BufferedReader) -> IO[bytes]:
    """The file itself, or its unpacked bytes, as these formats are read from their end."""
    return io.BytesIO(whole(file)) if isinstance(file.raw, gzip.GzipFile) else file
