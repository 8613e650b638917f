"""Web archives: written by warcio, the reference implementation, and as broken as crawls have them."""

import gzip
import io
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError
from fledge.data.lines import LINE_LIMIT
from fledge.data.readers import Reading, iterate, read

warcwriter = pytest.importorskip("warcio.warcwriter", reason="pip install warcio")
statusandheaders = pytest.importorskip("warcio.statusandheaders")

BODY = "The kestrel hovers over the field and looks for mice in the grass below. " * 5
PAGE = f"<html><head><title>K</title></head><body><nav>Home</nav><article><p>{BODY}</p></article></body></html>"
Answer = tuple[str, str, list[tuple[str, str]], bytes]
HTML = [("Content-Type", "text/html; charset=utf-8")]


def archive(answers: list[Answer], packed: bool = True, texts: tuple[bytes, ...] = ()) -> bytes:
    """A crawl as crawlers write it: each answer after its request, and extracted texts as in Common Crawl's WET."""
    sink = io.BytesIO()
    writer = warcwriter.WARCWriter(sink, gzip=packed)
    writer.write_record(writer.create_warcinfo_record("crawl.warc", {"software": "a crawler"}))
    for address, status, headers, body in answers:
        said = statusandheaders.StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.org")])
        writer.write_record(writer.create_warc_record(address, "request", http_headers=said))
        said = statusandheaders.StatusAndHeaders(status, headers, protocol="HTTP/1.1")
        writer.write_record(writer.create_warc_record(address, "response", payload=io.BytesIO(body), http_headers=said))
    for text in texts:
        plain = {"payload": io.BytesIO(text), "warc_content_type": "text/plain"}
        writer.write_record(writer.create_warc_record("http://example.org/t", "conversion", **plain))
    return sink.getvalue()


@pytest.mark.parametrize("packed", [True, False])
def test_pages_and_texts_of_a_crawl_are_read(tmp_path: Path, packed: bool) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PAGE[:99].encode(), PAGE[99:].encode(), b""))
    answers: list[Answer] = [
        ("http://a.org/plain", "200 OK", HTML, PAGE.encode()),
        ("http://a.org/packed", "200 OK", [*HTML, ("Content-Encoding", "gzip")], gzip.compress(PAGE.encode())),
        ("http://a.org/chunked", "200 OK", [*HTML, ("Transfer-Encoding", "chunked")], chunks),
        ("http://a.org/gone", "404 Not Found", HTML, PAGE.encode()),
        ("http://a.org/picture", "200 OK", [("Content-Type", "image/png")], b"\x89PNG"),
        ("http://a.org/empty", "200 OK", HTML, b"<html></html>"),
    ]
    name = "crawl.warc.gz" if packed else "crawl.warc"
    (tmp_path / name).write_bytes(archive(answers, packed, ("Ein Text über Turmfalken.".encode(), b"\xff\xfe")))
    report = Reading()
    rows = list(iterate(tmp_path / name, report))
    pages = ("plain", "packed", "chunked")
    assert [row["source"] for row in rows[:3]] == [f"{name}:http://a.org/{each}" for each in pages]
    assert all(row["text"].strip() == BODY.strip() and row["kind"] == "prose" for row in rows[:3])
    assert rows[3]["text"] == "Ein Text über Turmfalken."
    assert (report.read, report.kept) == (8, 4)
    assert report.dropped == {
        "an answer other than 200 OK": 1,
        "neither HTML nor plain text": 1,
        "a page without a main text": 1,
        "not valid UTF-8": 1,
    }


def test_a_page_that_unpacks_to_more_than_any_page_is_dropped_alone(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * (4 * LINE_LIMIT))
    answers: list[Answer] = [
        ("http://a.org/bomb", "200 OK", [*HTML, ("Content-Encoding", "gzip")], bomb),
        ("http://a.org/good", "200 OK", HTML, PAGE.encode()),
    ]
    (tmp_path / "a.warc.gz").write_bytes(archive(answers))
    found = read(tmp_path / "a.warc.gz")
    assert [row["source"] for row in found.rows] == ["a.warc.gz:http://a.org/good"]
    assert list(found.report.dropped) == ["a page of more than 16 MiB"]


def test_what_was_read_before_the_damage_is_kept(tmp_path: Path) -> None:
    good = archive([(f"http://a.org/{n}", "200 OK", HTML, PAGE.encode()) for n in range(4)], packed=False)
    (tmp_path / "a.warc").write_bytes(b"WRAC/".join(good.rsplit(b"WARC/", 1)))
    (tmp_path / "b.warc").write_bytes(good[: len(good) * 3 // 4])
    for name in ("a.warc", "b.warc"):
        found = read(tmp_path / name)
        assert 1 <= len(found.rows) < 4, name
        assert sum(found.report.dropped.values()) >= 1, name


@pytest.mark.parametrize(
    "data",
    [b"", b"not an archive", b"WARC/1.0\r\n" + b"x" * (1 << 20), b"WARC/1.0\r\nContent-Length: -5\r\n\r\nabc\r\n\r\n"],
)
def test_what_is_no_archive_is_said_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.warc").write_bytes(data)
    with pytest.raises(FledgeError, match=r"broken WARC|without a page or a text") as error:
        read(tmp_path / "a.warc")
    assert "\n" not in error.value.message
