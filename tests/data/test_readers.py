"""The readers on every format, and on files as broken as users have them."""

import csv
import gzip
import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.core.errors import FledgeError
from fledge.data.lines import LINE_LIMIT
from fledge.data.readers import Reading, iterate, read

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS = [{"text": "one é", "n": 1}, {"text": 'two, "quoted"\nnext line', "n": 2}]


def texts(path: Path) -> list[str]:
    return [row["text"] for row in read(path).rows]


def check_sum(report: Reading) -> None:
    assert report.read == report.kept + sum(report.dropped.values())
    assert report.first.keys() == report.dropped.keys()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_arrow(rows: list[dict[str, Any]], stream: bool) -> bytes:
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


FORMATS = {
    "a.jsonl": as_jsonl(ROWS),
    "bom.jsonl": b"\xef\xbb\xbf" + as_jsonl(ROWS),
    "utf16.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode("utf-16"),
    "a.json": json.dumps(ROWS, indent=2).encode(),
    "wrapped.json": json.dumps({"version": "1", "data": ROWS}).encode(),
    "lines.json": as_jsonl(ROWS),
    "a.csv": as_csv(ROWS),
    "semicolon.csv": as_csv(ROWS, ";"),
    "a.tsv": as_csv(ROWS, "\t"),
    "a.parquet": as_parquet(ROWS),
    "file.arrow": as_arrow(ROWS, stream=False),
    "stream.arrow": as_arrow(ROWS, stream=True),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_rows(tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(FORMATS[name]) if packed else FORMATS[name])
    result = read(path)
    assert [(row["text"], int(row["n"])) for row in result.rows] == [(row["text"], row["n"]) for row in ROWS]
    assert all(row["source"].startswith(path.name + ":") and row["kind"] == "prose" for row in result.rows)
    assert (result.report.read, result.report.kept, result.report.dropped) == (2, 2, {})


@pytest.mark.parametrize("name", ["a.txt", "a.md", "README", "a.py", "a.TXT"])
def test_a_text_file_is_one_row(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("é\r\n\n  x".encode())
    kind = "code" if name.endswith(".py") else "prose"
    assert read(tmp_path / name).rows == [{"text": "é\r\n\n  x", "source": name, "kind": kind}]


def test_a_long_text_is_cut_at_line_ends_and_nothing_is_lost(tmp_path: Path) -> None:
    lines = [f"line {n}\n" for n in range(1000)]
    (tmp_path / "a.txt").write_text("".join(lines))
    result = read(tmp_path / "a.txt", text_bytes=500)
    assert "".join(row["text"] for row in result.rows) == "".join(lines)
    assert all(len(row["text"]) <= 500 and row["text"].endswith("\n") for row in result.rows)
    assert len({row["source"] for row in result.rows}) == len(result.rows) > 10


def test_html_gives_its_main_text(tmp_path: Path) -> None:
    body = "The kestrel hovers over the field and looks for mice in the grass below. " * 5
    page = (
        f"<html><head><title>Kestrels</title></head><body><nav>Home About</nav><article><p>{body}</p></article></body>"
    )
    (tmp_path / "a.html").write_text(page + "<script>var x = 1;</script></html>")
    (text,) = texts(tmp_path / "a.html")
    assert "kestrel hovers" in text
    assert "var x" not in text


def test_a_rows_own_source_and_kind_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([{"text": "x", "source": "web", "kind": "code"}]))
    assert read(tmp_path / "a.jsonl").rows == [{"text": "x", "source": "web", "kind": "code"}]


def test_a_folder_is_read_in_order_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a.txt", "b/1.jsonl", ".git/config.txt", ".hidden.txt", "dataset_info.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(as_jsonl([{"text": "row"}]) if name.endswith("l") else b"text")
    result = read(tmp_path)
    assert [row["source"] for row in result.rows] == ["a.txt", "b/1.jsonl:1", "b/2.txt"]
    assert result.report.read == 3


BROKEN = {
    "zeros.txt": (b"abc\0def", "binary, not text"),
    "latin.txt": ("señor".encode("latin-1"), "not valid UTF-8"),
    "utf16.txt": (b"\xff\xfea", "not valid UTF-16"),
    "blank.txt": (b" \n\t\n", "empty"),
    "nothing.txt": (b"", "empty"),
    "picture.png": (b"\x89PNG", r"of an unknown type \(.png\)"),
    "broken.parquet": (as_parquet(ROWS)[:-20], "broken Parquet"),
    "text.parquet": (b"not parquet at all", "broken Parquet"),
    "nothing.parquet": (b"", "broken Parquet"),
    "broken.arrow": (as_arrow(ROWS, stream=False)[:100], "broken Arrow"),
    "broken.json": (b'[{"text": "x"}, {"te', "not valid JSON"),
    "number.json": (b"3", "not an object"),
    "deep.json": (b"[" * 200_000, "nested too deeply|not valid JSON"),
    "header.csv": (b"text,text\na,b\n", "distinct column names"),
    "nothing.csv": (b"", "distinct column names"),
    "binary.jsonl": (bytes(range(256)), "binary, not text"),
    "nothing.html": (b"<html></html>", "without a main text"),
    "cut.txt.gz": (gzip.compress(b"hello " * 1000)[:-10], "broken gzip"),
    "plain.jsonl.gz": (b"this is not gzip", "broken gzip"),
    "damaged.jsonl.gz": (gzip.compress(os.urandom(9000))[:20] + b"\xff" * 500, "broken gzip"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    data, reason = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FledgeError, match=reason) as error:
        read(tmp_path / name)
    assert name in error.value.message
    assert "\n" not in error.value.message
    assert error.value.remedy
    # Beside good files it is counted, and nothing else is lost.
    (tmp_path / "good.txt").write_text("good")
    result = read(tmp_path)
    assert [row["text"] for row in result.rows] == ["good"]
    assert sum(result.report.dropped.values()) == 1
    check_sum(result.report)


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(FledgeError, match="holds no files"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(FledgeError, match="cannot be read: Permission denied"):
        read(tmp_path / "a.txt")
    with pytest.raises(FledgeError, match=r"unreadable \(Permission denied\)"):
        read(tmp_path)


def test_a_link_to_nowhere_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "b.txt").write_text("x")
    result = read(tmp_path)
    assert result.report.dropped == {"unreadable (No such file or directory)": 1}
    check_sum(result.report)


def test_bad_lines_of_jsonl_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    bad = [b'{"text": "x"', b"[1, 2]", b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"", b'"just text"', b"1" * 5000]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + b"\n".join(bad) + b'\n{"text": "\\ud83d\\ude42"}')
    result = read(tmp_path / "a.jsonl")
    assert [row["text"] for row in result.rows] == ["a", "🙂"]
    assert result.report.dropped == {
        "not valid JSON": 2,
        "not an object with named columns": 2,
        "not valid UTF-8": 1,
        "not valid Unicode (half of a surrogate pair)": 1,
    }
    assert result.report.first["not valid UTF-8"] == "a.jsonl:4"
    check_sum(result.report)
    assert "1 × not valid UTF-8 (first: a.jsonl:4)" in str(result.report)


def test_bad_rows_of_csv_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,n\na,1\nb\nc,2,3\n\xff,4\n\nd,5\n")
    result = read(tmp_path / "a.csv")
    assert [row["text"] for row in result.rows] == ["a", "d"]
    assert result.report.dropped == {"a row with more or fewer columns than the header": 2, "not valid UTF-8": 1}
    assert result.report.first["not valid UTF-8"] == "a.csv:5"


def test_bad_strings_of_parquet_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    good = pa.array([b"a", b"\xff\xfe", b"c"], pa.binary())
    strings = pa.StringArray.from_buffers(3, good.buffers()[1], good.buffers()[2])
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    result = read(tmp_path / "a.parquet")
    assert [row["text"] for row in result.rows] == ["a", "c"]
    assert result.report.dropped == {"not valid UTF-8": 1}
    assert result.report.first == {"not valid UTF-8": "a.parquet:2"}


@pytest.mark.parametrize(
    ("name", "head", "tail"),
    [("a.txt", b"before\n", b"after\n"), ("a.jsonl", b'{"text": "before\\n"}\n', b'{"text": "after\\n"}\n')],
)
@pytest.mark.parametrize("packed", [False, True])
def test_an_endless_line_is_passed_over_without_being_held(
    tmp_path: Path, name: str, head: bytes, tail: bytes, packed: bool
) -> None:
    path = tmp_path / (name + ".gz" if packed else name)
    with gzip.open(path, "wb", 1) if packed else path.open("wb") as file:
        file.write(head)
        for _ in range(128):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + tail)
    report = Reading()
    tracemalloc.start()
    rows = [row["text"] for row in iterate(path, report)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "".join(rows) == "before\nafter\n"
    assert report.dropped == {f"a line longer than {LINE_LIMIT >> 20} MiB": 1}
    assert peak < 4 * LINE_LIMIT


def test_a_file_of_one_endless_line_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        for _ in range(20):
            file.write(b"x" * (1 << 20))
    with pytest.raises(FledgeError, match="a line longer than 16 MiB"):
        read(tmp_path / "a.txt")


def test_real_pages_and_files() -> None:
    if not SHARED.exists():
        pytest.skip(f"needs the real data in {SHARED}")
    stories = read(SHARED / "text" / "tinystories_sample.jsonl")
    assert stories.report.kept == stories.report.read > 500
    c4 = read(SHARED / "web" / "c4_sample.jsonl.gz")
    assert all(row["text"].strip() for row in c4.rows)
    shakespeare = read(SHARED / "text" / "tinyshakespeare_train.txt")
    assert len(shakespeare.rows) == 1
    assert len(shakespeare.rows[0]["text"].encode()) == (SHARED / "text" / "tinyshakespeare_train.txt").stat().st_size
    folder = read(SHARED / "classification")
    check_sum(folder.report)
    assert any(row["source"].startswith("sick_train.tsv") for row in folder.rows)
