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


def worker(names: Sequence[str], seed: int, inputs: int, seconds: float, keep: Path) -> None:
    """Runs targets, and prints of each what was found as JSON. What is being read lies in keep/current."""
    from fuzz_targets import targets

    known, limited = targets(), False
    for name in names:
        target, draw, found = known[name], random.Random(f"{name} {seed}"), {}
        counts, began = {"inputs": 0, "taken": 0, "refused": 0}, time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            while counts["inputs"] < inputs if inputs else time.monotonic() - began < seconds:
                data = one_of(target.seeds, counts["inputs"], draw)
                (keep / "current").write_bytes(data)
                taken = tried(target, data, Path(place) / "files")
                if isinstance(taken, Exception):
                    where = innermost(taken)
                    if where not in found:
                        found[where] = f"{type(taken).__name__} in {where}: {str(taken)[:150]}"
                        (keep / f"{name.replace('/', '_')}.{len(found)}").write_bytes(data)
                else:
                    counts["taken" if taken else "refused"] += 1
                counts["inputs"] += 1
                if not limited:  # all is imported now
                    limit_memory()
                    limited = True
        print(json.dumps({"name": name, **counts, "findings": list(found.values())}), flush=True)


def one_of(seeds: Sequence[bytes], number: int, draw: random.Random) -> bytes:
    """The valid files first, then hostile ones."""
    from fuzz_mutations import mutated

    return seeds[number] if number < len(seeds) else mutated(draw.choice(seeds), draw)


def tried(target: Any, data: bytes, folder: Path) -> bool | Exception:
    """What became of one input."""
    from fuzz_targets import attempt

    renew(folder, target)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return attempt(target, data, folder)
    except Exception as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


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


def run(names: list[str], options: argparse.Namespace, keep: Path) -> dict[str, dict[str, Any]]:
    """The targets, in a process of their own; one that is ended by a target goes on with the next one."""
    rows: dict[str, dict[str, Any]] = {}
    while left := [name for name in names if name not in rows]:
        command = [sys.executable, __file__, "--worker", *left, "--seed", str(options.seed), "--keep", str(keep)]
        command += ["--inputs", str(options.inputs), "--seconds", str(options.seconds)]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                found = json.loads(line)
                rows[found.pop("name")] = found
        if done.returncode:
            name = next(name for name in left if name not in rows)
            reason = DEATHS.get(done.returncode, f"it ended with {done.returncode}: {done.stderr[-300:]}")
            (keep / "current").rename(keep / f"{name.replace('/', '_')}.death")
            rows[name] = {"inputs": 0, "taken": 0, "refused": 0, "findings": [reason]}
    return {name: rows[name] for name in names}


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
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.worker and options.atheris:
        return guided(options.worker[0], options.seconds, options.keep)
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
    rows = run(names, options, options.keep)
    table = table_of(rows)
    print(table)
    for name, row in rows.items():
        for finding in row["findings"]:
            print(f"  {name}: {finding}")
    if options.write:
        write(table)
    sys.exit(any(row["findings"] for row in rows.values()))


if __name__ == "__main__":
    main()
