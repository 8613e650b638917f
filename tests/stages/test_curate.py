"""Curate: from a user's folder to Parquet, with every row accounted for."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fledge.core.errors import FledgeError
from fledge.core.files import read_json
from fledge.core.log import Log
from fledge.data.readers import read
from fledge.stages.curate import CurateConfig, curate


def sentence(number: int) -> str:
    words = ("apples", "bridges", "clouds", "dragons", "engines", "forests", "gardens", "harbours", "islands", "jokers")
    chosen = " and ".join(words[int(digit)] for digit in f"{number:04d}")
    return f"Story {number} tells of {chosen}, and it ends well for all of them in year {number}."


def test_a_folder_of_mixed_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [{"text": sentence(number)} for number in range(200)]
    rows += [{"text": sentence(5)}, {"text": "short [/bold] one"}, {"other": "no text"}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    (folder / "b.md").write_text("# Title\n\nThis is a file in Markdown with some words in it.\n")
    (folder / "c.bin").write_bytes(b"\x00\x01")
    stream = StringIO()
    out = tmp_path / "out"
    out.mkdir()
    summary = curate(CurateConfig(documents=folder), out, Log(console=Console(file=stream, width=150)))

    train, heldout = read(out / "train.parquet").rows, read(out / "heldout.parquet").rows
    dropped = sum(row["dropped"] for row in summary["table"])
    assert summary["read"] == len(train) + len(heldout) + dropped + sum(summary["unread"].values()) == 206
    assert sum(summary["unread"].values()) == 3
    assert len(heldout) > 0
    assert read_json(out / "curation.json") == summary
    shown = stream.getvalue()
    assert "exact duplicate" in shown
    assert "short [/bold] one" in shown  # no markup
    assert "could not be used" in shown


def test_nothing_to_curate(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"number": 1}\n')
    with pytest.raises(FledgeError):
        curate(CurateConfig(documents=tmp_path / "a.jsonl"), tmp_path, Log(quiet=True))
    with pytest.raises(FledgeError, match="does not exist"):
        curate(CurateConfig(documents=tmp_path / "nowhere"), tmp_path, Log(quiet=True))


def test_all_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("too short")
    with pytest.raises(FledgeError, match="nothing remains of 1 documents: 1 too few words"):
        curate(CurateConfig(documents=tmp_path / "a.txt"), tmp_path, Log(quiet=True))
