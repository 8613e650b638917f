"""What the page of runs asks for: the runs of a folder, their steps as they go on, figures, answers, the report.

A run directory is read as the recipes write it (an `artifact.json` for what is finished, `.STEP.work` for what is in
the making, `.lock` for who makes it), and nothing is ever written. Names from outside never become paths unless a
directory listing has them.
"""

import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import HTMLResponse

from fledge.core.errors import FledgeError
from fledge.core.files import read_json

MOST_SAMPLES = 60
MOST_LINES = 20_000
VALID = 600.0  # seconds that the address of a report can be opened
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


class Reports:
    """Addresses at which reports can be opened for a while without a key: a new window sends none."""

    def __init__(self) -> None:
        self.tickets: dict[str, tuple[Path, float]] = {}

    def address(self, path: Path) -> str:
        """A new address of the report at `path`."""
        now = time.monotonic()
        self.tickets = {ticket: known for ticket, known in self.tickets.items() if known[1] > now}
        ticket = secrets.token_urlsafe(16)
        self.tickets[ticket] = (path, now + VALID)
        return f"/web/reports/{ticket}"

    def page(self, ticket: str) -> HTMLResponse:
        """The report that a ticket is for."""
        path, until = self.tickets.get(ticket, (None, 0.0))
        if path is None or until < time.monotonic():
            raise HTTPException(404, "this address is no longer valid: open the report from the page of runs")
        return HTMLResponse(path.read_text(encoding="utf-8"), headers={"Content-Security-Policy": REPORT_POLICY})


def runs_router(folder: Path, reports: Reports) -> APIRouter:
    """Routes below /app/runs for the runs in `folder` (or `folder` itself, if it is one)."""
    router = APIRouter(prefix="/app/runs", tags=["app"])

    def run_of(name: str) -> Path:
        found = {path.name: path for path in runs_in(folder)}
        if name not in found:
            raise HTTPException(404, f"there is no run '{name}' in {folder}")
        return found[name]

    def step_of(run: Path, step: str) -> Path:
        found = {path.name: path for path in finished_steps(run)}
        work = run / f".{step}.work"
        if step in names_in_the_making(run) and work.is_dir():
            return work
        if step not in found:
            raise HTTPException(404, f"the run '{run.name}' has no step '{step}'")
        return found[step]

    @router.get("")
    def runs() -> list[dict[str, Any]]:
        """The runs, the one that last changed first."""
        return sorted((overview(run) for run in runs_in(folder)), key=lambda each: -each["changed"])

    @router.get("/{name}")
    def run(name: str) -> dict[str, Any]:
        """A run with its steps in the order they were made, and what each was made from."""
        found = run_of(name)
        return overview(found) | {"steps": steps_of(found), "report": report_of(found) is not None}

    @router.get("/{name}/steps/{step}/metrics")
    def metrics(name: str, step: str, since: int = Query(0, ge=0)) -> dict[str, Any]:
        """The lines of metrics.jsonl from line `since` on; `next` is where to go on. A rewound file starts again."""
        rows, following = lines_from(step_of(run_of(name), step) / "metrics.jsonl", since)
        return {"rows": rows, "next": following}

    @router.get("/{name}/steps/{step}/samples")
    def samples(name: str, step: str) -> list[dict[str, Any]]:
        """Answers that were drawn while the step learned, the latest last."""
        return lines_from(step_of(run_of(name), step) / "samples.jsonl", 0)[0][-MOST_SAMPLES:]

    @router.post("/{name}/report")
    def report(name: str) -> dict[str, str]:
        """An address at which the report can be opened."""
        path = report_of(run_of(name))
        if path is None:
            raise HTTPException(404, f"the run '{name}' has no report yet")
        return {"address": reports.address(path)}

    return router


def runs_in(folder: Path) -> list[Path]:
    """The run directories: `folder`, if it is one, or those in it."""
    if not folder.is_dir():
        return []
    if is_run(folder):
        return [folder]
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "." and is_run(path)]


def is_run(path: Path) -> bool:
    """Whether a directory holds steps, finished or in the making."""
    return any(finished_steps(path)) or bool(names_in_the_making(path))


def finished_steps(run: Path) -> Iterator[Path]:
    """The directories of finished steps."""
    return (file.parent for file in run.glob("*/artifact.json") if file.parent.name[0] != ".")


def names_in_the_making(run: Path) -> list[str]:
    """The names of steps with unfinished work."""
    return sorted(path.name[1:].removesuffix(".work") for path in run.glob(".*.work") if path.is_dir())


def is_running(run: Path) -> bool:
    """Whether a living process holds the run: the one whose number stands in the lock, and that is as old as it."""
    lock = run / ".lock"
    try:
        process = psutil.Process(int(lock.read_text()))
        return process.create_time() <= lock.stat().st_mtime + 1 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.Error):
        return False


