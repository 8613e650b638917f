"""Collect: what it writes, and what it refuses."""

from pathlib import Path

import pytest

from fledge.core.errors import FledgeError
from fledge.core.files import read_jsonl
from fledge.core.log import Log
from fledge.data.readers import read
from fledge.stages.collect import CollectConfig, collect

LOG = Log(quiet=True)


def test_writes_documents_and_names(tmp_path: Path) -> None:
    summary = collect(CollectConfig(names=80, code_megabytes=0.3), tmp_path, LOG)
    rows = read(tmp_path / "documents.parquet").rows
    assert {row["kind"] for row in rows} == {"docs", "topics", "code", "facts"}
    assert len(rows) == sum(kind["documents"] for kind in summary["kinds"].values())
    assert summary["kinds"]["code"]["characters"] <= 300_000
    names = read_jsonl(tmp_path / "names.jsonl")
    assert len(names) == summary["names"] == 80
    existing = set((tmp_path / "all_names.txt").read_text().split())
    assert {name["name"] for name in names} <= existing
    facts = " ".join(row["text"] for row in rows if row["kind"] == "facts")
    assert all(name["summary"] in facts for name in names)


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="package 'nonesuch' is not installed"):
        collect(CollectConfig(package="nonesuch"), tmp_path, LOG)


def test_a_package_without_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silent.py").write_text("def nothing(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FledgeError, match="'silent' documents no name"):
        collect(CollectConfig(package="silent"), tmp_path, LOG)
