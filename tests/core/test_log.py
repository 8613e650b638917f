"""What a job tells: metrics that survive being cut short, numbers as people read them."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from fledge.core.log import Log, show


def lines(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_appended_and_finite(tmp_path: Path) -> None:
    log = Log(tmp_path, quiet=True)
    log.metrics(1, loss=2.5)
    log.metrics(2, loss=float("nan"), rate=float("inf"))
    assert lines(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None, "rate": None}]


def test_rewind_drops_what_will_be_measured_again(tmp_path: Path) -> None:
    log = Log(tmp_path, quiet=True)
    for step in (1, 2, 3, 4):
        log.metrics(step, loss=step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a process was killed here
    log.rewind(2)
    log.metrics(3, loss=30)
    assert lines(tmp_path) == [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}, {"step": 3, "loss": 30}]


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(quiet=True)
    log.metrics(1, loss=1)
    log.rewind(0)
    assert list(tmp_path.iterdir()) == []


def test_tables_and_progress_are_told(tmp_path: Path) -> None:
    out = io.StringIO()
    log = Log(console=Console(file=out, width=100))
    log.say("hello [bold]there[/]")
    log.table("animals", ["name", "legs"], [["zebra", 4], ["heron", 2]])
    with log.progress(10, "learning", done=4) as bar:
        bar.update(6, loss=2.3456789, tokens_per_second=12345.6)
    text = out.getvalue()
    assert "hello there" in text
    assert "zebra     4" in text
    assert "10/10" in text
    assert "loss 2.346  tokens per second 12,346" in text


def test_a_narrow_console_cuts_the_figures_only() -> None:
    out = io.StringIO()
    with Log(console=Console(file=out, width=80)).progress(10, "learning", done=4) as bar:
        bar.update(6, loss=2.3456789, tokens_per_second=12345.6, bits_per_byte=1.5, explained_variance=0.25)
    *_, last = out.getvalue().rstrip("\n").split("\n")
    assert len(last) <= 80
    assert "learning" in last
    assert "10/10" in last
    assert "loss 2.346" in last
    assert last.endswith("…")


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.345678, "2.346"), (1234567, "1,234,567"), (12345.678, "12,346"), (1e-5, "1e-05"), (True, "True"), ("a", "a")],
)
def test_numbers(value: object, text: str) -> None:
    assert show(value) == text