def overview(run: Path) -> dict[str, Any]:
    """A run in a few words."""
    done, making = [path.name for path in finished_steps(run)], names_in_the_making(run)
    places = [run, *(run / name for name in done), *(run / f".{name}.work" for name in making)]
    state = "running" if is_running(run) else "interrupted" if making else "done"
    return {
        "name": run.name,
        "path": str(run),
        "state": state,
        "done": len(done),
        "making": making[0] if making else "",
        "changed": max(newest(path) for path in places),
    }


def newest(path: Path) -> float:
    """When something in a directory last changed, in seconds since 1970."""
    times = [entry.stat().st_mtime for entry in os.scandir(path) if entry.is_file()] if path.is_dir() else []
    return max(times, default=0.0)


def steps_of(run: Path) -> list[dict[str, Any]]:
    """Every step with its figures and what it was made from, in the order they were made."""
    making = names_in_the_making(run)
    finished = list(finished_steps(run))
    finished.sort(key=lambda path: (path / "artifact.json").stat().st_mtime)
    names = {path.name for path in finished} | set(making)
    steps = [finished_step(path, run, names) for path in finished if path.name not in making]
    return [*steps, *(unfinished_step(name, run, names) for name in making)]


def finished_step(path: Path, run: Path, names: set[str]) -> dict[str, Any]:
    """What a finished step's files say."""
    artifact = read_json(path / "artifact.json")
    summary = path / "summary.json"
    config = artifact.get("config", {})
    inputs, outside = lineage(config, run, names - {path.name})
    return {
        "name": path.name,
        "stage": artifact.get("stage", path.name),
        "state": "done",
        "fingerprint": artifact.get("fingerprint", ""),
        "seconds": artifact.get("seconds", 0),
        "peak_memory": artifact.get("peak_memory", 0),
        "summary": read_json(summary) if summary.is_file() else {},
        "config": config,
        "inputs": inputs,
        "outside": outside,
        "model": (path / "config.json").is_file(),
        "metrics": (path / "metrics.jsonl").is_file(),
        "samples": (path / "samples.jsonl").is_file(),
        "files": sorted([entry.name, entry.stat().st_size] for entry in os.scandir(path) if entry.is_file()),
    }


def unfinished_step(name: str, run: Path, names: set[str]) -> dict[str, Any]:
    """What the work directory of a step says."""
    work = run / f".{name}.work"
    written = run / "configs" / f"{name}.yaml"
    config = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
    inputs, outside = lineage(config or {}, run, names - {name})
    progress = work / "progress.json"
    begun = (work / "fingerprint").stat().st_mtime if (work / "fingerprint").is_file() else newest(work)
    return {
        "name": name,
        "stage": (config or {}).get("stage", name),
        "state": "running" if is_running(run) else "interrupted",
        "fingerprint": "",
        "seconds": round(time.time() - begun, 1) if is_running(run) else spent(work),
        "peak_memory": 0,
        "summary": {},
        "config": config or {},
        "inputs": inputs,
        "outside": outside,
        "model": False,
        "metrics": (work / "metrics.jsonl").is_file(),
        "samples": (work / "samples.jsonl").is_file(),
        "files": [],
        "progress": whole_json(progress),
    }


def spent(work: Path) -> float:
    """Seconds that interrupted attempts took."""
    try:
        return float((work / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def whole_json(path: Path) -> Any:
    """A JSON file that another process writes, or None if it is not there."""
    try:
        return read_json(path) if path.is_file() else None
    except FledgeError:
        return None


def lineage(config: Any, run: Path, names: set[str]) -> tuple[list[str], list[str]]:
    """The steps of the run that a config's paths point into, and the paths outside it that exist."""
    inputs, outside = set(), set()
    for text in strings(config):
        parts = Path(text).parts
        following = [parts[i + 1] for i, part in enumerate(parts[:-1]) if part == run.name]
        if following and following[-1] in names:
            inputs.add(following[-1])
        elif len(parts) > 1 and parts[-1] != run.name and Path(text).exists():
            outside.add(text)
        elif parts and parts[-1] == run.name and Path(text).exists():
            inputs |= names
    return sorted(inputs), sorted(outside)


def strings(value: Any) -> Iterator[str]:
    """Every string in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def lines_from(path: Path, since: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a growing JSONL file from line `since` on, and the number of whole lines; a file that has
    become shorter (a resumed job measures again) is read from its beginning."""
    if not path.is_file():
        return [], 0
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1][:MOST_LINES]
    start = since if since <= len(lines) else 0
    return [row for row in map(parsed, lines[start:]) if row], len(lines)


def parsed(line: str) -> dict[str, Any] | None:
    """The object of a line, or None if it is not one."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def report_of(run: Path) -> Path | None:
    """The newest report among the finished steps."""
    found = [path / "report.html" for path in finished_steps(run) if (path / "report.html").is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
