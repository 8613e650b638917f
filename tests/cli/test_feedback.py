"""`fledge feedback` as it is typed: tasks in, judgements in and out, agreement, erasing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[feedback]'")

from fledge.cli.feedback import app
from fledge.core.errors import FledgeError
from fledge.feedback.store import Store


def test_a_comparison_goes_in_and_comes_out(tmp_path: Path) -> None:
    store, source, out = str(tmp_path / "f.db"), tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}) + "\n")
    run = CliRunner()

    def ok(*words: str) -> None:
        result = run.invoke(app, [*words, "--store", store])
        assert result.exit_code == 0, result.output

    ok("import", str(source))
    ok("export", str(out), "--layout", "pairs")
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["prompt"] == [{"role": "user", "content": "Hi"}]
    assert row["chosen"] == [{"role": "assistant", "content": "Hello!"}]
    assert row["labeller"] == "pairs.jsonl"
    source.write_text(json.dumps({"prompt": "Hi", "completions": ["a", "b"]}) + "\n")
    ok("queue", str(source), "--wanted", "2")
    ok("agreement")
    ok("erase", "pairs.jsonl")
    assert Store.open(store).judgements() == []


def test_nothing_to_queue_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["queue", "--store", str(tmp_path / "f.db")])
    assert isinstance(result.exception, FledgeError)
    assert "nothing to add" in result.exception.message
