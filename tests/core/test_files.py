"""Files are whole or absent, and what is wrong with a disk or a file is said in one line."""

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fledge.core.errors import FledgeError
from fledge.core.files import (
    atomic_directory,
    checksum,
    disk_errors,
    fingerprint,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text_atomic,
)


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"
    with atomic_directory(target) as work:
        (work / "a").write_text("new")
        assert not target.exists()
    assert (target / "a").read_text() == "new"
    with atomic_directory(target) as work:
        (work / "b").write_text("newer")
        assert (target / "a").exists()
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in target.parent.iterdir()] == ["artifact"]


def test_a_failure_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with atomic_directory(target) as work:
        (work / "a").write_text("old")

    def write_half() -> None:
        with atomic_directory(target) as work:
            (work / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_text_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")
    monkeypatch.setattr("fledge.core.files.flush", lambda path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(FledgeError, match="the disk is full"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"


def test_checksum_and_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10_000)
    assert checksum(tmp_path / "a") == hashlib.sha256(b"abc" * 10_000).hexdigest()
    assert fingerprint({"a": 1, "b": [1.5, "ü"]}) == fingerprint({"b": [1.5, "ü"], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint(Path("x"))) == 16


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers() | st.none(), max_size=3))
)
def test_jsonl_survives_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    """U+2028, U+0085 and form feeds too, which `splitlines` would take for ends of lines."""
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    rows = [{"text": "a\u2028b\x85c\x0cd\x1ee"}, *rows]
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "a.jsonl, line 2: not valid JSON"),
        (b'{"a": 1}\n\n{"a": 2}{', "a.jsonl, line 3: not valid JSON"),
        (b"[1, 2]\n", "a.jsonl, line 1: not an object with named columns"),
        (b'{"a": "\xff"}\n', "a.jsonl is not valid UTF-8"),
    ],
)
def test_broken_jsonl(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(FledgeError, match=message) as caught:
        read_jsonl(tmp_path / "a.jsonl")
    assert caught.value.remedy


def test_missing_and_unreadable(tmp_path: Path) -> None:
    for read in (read_json, read_jsonl):
        with pytest.raises(FledgeError, match=r"none\.json does not exist"):
            read(tmp_path / "none.json")
        with pytest.raises(FledgeError, match="cannot be read: Is a directory"):
            read(tmp_path)


def test_broken_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, 2, 3]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2, 3]}
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text()[:-5])
    with pytest.raises(FledgeError, match="is not valid JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "delete it and run again" in caught.value.remedy


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: {path} could not be written"),
        (OSError(errno.EDQUOT, "quota"), "the disk is full: {path} could not be written"),
        (Exception("I/O error: No space left on device (os error 28)"), "the disk is full: {path}"),
        (PermissionError(errno.EACCES, "Permission denied"), "{path} cannot be opened or written: Permission denied"),
        (OSError(errno.EROFS, "ro"), "{path} cannot be opened or written: Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y cannot be opened or written"),
        (FileExistsError(errno.EEXIST, "File exists"), "{path} cannot be made or opened: a file is in the way"),
        (NotADirectoryError(errno.ENOTDIR, "Not a dir"), "{path} cannot be made or opened: a file is in the way"),
    ],
)
def test_what_a_disk_says(tmp_path: Path, error: Exception, message: str) -> None:
    with pytest.raises(FledgeError) as caught, disk_errors(tmp_path / "out"):
        raise error
    assert message.format(path=tmp_path / "out") in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "I/O error"), Exception("(os error 280)")])
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, disk_errors(tmp_path):
        raise error
    assert caught.value is error


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place]).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(full_disk: Path) -> None:
    with atomic_directory(full_disk / "kept") as work:
        (work / "a").write_text("precious")
    with pytest.raises(FledgeError, match="the disk is full"), atomic_directory(full_disk / "kept") as work:
        save_file({"a": torch.zeros(100_000)}, work / "model.safetensors")
    with pytest.raises(FledgeError, match="the disk is full"):
        write_jsonl(full_disk / "a.jsonl", ({"text": "x" * 1000} for _ in range(1000)))
    assert (full_disk / "kept" / "a").read_text() == "precious"
    assert [p.name for p in full_disk.iterdir() if p.is_dir()] == ["kept"]
