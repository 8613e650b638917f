"""The chaos harness: breaks a small pipeline in every way it knows, and compares the end with an undisturbed run's.

    python tests/chaos/run.py                     the long form: at least 100 kills; prints the table
    python tests/chaos/run.py --quick             a few of each, for `make test`
    python tests/chaos/run.py --write             also puts the table into docs/reliability.md

A fault counts as survived if the final weights, tokenizers and samples are those of the undisturbed run bit for bit,
after nothing but the same command again, or after doing what the one line on the console said. Anything else is lost
data, and the exit code is 1.
"""

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from pipeline import Pipeline, die_at, jumping_clock, result_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
ATTEMPTS = 400  # of one run, before it counts as stuck
STOPPED, FAILED = 130, 1


@dataclass
class Row:
    """One kind of fault: how often it struck, how many runs it struck, how many ended as undisturbed ones."""

    fault: str
    struck: int = 0
    runs: int = 0
    survived: int = 0
    notes: list[str] = field(default_factory=list)


class Chaos:
    """Runs of `pipeline` under faults, each compared with `expected`."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.draw = home, random.Random(seed)
        self.pipeline = Pipeline(home)
        code, said = self.pipeline.finish(home / "undisturbed")
        if code:
            raise SystemExit(f"the undisturbed run failed ({code}):\n{said}")
        self.expected = result_of(home / "undisturbed")
        self.table: list[Row] = []

    def judge(self, row: Row, run: Path) -> None:
        """Counts a finished run."""
        row.runs += 1
        found = result_of(run)
        wrong = [name for name, mark in self.expected.items() if found.get(name) != mark]
        row.survived += not wrong
        row.notes += [f"{run.name}: {name} differs" for name in wrong[:1]]
        shutil.rmtree(run)

    def strike(self, fault: str, least: int, attempt: Callable[[Path], int | None], codes: set[int]) -> None:
        """Runs until `least` faults have struck; `attempt` gives an exit code, of which `codes` are a fault's."""
        row = Row(fault)
        self.table.append(row)
        while row.struck < least:
            run = self.home / f"run{len(self.table)}-{row.runs}"
            for _ in range(ATTEMPTS):
                code = attempt(run)
                if code == 0:
                    break
                if code not in codes:
                    row.notes.append(f"exit code {code}: {last_line(self.pipeline.said())}")
                    return
                row.struck += 1
                if row.struck >= least:
                    code, said = self.pipeline.finish(run)
                    if code:
                        row.notes.append(f"exit code {code} when let be: {last_line(said)}")
                        return
                    break
            self.judge(row, run)

    def kills(self, least: int) -> None:
        """kill -9 at random moments."""
        self.strike(
            "kill -9 at a random moment", least,
            lambda run: self.pipeline.kill_after(run, self.draw.uniform(0.2, 6.0)), {-signal.SIGKILL},
        )  # fmt: skip

    def kills_in_writes(self, least: int) -> None:
        """kill -9 at the n-th operation on a file of the run."""

        def attempt(run: Path) -> int:
            return self.pipeline.finish(run, die_at(self.draw.randint(1, 120), run))[0]

        self.strike("kill -9 at a random file operation (inside writes, before renames)", least, attempt, {-9})

    def terminations(self, least: int) -> None:
        """SIGTERM: it saves and stops by itself."""
        self.strike(
            "SIGTERM at a random moment", least,
            lambda run: self.pipeline.kill_after(run, self.draw.uniform(0.2, 6.0), signal.SIGTERM),
            {STOPPED, -signal.SIGTERM},
        )  # fmt: skip

    def clocks(self, least: int) -> None:
        """Clocks that jump by up to a day at every look."""
        row = Row("clocks that jump up to a day, both ways, at every look")
        self.table.append(row)
        for _ in range(least):
            run = self.home / f"clock{row.runs}"
            code, said = self.pipeline.finish(run, jumping_clock(self.draw.randrange(1 << 30)))
            row.struck += 1
            if code:
                row.notes.append(f"exit code {code}: {last_line(said)}")
                return
            self.judge(row, run)

    def damages(self, least: int) -> None:
        """A file of a half-done run is cut short or has a bit flipped; what the error says is then done."""
        for kind in ("truncated", "bit-flipped"):
            row = Row(f"a {kind} file of an unfinished run")
            self.table.append(row)
            while row.struck < least:
                run = self.home / f"{kind}{row.runs}"
                self.pipeline.kill_after(run, self.draw.uniform(2.0, 8.0))
                files = [file for file in sorted(run.rglob("*")) if file.is_file() and file.stat().st_size]
                if not files:
                    continue
                file = self.draw.choice(files)
                spoil(file, kind, self.draw)
                row.struck += 1
                if self.mend(run, row, file):
                    self.judge(row, run)

    def mend(self, run: Path, row: Row, file: Path) -> bool:
        """Runs the command again, and does what it says should be done, at most three times."""
        for _ in range(3):
            code, said = self.pipeline.finish(run)
            if code == 0:
                return True
            told = re.search(r"delete (?:(/\S+?)[:,]? and|it|this)", said)
            if code != FAILED or "bug in fledge" in said or not told:
                break
            place = Path(told[1]) if told[1] else file
            if not place.is_relative_to(run):
                break
            shutil.rmtree(place) if place.is_dir() else place.unlink()
            row.notes.append(f"refused: {said.split('error: ')[-1].splitlines()[0].replace(str(run), 'RUN')}")
        row.runs += 1
        row.notes.append(f"LOST after damage to {file.relative_to(run)}: {last_line(said)}")
        return False

    def disks(self) -> None:
        """A disk that is full, and one that turns read-only, in the middle; then it is mended."""
        for fault, first, then in (
            ("the disk is full", "size=900k", "remount,size=64m"),
            ("the directory turns read-only", "size=64m", "remount,rw"),
        ):
            row, place = Row(fault), self.home / "disk"
            place.mkdir(exist_ok=True)
            if subprocess.run(["mount", "-t", "tmpfs", "-o", first, "tmpfs", place], capture_output=True).returncode:
                print(f"(not tried, mounting needs root: {fault})", file=sys.stderr)
                continue
            try:
                self.table.append(row)
                run = place / "run"
                if "read-only" in fault:
                    self.pipeline.kill_after(run, 5.0)
                    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
                code, said = self.pipeline.finish(run)
                row.struck += 1
                if code != FAILED or "bug in fledge" in said or "error: " not in said:
                    row.notes.append(f"exit code {code}: {last_line(said)}")
                row.notes.append("refused: " + said.split("error: ")[-1].splitlines()[0].replace(str(run), "RUN"))
                subprocess.run(["mount", "-o", then, place], check=True)
                if self.pipeline.finish(run)[0] == 0:
                    self.judge(row, run)
                else:
                    row.runs += 1
            finally:
                subprocess.run(["umount", place], check=True)


