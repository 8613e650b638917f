"""What a job tells: lines and tables on the console, a progress bar with ETA, and `metrics.jsonl` for the report."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from fledge.core.files import disk_errors, write_json, write_text_atomic

TELL = 2.0  # seconds


class Log:
    """Console and metrics of one job. With `directory` the metrics go to `directory/metrics.jsonl`.

    `rehearsal`: the job is to be looked at and not to be done; it ends where training would begin.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        quiet: bool = False,
        console: Console | None = None,
        rehearsal: bool = False,
    ) -> None:
        self.directory = directory
        self.quiet = quiet
        self.rehearsal = rehearsal
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, text: str) -> None:
        """One line, with Rich markup; never broken, so that paths can be copied."""
        self.console.print(text, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; columns of numbers are aligned to the right."""
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=None,
            pad_edge=False,
        )
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(show(cell) for cell in row))
        self.console.print(table)

    def metrics(self, step: int, **numbers: Any) -> None:
        """Appends one line to metrics.jsonl; NaN and infinity are written as null."""
        if self.directory is None:
            return
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
        with (
            disk_errors(self.directory),
            (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps({"step": step, **clean}) + "\n")

    def rewind(self, step: int) -> None:
        """Drops the metrics after `step`: what a resumed job will measure again."""
        path = self.directory / "metrics.jsonl" if self.directory else None
        if path and path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if kept(line, step)]
            write_text_atomic(path, "".join(line + "\n" for line in lines))

    @contextmanager
    def progress(self, total: int, description: str, done: int = 0, unit: str = "") -> Iterator["Bar"]:
        """A progress bar over `total` steps of which `done` were done before."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]ETA[/]"),
            TimeRemainingColumn(),
            Figures("[dim]{task.fields[shown]}[/]", table_column=Column()),
        )
        with Progress(*columns, console=self.console, disable=self.quiet, refresh_per_second=4) as progress:
            task = progress.add_task(description, total=total, completed=done, shown="")
            yield Bar(progress, task, self.directory)


class Figures(TextColumn):
    """The figures behind a bar: on a narrow console they are cut, and nothing else is."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class Bar:
    """The handle of a running progress bar. Every TELL seconds it also writes `progress.json` for who watches."""

    def __init__(self, progress: Progress, task: Any, directory: Path | None = None) -> None:
        self.progress = progress
        self.task = task
        self.directory = directory
        self.told = 0.0

    def update(self, n: int = 1, **shown: object) -> None:
        """Moves on by `n` and shows `key value` pairs behind the bar."""
        text = "  ".join(f"{key.replace('_', ' ')} {show(value)}" for key, value in shown.items())
        if shown:
            self.progress.update(self.task, advance=n, shown=text)
        else:
            self.progress.update(self.task, advance=n)
        if self.directory and time.monotonic() - self.told > TELL:
            self.told = time.monotonic()
            task = self.progress.tasks[self.task]
            state = {
                "description": task.description,
                "done": task.completed,
                "total": task.total,
                "left": task.time_remaining,
            }
            write_json(self.directory / "progress.json", state)


def kept(line: str, step: int) -> bool:
    """Whether a metrics line belongs to `step` or before; a line cut short does not."""
    try:
        return json.loads(line)["step"] <= step
    except (json.JSONDecodeError, KeyError):
        return False


def show(value: object) -> str:
    """A number as people read it: four significant digits, thousands grouped."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
