"""What a run directory tells: its finished steps in the order of life, with their metrics and figures.

Nothing is required to be there: a step that is missing, or has not finished, is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fledge.core.errors import FledgeError
from fledge.core.files import read_json, read_jsonl
from fledge.stages import STAGES

KEYS = {"step": str, "stage": str, "seconds": int | float, "peak_memory": int, "config": dict, "environment": dict}


@dataclass(frozen=True)
class Step:
    """A finished step: what `artifact.json` and `summary.json` say of it, and the lines of `metrics.jsonl`."""

    name: str
    stage: str
    seconds: float
    peak_memory: int
    config: dict[str, Any]
    environment: dict[str, str]
    summary: dict[str, Any]
    metrics: Sequence[dict[str, Any]]
    directory: Path

    def points(self, y: str, x: str = "step") -> list[tuple[float, float]]:
        """(x, y) of each line that has both, in order of x; of lines written twice (a resumed run) the later."""
        found = {row[x]: row[y] for row in self.metrics if number(row.get(x)) and number(row.get(y))}
        return sorted(found.items())

    def path(self, x: str, y: str, most: int = 12) -> list[tuple[float, float]]:
        """(x, y) of the iterations that have both, in order of time: means of neighbours, `most` at the most."""
        known = [row for row in self.metrics if "iteration" in row and number(row.get(x)) and number(row.get(y))]
        rows = {row["iteration"]: (row[x], row[y]) for row in known}
        parts = np.array_split([rows[i] for i in sorted(rows)], min(most, len(rows))) if rows else []
        return [(float(a), float(b)) for a, b in (part.mean(0) for part in parts)]

    def json(self, name: str) -> Any:
        """A JSON file of the step; {} where there is none."""
        path = self.directory / name
        return read_json(path) if path.is_file() else {}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSONL file of the step; none where there is none."""
        path = self.directory / name
        return read_jsonl(path) if path.is_file() else []


@dataclass(frozen=True)
class Run:
    """The steps of a run, and what the step `evaluate` found ({} without it)."""

    directory: Path
    steps: Sequence[Step]
    evaluation: dict[str, Any]

    def of_stage(self, stage: str) -> list[Step]:
        """The steps of one stage, the one that bears its name first."""
        return [step for step in self.steps if step.stage == stage]

    def first(self, stage: str) -> Step | None:
        """The main step of a stage."""
        return next(iter(self.of_stage(stage)), None)


def read_run(directory: Path, evaluation: Path | None = None) -> Run:
    """Reads the finished steps of a run; `evaluation` is the evaluate step's directory, if it lies elsewhere.

    A broken file raises FledgeError.
    """
    inside = [path.parent for path in directory.glob("*/artifact.json") if not path.parent.name.startswith(".")]
    steps = [read_step(path) for path in sorted(inside)]
    places = {stage: place for place, stage in enumerate(STAGES)}
    steps.sort(key=lambda step: (places.get(step.stage, -1), step.name != step.stage, step.name))
    steps = [step for step in steps if step.stage != "report"]
    found = evaluation or next((step.directory for step in steps if step.stage == "evaluate"), None)
    path = found / "evaluation.json" if found else None
    return Run(directory, steps, read_json(path) if path and path.is_file() else {})


def read_step(directory: Path) -> Step:
    """Reads one finished step."""
    artifact = read_json(directory / "artifact.json")
    summary, metrics = directory / "summary.json", directory / "metrics.jsonl"
    said = artifact if isinstance(artifact, dict) else {}
    missing = [key for key, kind in KEYS.items() if not isinstance(said.get(key), kind)]
    if missing:
        raise FledgeError(
            f"{directory / 'artifact.json'} has no usable '{missing[0]}'", "the file is damaged: run the step again"
        )
    return Step(
        name=artifact["step"],
        stage=artifact["stage"],
        seconds=artifact["seconds"],
        peak_memory=artifact["peak_memory"],
        config=artifact["config"],
        environment=artifact["environment"],
        summary=read_json(summary) if summary.is_file() else {},
        metrics=read_jsonl(metrics) if metrics.is_file() else [],
        directory=directory,
    )


def number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
