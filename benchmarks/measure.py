"""What the benchmarks share: contenders timed in turns, ratios taken round by round, one table.

A host's speed drifts by tens of percent over minutes, so contenders run A B C, A B C … in one process, and a ratio is
the median over the rounds of their times *in the same round*. The first round warms up (compilers, caches) and is not
counted. Leaves out confidence intervals: look at the spread.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from fledge.core.device import environment

BUSY = 0.1  # cores that others may use before we warn
Contender = Callable[[], Any]


def arguments(description: str | None, rounds: int) -> tuple[bool, int]:
    """(quick, rounds) from the command line; quick is for trying the script out, not for its figures."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, two rounds: does it run at all")
    parser.add_argument("--rounds", type=int, default=None, help=f"measured rounds (default {rounds})")
    given = parser.parse_args()
    return given.quick, given.rounds or (2 if given.quick else rounds)


def interleaved(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round. One that returns a float has timed itself."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with Console(stderr=True).status("") as status:
        for number in range(rounds + 1):
            for name, run in contenders.items():
                status.update(f"round {number} of {rounds}: {name}")
                gc.collect()
                began = time.perf_counter()
                own = run()
                taken = time.perf_counter() - began
                if number:
                    seconds[name].append(own if isinstance(own, float) else taken)
    return seconds


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """How far the rounds lie apart: (largest - smallest)/median."""
    return f"{(max(values) - min(values)) / median(values):.0%}"


def speedup(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times faster ours is: the median of the rounds' ratios of seconds."""
    return median([b / a for a, b in zip(ours, theirs, strict=True)])


def fastest(seconds: Mapping[str, Sequence[float]], prefix: str) -> str:
    """The contender with the smallest median among those whose name begins with `prefix`."""
    return min((name for name in seconds if name.startswith(prefix)), key=lambda name: median(seconds[name]))


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The one table, as Markdown, under the machine it was measured on."""
    console = Console(width=160, highlight=False)
    here = environment()
    console.print(f"\n### {title}\n")
    console.print(f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads, torch {here['torch']}\n")
    table = Table(box=MARKDOWN)
    for index, column in enumerate(columns):
        numbers = all(not row[index] or row[index][0].isdigit() for row in rows)
        table.add_column(column, justify="right" if numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def warn_if_busy() -> None:
    """Says so if other processes compute here: a second OpenMP job can cut speed twentyfold."""
    used = psutil.cpu_percent(interval=1.0) / 100 * (psutil.cpu_count() or 1)
    if used > BUSY:
        Console(stderr=True).print(f"[yellow]other processes use {used:.1f} cores: do not trust these figures[/]")


def tokens_per_second(tokens: int, seconds: Sequence[float]) -> str:
    """The median speed, as people read it."""
    return f"{tokens / median(seconds):,.0f}"
