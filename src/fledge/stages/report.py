"""The whole run as one page that people enjoy reading, and the same figures as JSON.

`report.html` is self-contained: no network, no fonts, no scripts. `report.json` holds for each model the figures the
run is judged by, each with its interval and n. What the field found at scale (arXiv:2203.02155) is put beside what this
run found, with the word for how sure one can be. Steps that did not run are left out of both.
"""

from pathlib import Path
from typing import Any

from fledge.core.config import Config
from fledge.core.files import write_json, write_text_atomic
from fledge.core.log import Log
from fledge.stages.report_page import render_page
from fledge.stages.report_rounds import told
from fledge.stages.run_record import Run, number, read_run

FIGURES = (
    "truthful",
    "over_declined",
    "hallucinated",
    "declined",
    "preferred_to_sft",
    "bits_per_byte",
    "calibration_error",
)
ORDER = ("base", "sft", "ppo", "ppo_without_ptx", "base_large")

Figure = dict[str, Any]


class ReportConfig(Config):
    """`run` is a run directory; `evaluation` the evaluate step's, if it is not among the run's steps."""

    run: Path
    evaluation: Path | None = None
    title: str = ""


def report(config: ReportConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes report.html and report.json."""
    run = read_run(config.run, config.evaluation)
    result = gather(run)
    page = render_page(run, result, config.title, told(run))
    write_json(out / "report.json", result)
    write_text_atomic(out / "report.html", page)
    for claim in result["expected"]:
        log.say(f"{claim['claim']}: [bold]{claim['outcome']}[/]")
    return {"steps": len(run.steps), "bytes": len(page.encode()), "expected": result["expected"]}


def gather(run: Run) -> dict[str, Any]:
    """Everything of report.json."""
    found = run.evaluation.get("models", {})
    names = [*(name for name in ORDER if name in found), *(name for name in found if name not in ORDER)]
    models = {name: {key: plain(found[name][key]) for key in FIGURES if key in found[name]} for name in names}
    larger = run.evaluation.get("preferred_to_base_large")
    reward = run.first("reward")
    measured = reward.json("reward.json") if reward else {}
    promoted = run.first("promote")
    return {
        "run": str(run.directory),
        "models": models,
        "preferred_to_base_large": plain(larger) if larger else None,
        "parameters": run.evaluation.get("parameters", {}),
        "expected": expectations(models, plain(larger) if larger else None),
        "rounds": plain(promoted.json("promotion.json").get("rounds", [])) if promoted else [],
        "reward_model": {
            key: plain(measured[key]) for key in ("accuracy", "by_pair", "calibration") if key in measured
        },
        "steps": {
            step.name: {"stage": step.stage, "seconds": step.seconds, "peak_memory": step.peak_memory}
            for step in run.steps
        },
        "seconds": round(sum(step.seconds for step in run.steps), 2),
        "peak_memory": max((step.peak_memory for step in run.steps), default=0),
        "environment": environment(run),
        "seeds": {step.name: step.config["seed"] for step in run.steps if "seed" in step.config},
    }


def plain(value: Any) -> Any:
    """The same with null where a number is not finite, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not number(value) else value


def environment(run: Run) -> dict[str, str]:
    """Where the run was made; where steps differ (resumed elsewhere), every value."""
    found: dict[str, list[str]] = {}
    for step in run.steps:
        for key, value in step.environment.items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return {key: " · ".join(values) for key, values in found.items()}


def expectations(models: dict[str, dict[str, Figure]], larger: Figure | None) -> list[dict[str, str]]:
    """What is expected of such a run, and what came out; only where everything that it needs was measured."""

    def of(name: str, figure: str) -> Figure | None:
        found = models.get(name, {}).get(figure)
        return found if found and found["value"] is not None else None

    half: Figure = {"value": 0.5, "low": 0.5, "high": 0.5}
    claims = [
        ("truthful: base below SFT", of("base", "truthful"), of("sft", "truthful")),
        ("truthful: SFT below PPO", of("sft", "truthful"), of("ppo", "truthful")),
        ("preferred: base below SFT", of("base", "preferred_to_sft"), half),
        ("preferred: SFT below PPO", half, of("ppo", "preferred_to_sft")),
        (
            "invented answers: PPO at most a third of SFT",
            of("ppo", "hallucinated"),
            third(of("sft", "hallucinated")),
        ),
        ("the small aligned model preferred to the larger base model", half, larger),
    ]
    return [
        {"claim": claim, "outcome": outcome(lower, higher, "at most" in claim)}
        for claim, lower, higher in claims
        if lower and higher
    ]


def third(figure: Figure | None) -> Figure | None:
    """A third of a figure."""
    return {key: figure[key] and figure[key] / 3 for key in ("value", "low", "high")} if figure else None


def outcome(lower: Figure, higher: Figure, or_equal: bool = False) -> str:
    """Whether `lower` is below `higher`: "held" or "missed", and "within the uncertainty" if their intervals meet."""
    a, b = lower["value"], higher["value"]
    verdict = "held" if a < b or (or_equal and a == b) else "missed"
    below, above = (lower, higher) if verdict == "held" else (higher, lower)
    if below["high"] is not None and above["low"] is not None and below["high"] < above["low"]:
        return verdict
    return f"{verdict}, within the uncertainty"
