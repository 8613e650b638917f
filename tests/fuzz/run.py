"""Feeds every reader hostile files by the thousand: valid ones, mutated.

    python tests/fuzz/run.py --seconds 60           the long form, so long for each target; prints the table
    python tests/fuzz/run.py --inputs 40            so many for each target, as `make test` does
    python tests/fuzz/run.py --atheris --seconds 60 guided by coverage (pip install atheris)
    python tests/fuzz/run.py --write                also puts the table into docs/reliability.md

A target runs in a process that may take MEMORY bytes more than it began with and SECONDS of processor time for an
input; the kernel ends it otherwise. A finding is anything but an answer or a refusal in one line: it is printed, its
input is kept below --keep, and the exit code is 1.
"""

import argparse
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
DOCUMENT = HERE.parents[1] / "docs" / "reliability.md"
MEMORY = 1 << 30  # bytes
SECONDS = 20.0  # of processor time
DEATHS = {-signal.SIGPROF: f"more than {SECONDS:g} s of processor time", -signal.SIGSEGV: "a crash of the interpreter"}


def worker(name: str, seed: int, inputs: int, seconds: float, keep: Path) -> None:
    """Runs one target, and prints what was found as JSON. What it is reading lies in keep/current."""
    from fuzz_mutations import mutated
    from fuzz_targets import attempt, targets

    target, draw = targets()[name], random.Random(f"{name} {seed}")
    current, found = keep / f"{name.replace('/', '_')}.current", {}
    counts = {"inputs": 0, "taken": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as place:
        began = 0.0
        while counts["inputs"] < inputs if inputs else not began or time.monotonic() - began < seconds:
            data = (
                mutated(draw.choice(target.seeds), draw)
                if counts["inputs"] >= len(target.seeds)
                else target.seeds[counts["inputs"]]
            )
            current.write_bytes(data)
            folder = Path(place) / str(counts["inputs"] % 2)
            renew(folder, target)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                counts["taken" if attempt(target, data, folder) else "refused"] += 1
            except Exception as error:
                where = innermost(error)
                if where not in found:
                    found[where] = f"{type(error).__name__} in {where}: {str(error)[:150]}"
                    (keep / f"{name.replace('/', '_')}.{len(found)}").write_bytes(data)
            signal.setitimer(signal.ITIMER_PROF, 0)
            counts["inputs"] += 1
            if not began:  # all is imported now
                began = time.monotonic()
                limit_memory()
    print(json.dumps(counts | {"findings": list(found.values())}))


def renew(folder: Path, target: Any) -> None:
    """A folder as the target needs it, without what was left there."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "1_Pooling").mkdir()
    target.prepare(folder)


def innermost(error: Exception) -> str:
    """The last place in fledge (or the harness) that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/fledge/" in frame.filename or str(HERE) in frame.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def limit_memory() -> None:
    """From here on this process may take MEMORY more."""
    held = re.search(r"^VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert held
    most = 1024 * int(held[1]) + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(name: str, options: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """One target in processes of its own, as many as it ends."""
    total: dict[str, Any] = {"inputs": 0, "taken": 0, "refused": 0, "findings": []}
    for life in range(3):
        command = [
            sys.executable,
            __file__,
            "--worker",
            name,
            "--seed",
            str(options.seed + 1000 * life),
            "--keep",
            str(keep),
        ]
        command += ["--inputs", str(options.inputs), "--seconds", str(options.seconds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
            for key in total:
                total[key] += found[key]
            break
        current = keep / f"{name.replace('/', '_')}.current"
        if current.exists():
            current.rename(current.with_suffix(f".death{life}"))
        total["findings"].append(DEATHS.get(done.returncode, f"it ended with {done.returncode}: {done.stderr[-300:]}"))
    return total


def guided(name: str, seconds: float, keep: Path) -> None:
    """One target, guided by the coverage of fledge's own code; libFuzzer prints its figures."""
    import atheris

    with atheris.instrument_imports(include=["fledge"]):
        from fuzz_targets import attempt, targets
    from fuzz_mutations import mutated

    target = targets()[name]
    corpus = keep / f"corpus {name.replace('/', '_')}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        return mutated(data or target.seeds[0], random.Random(seed))[:size]

    place = tempfile.mkdtemp()

    def one(data: bytes) -> None:
        renew(Path(place) / "0", target)
        attempt(target, data, Path(place) / "0")

    flags = [f"-max_total_time={int(seconds)}", "-timeout=60", "-rss_limit_mb=4096", "-max_len=65536", "-verbosity=1"]
    atheris.Setup([name, *flags, f"-artifact_prefix={keep}/", str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def table_of(rows: dict[str, dict[str, Any]]) -> str:
    """The table of docs/reliability.md."""
    lines = ["| reader | inputs | read | refused in one line | findings |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['inputs']:,} | {row['taken']:,} | {row['refused']:,} | {len(row['findings'])} |")
    sums = [sum(row[key] for row in rows.values()) for key in ("inputs", "taken", "refused")]
    findings = sum(len(row["findings"]) for row in rows.values())
    return "\n".join([*lines, f"| **all** | {' | '.join(f'**{n:,}**' for n in sums)} | **{findings}** |"])


def write(table: str) -> None:
    """Puts the table between its marks."""
    text = DOCUMENT.read_text()
    begin, end = "<!-- fuzz -->\n", "<!-- /fuzz -->"
    DOCUMENT.write_text(text[: text.index(begin) + len(begin)] + table + "\n" + text[text.index(end) :])


def main(arguments: Sequence[str] | None = None) -> None:
    """Everything, or what --only names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each target")
    parser.add_argument("--inputs", type=int, default=0, help="for each target, instead of --seconds")
    parser.add_argument("--only", nargs="*", default=[], help="targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fledge-fuzz")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.worker and options.atheris:
        return guided(options.worker, options.seconds, options.keep)
    if options.worker:
        return worker(options.worker, options.seed, options.inputs, options.seconds, options.keep)
    from fuzz_targets import targets

    names = options.only or list(targets())
    if options.atheris:
        flags = ["--atheris", "--seconds", str(options.seconds), "--keep", str(options.keep)]
        ended = {
            name: subprocess.run([sys.executable, __file__, "--worker", name, *flags]).returncode for name in names
        }
        print(ended)
        sys.exit(any(ended.values()))
    rows = {}
    for name in names:
        rows[name] = run(name, options, options.keep)
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    table = table_of(rows)
    print(table)
    if options.write:
        write(table)
    sys.exit(any(row["findings"] for row in rows.values()))


if __name__ == "__main__":
    main()