def spoil(file: Path, kind: str, draw: random.Random) -> None:
    """Cuts a file short, or flips one of its bits."""
    content = bytearray(file.read_bytes())
    if kind == "truncated":
        del content[draw.randrange(len(content)) :]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def last_line(said: str) -> str:
    """The line that matters of what an attempt printed."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["(nothing)"])[-1]


def table_of(rows: list[Row]) -> str:
    """The table of docs/reliability.md."""
    lines = ["| fault | injected | runs | ended bit-identical | data lost |", "|---|---|---|---|---|"]
    lines += [f"| {r.fault} | {r.struck} | {r.runs} | {r.survived} | {lost(r)} |" for r in rows]
    struck, runs, survived = (sum(getattr(r, name) for r in rows) for name in ("struck", "runs", "survived"))
    return "\n".join([*lines, f"| **all** | **{struck}** | **{runs}** | **{survived}** | **{sum(map(lost, rows))}** |"])


def lost(row: Row) -> int:
    """Runs that did not end as they should."""
    return row.runs - row.survived + any(note.startswith("exit code") for note in row.notes)


def write(table: str) -> None:
    """Puts the table between its marks."""
    text = DOCUMENT.read_text()
    begin, end = "<!-- chaos -->\n", "<!-- /chaos -->"
    DOCUMENT.write_text(text[: text.index(begin) + len(begin)] + table + "\n" + text[text.index(end) :])


def main() -> None:
    """Everything, in the long or the quick form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few faults of each kind")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--only", nargs="*", default=[], help="kills kills_in_writes terminations clocks damages disks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = {"kills": (60, 2), "kills_in_writes": (60, 4), "terminations": (10, 1), "clocks": (2, 0), "damages": (8, 1)}
    with tempfile.TemporaryDirectory() as home:
        chaos = Chaos(Path(home), options.seed)
        for name, (many, few) in sizes.items():
            if (not options.only or name in options.only) and (few if options.quick else many):
                getattr(chaos, name)(few if options.quick else many)
        if (not options.only and not options.quick) or "disks" in options.only:
            chaos.disks()
    table = table_of(chaos.table)
    print(table)
    for row in chaos.table:
        for note in row.notes:
            print(f"  {row.fault}: {note}")
    if options.write:
        write(table)
    sys.exit(any(lost(row) for row in chaos.table))


if __name__ == "__main__":
    main()
