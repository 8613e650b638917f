"""What training stages share: sizes in tokens, what is measured, when it is saved, and when it is compiled."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.checkpoint.directory import load_model
from fledge.core.config import load_config, make_config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.stream import Stream
from fledge.objectives.language import next_token
from fledge.stages import session as session_module
from fledge.stages.examples import document_examples, read_documents
from fledge.stages.session import Session, TrainConfig
from fledge.text.tokenizer import Tokenizer

QUIET = Log(quiet=True)


def start(tiny: Path, out: Path, steps: int = 6, **changes: Any) -> Session:
    settings = {"length": 64, "tokens_per_step": 256, "tokens_per_microbatch": 128, "log_every": 2, "dtype": "float32"}
    config = make_config(TrainConfig, settings | changes, "the test")
    examples = document_examples(read_documents(tiny / "documents.jsonl", QUIET), Tokenizer.load(tiny / "base"))
    shares = dict.fromkeys(examples, 1.0)
    stream = Stream(examples, shares, 64, config.rows_per_microbatch, config.microbatches, config.seed, split=True)
    out.mkdir(exist_ok=True)
    return Session(config, load_model(tiny / "base"), stream, steps, out, Log(out, quiet=True), "test")


@given(length=st.integers(2, 4096), step=st.integers(1, 1 << 20), microbatch=st.integers(1, 1 << 20))
def test_sizes_in_tokens_become_rows(length: int, step: int, microbatch: int) -> None:
    """A step has the tokens asked for, to within a row a micro-batch; a micro-batch has no more than fit."""
    config = TrainConfig(length=length, tokens_per_step=step, tokens_per_microbatch=microbatch)
    rows = config.rows_per_microbatch
    tokens = rows * config.microbatches * length
    assert tokens <= step or rows == 1
    assert tokens > step - config.microbatches * length
    assert rows * length <= microbatch or rows == 1


@pytest.mark.parametrize(
    "bad", ["length=0", "length=-1", "tokens_per_step=0", "tokens_per_microbatch=0", "compile=maybe"]
)
def test_sizes_that_make_no_sense(bad: str) -> None:
    with pytest.raises(FledgeError, match=f"'{bad.partition('=')[0]}' in the command line: "):
        load_config(TrainConfig, None, [bad])


def test_what_is_measured(tiny: Path, tmp_path: Path) -> None:
    session = start(tiny, tmp_path / "out", steps=5)
    steps = list(session.fit(next_token))
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert [row["loss"] for row in rows] == [steps[1].loss, steps[3].loss, steps[4].loss]
    assert [row["tokens"] for row in rows] == [sum(step.tokens for step in steps[:n]) for n in (2, 4, 5)]
    assert 4 * 256 < rows[-1]["tokens"] <= 5 * 256  # a source's last row of a pass is not full
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"]
    summary = session.summary()
    assert summary["steps"] == 5
    assert summary["tokens"] == rows[-1]["tokens"]
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / sum(step.seconds for step in steps))
    assert 0 <= summary["data_wait_share"] < 1
    assert summary["dtype"] == "float32"


def test_it_saves_as_often_as_asked_and_keeps_two(tiny: Path, tmp_path: Path) -> None:
    always, never = start(tiny, tmp_path / "a", save_seconds=0), start(tiny, tmp_path / "b", save_seconds=1e9)
    for session in (always, never):
        list(session.fit(next_token))
    assert sorted(path.name for path in always.resume_directory.iterdir()) == ["step-000000005", "step-000000006"]
    assert not never.resume_directory.exists()


def test_a_finished_job_has_nothing_left_to_do(tiny: Path, tmp_path: Path) -> None:
    first = start(tiny, tmp_path / "out", save_seconds=0)
    list(first.fit(next_token))
    again = start(tiny, tmp_path / "out", save_seconds=0)
    assert again.start == 6
    assert list(again.fit(next_token)) == []
    assert again.tokens == first.tokens
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_data_that_changed_meanwhile_is_noticed(tiny: Path, tmp_path: Path) -> None:
    session = start(tiny, tmp_path / "out", save_seconds=0)
    next(steps := session.fit(next_token))
    next(steps)
    steps.close()
    other = tmp_path / "other"
    other.mkdir()
    lines = (tiny / "documents.jsonl").read_text().splitlines(keepends=True)
    (other / "documents.jsonl").write_text("".join(lines[:-3]))
    (other / "base").symlink_to(tiny / "base")
    with pytest.raises(FledgeError, match="the data has changed since the run was stopped"):
        start(other, tmp_path / "out")


def test_compilation_is_decided_by_the_whole_job(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by what is left of it: compiled code has other last bits, and a resumed job must not."""
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: compiled.append(model) or model)
    monkeypatch.setattr(session_module.shutil, "which", lambda name: "/usr/bin/" + name)
    session = start(tiny, tmp_path / "a")
    assert session.compiled() is session.model
    assert not compiled
    monkeypatch.setattr(session_module, "WORTH_COMPILING", 1.0)
    session.compiled()
    session.start = session.steps - 1
    session.compiled()
    assert len(compiled) == 2
    start(tiny, tmp_path / "b", compile="never").compiled()
    assert len(compiled) == 2
    monkeypatch.setattr(session_module.shutil, "which", lambda name: None)
    if not torch.cuda.is_available():
        session.compiled()
        assert len(compiled) == 2
