"""The page of a report: what each section needs, from a run and its figures; the words stand in the template.

All text of users and models is escaped by the template. Sections of steps that did not run are left out.
"""

import os
import re
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fledge.stages.charts import Line, brief, chart, legend
from fledge.stages.run_record import Run, Step

LABELS = {
    "base": "Base",
    "sft": "SFT",
    "ppo": "PPO",
    "ppo_without_ptx": "PPO without ptx",
    "base_large": "Large base",
    "pretrain": "Base",
}
COLOURS = {"pretrain": "base", "ppo_without_ptx": "plain", "base_large": "large"}
LONGEST = 1200  # characters of an answer or question that are shown
PARTS = ("entropy", "clip_fraction", "explained_variance", "length")


class Figure(NamedTuple):
    """How a figure is told: its name, what it means, which way is better, whether it is a share."""

    key: str
    name: str
    meaning: str
    better: str
    share: bool = True


JUDGED = (
    Figure("truthful", "Truthful", "right answers about documented names, asked in words never trained on", "higher"),
    Figure("over_declined", "Over-declined", "“I don’t know” about documented names", "lower"),
    Figure("hallucinated", "Hallucinated", "claims about names that do not exist", "lower"),
    Figure("declined", "Declined", "honest “I don’t know” about names that do not exist", "higher"),
    Figure("preferred_to_sft", "Preferred to SFT", "the labeller prefers its answer; ties count half", "higher"),
)
TAXED = (
    Figure("bits_per_byte", "Bits per byte", "what held-out text costs to predict", "lower", False),
    Figure("calibration_error", "Calibration error", "how far confidence is from being right", "lower"),
)
SPLITS = {
    "held_out_phrasing": ("Known names, new words", "It was taught these names, but never asked in this way."),
    "invented": ("Names that do not exist", "The right answer is an honest “I don’t know”."),
    "held_out_name": ("Names without a demonstration", "The text was read in pretraining; nobody showed an answer."),
}


def render_page(run: Run, result: dict[str, Any], title: str, rounds: dict[str, Any] | None = None) -> str:
    """The HTML of the page; `rounds`: what `report_rounds` has to tell."""
    assets = resources.files("fledge.stages") / "report_assets"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    told = (label_of, colour_of, duration, memory, count, figure, brief)
    environment.filters |= {function.__name__.removesuffix("_of"): function for function in told}
    template = environment.from_string((assets / "report.html.jinja").read_text(encoding="utf-8"))
    ppo = run.of_stage("ppo")
    return template.render(
        title=title or "From raw text to an assistant",
        style=Markup((assets / "report.css").read_text(encoding="utf-8")),
        run=run,
        rounds=rounds,
        path=shown_path(run),
        result=result,
        steps={step.name: step for step in run.steps},
        size=size_of(run),
        judged=table(result["models"], JUDGED),
        taxed=table(result["models"], TAXED),
        pretraining=[*losses(run.of_stage("pretrain"), "pretraining loss"), bits(run.of_stage("pretrain"))],
        tuning=losses(run.of_stage("sft"), "fine-tuning loss"),
        demonstration=demonstration(run),
        trust=reward_charts(run.of_stage("reward"), result["reward_model"]),
        pairs=[cell("", pair["pair"], pair, 1.0, True) for pair in result["reward_model"].get("by_pair", [])],
        learning=ppo_charts(ppo),
        instruments=instruments(ppo),
        diary=diary(ppo),
        tax_chart=reliability_charts(run.evaluation.get("reliability", {})),
        samples=sample_groups(run.evaluation.get("samples", [])),
        costs=costs(run),
    )


def label_of(name: str) -> str:
    """A model's name as it is read."""
    return LABELS.get(name, name.replace("_", " "))


def colour_of(name: str) -> str:
    """A model's CSS class of colour."""
    name = COLOURS.get(name, name)
    return name if name in ("base", "sft", "ppo", "plain", "large") else "other"


def shown_path(run: Run) -> str:
    """The run directory as one would type it: relative to here where that is shorter."""
    return min(str(run.directory), os.path.relpath(run.directory), key=len)


def size_of(run: Run) -> int | None:
    """Parameters of the assistant: measured by evaluate, or known from pretraining."""
    parameters = run.evaluation.get("parameters", {})
    first = run.first("pretrain")
    found: int | None = parameters.get("ppo") or (first.summary.get("parameters") if first else None)
    return found


# --- tables of figures ---


def table(models: dict[str, dict[str, Any]], figures: tuple[Figure, ...]) -> list[dict[str, Any]]:
    """Rows of figures that some model has, with a cell for each model."""
    rows = []
    for told in figures:
        found = {name: values[told.key] for name, values in models.items() if told.key in values}
        known = [value["high"] or value["value"] for value in found.values() if value["value"] is not None]
        if known:
            most = 1.0 if told.share and told.key != "calibration_error" else max(known) * 1.08 or 1.0
            cells = [cell(name, label_of(name), found.get(name), most, told.share) for name in models]
            sizes = sorted({f"{value['n']:,}" for value in found.values()})
            rows.append({"figure": told, "cells": cells, "n": " / ".join(sizes)})
    return rows


def cell(name: str, label: str, value: dict[str, Any] | None, most: float, share: bool) -> dict[str, Any]:
    """A figure as text and as a bar: percentages of the bar's width."""
    base = {"name": name, "label": label, "value": None}
    if not value or value["value"] is None:
        return base
    low, high = (value[end] if value[end] is not None else value["value"] for end in ("low", "high"))
    return base | {
        "value": figure(value["value"], share),
        "interval": None if value["low"] is None else span(low, high, share),
        "n": value["n"],
        "at": 100 * value["value"] / most,
        "left": 100 * low / most,
        "width": 100 * (high - low) / most,
    }


def span(low: float, high: float, share: bool) -> str:
    """An interval in words."""
    return f"{100 * low:.1f} – {100 * high:.1f}\xa0%" if share else f"{low:.3f} – {high:.3f}"


def figure(value: float | None, share: bool = True) -> str:
    """A share as a percentage, anything else with three decimals; what was not measured as a dash."""
    if value is None:
        return "–"
    if not share:
        return f"{value:.3f}"
    return f"{100 * value:.{0 if value in (0, 1) else 1}f}\xa0%"


# --- charts ---


class Picture(NamedTuple):
    """A chart with its caption and legend."""

    svg: Markup
    caption: str
    legend: Markup


def picture(caption: str, lines: list[Line], x: str, y: str, **options: Any) -> Picture:
    """A chart of some lines."""
    names = ", ".join(line.name for line in lines)
    if x in ("steps", "iterations"):
        last = max((point[0] for line in lines for point in line.points), default=1)
        options |= {"x_range": (0, max(last, 1)), "whole": True}
    return Picture(chart(f"{caption} ({names})", lines, x=x, y=y, **options), caption, legend(lines))


def curves(steps: list[Step], y: str, x: str = "step", marks: bool = False) -> list[Line]:
    """One line per step that has the figure y."""
    lines = [Line(label_of(s.name), colour_of(s.name), s.points(y, x), marks) for s in steps]
    return [line for line in lines if line.points]


def losses(steps: list[Step], caption: str, unit: str = "nats per token") -> list[Picture]:
    """The training loss of steps."""
    return [picture(caption.capitalize(), curves(steps, "loss"), "steps", unit)]


def bits(steps: list[Step]) -> Picture:
    """Bits per byte of held-out text as pretraining went on."""
    return picture("Held-out text", curves(steps, "bits_per_byte", marks=True), "steps", "bits per byte")


def reward_charts(steps: list[Step], measured: dict[str, Any]) -> list[Picture]:
    """The reward model's reliability curve on held-out pairs, and how it learned."""
    rows = measured.get("calibration", {}).get("bins", [])
    points = [(row["confidence"], row["accuracy"]) for row in rows]
    lines = [Line("Reward model", "other", points, True)] if points else []
    options: dict[str, Any] = {"x_range": (0.5, 1.0), "y_range": (0.0, 1.0), "percent": True, "diagonal": True}
    told = [Line("Reward model", "other", line.points) for line in curves(steps[:1], "accuracy")]
    return [
        picture("When it says how sure it is, is it right?", lines, "predicted to be preferred", "right", **options),
        *losses(steps[:1], "ranking loss", "nats per pair"),
        picture("Pairs in the right order while learning", told, "steps", "right", percent=True, y_range=(0.0, 1.0)),
    ]


def ppo_charts(steps: list[Step]) -> list[Picture]:
    """Reward and KL over iterations, and one against the other: the frontier."""
    frontier = [Line(label_of(s.name), colour_of(s.name), s.path("kl", "reward"), True) for s in steps]
    return [
        picture("Reward", curves(steps, "reward", "iteration"), "iterations", "reward (demonstrations = 0)"),
        picture("Distance from the SFT model", curves(steps, "kl", "iteration"), "iterations", "KL, nats per answer"),
        picture("What reward costs in distance", frontier, "KL, nats per answer", "reward"),
    ]


def instruments(steps: list[Step]) -> list[Picture]:
    """The rest of what one watches in PPO."""
    found = []
    for key in PARTS:
        lines = curves(steps, key, "iteration") or curves(steps, key)
        name = key.replace("_", " ").capitalize()
        found.append(picture(name, lines, "iterations" if curves(steps, key, "iteration") else "steps", name.lower()))
    return found


def reliability_charts(found: dict[str, Any]) -> Picture:
    """Reliability of next-token predictions of the small models."""
    lines = [
        Line(label_of(name), colour_of(name), [(row["confidence"], row["accuracy"]) for row in rows], True)
        for name, rows in found.items()
        if name != "base_large" and rows
    ]
    options: dict[str, Any] = {"x_range": (0.0, 1.0), "y_range": (0.0, 1.0), "percent": True, "diagonal": True}
    return picture("Confidence against accuracy of the next token", lines, "confidence", "right", **options)


# --- conversations, data, costs ---


def demonstration(run: Run) -> list[dict[str, Any]]:
    """The first demonstration the SFT model was shown, as turns."""
    source = run.first("questions") or run.first("ingest")
    rows = source.rows("demonstrations.jsonl") if source else []
    return turns(rows[0]["messages"]) if rows else []


def turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages, shortened, with roles that the page has a look for."""
    return [
        {"role": m["role"] if m["role"] in ("system", "assistant") else "user", "content": cut(m["content"])}
        for m in messages
    ]


def sample_groups(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples by what they test, in the order of SPLITS, each with up to three answers side by side."""
    groups = []
    for split in dict.fromkeys([*SPLITS, *(sample["split"] for sample in samples)]):
        here = [conversation(sample) for sample in samples if sample["split"] == split]
        if here:
            name, about = SPLITS.get(split, (split.replace("_", " "), ""))
            groups.append({"name": name, "about": about, "samples": here})
    return groups


def conversation(sample: dict[str, Any]) -> dict[str, Any]:
    """One question with the answers of base, SFT and PPO (or of the first three models there are)."""
    names = [name for name in ("base", "sft", "ppo") if name in sample["answers"]] or list(sample["answers"])[:3]
    exists = sample["truth"] is not None
    return {
        "turns": turns(sample["prompt"]),
        "truth": cut(sample["truth"]) if exists else None,
        "answers": [
            {"name": name, "text": cut(sample["answers"][name]), **badge(sample["verdicts"][name], exists)}
            for name in names
        ],
    }


def badge(verdict: str, exists: bool) -> dict[str, str]:
    """A verdict as a word and a tone: an honest decline is good only where there is nothing to know."""
    if verdict == "declined":
        return {"verdict": "declined", "tone": "fair" if exists else "good"}
    if verdict == "truthful":
        return {"verdict": "truthful", "tone": "good"}
    return {"verdict": "wrong" if exists else "made up", "tone": "bad"}


def cut(text: str) -> str:
    """A text, or its beginning."""
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def diary(steps: list[Step]) -> list[dict[str, Any]]:
    """Answers while it learned: two each from the first, a middle and the last iteration that was written down."""
    rows = steps[0].rows("samples.jsonl") if steps else []
    told = sorted({row["iteration"] for row in rows})
    chosen = dict.fromkeys(told[i] for i in (0, len(told) // 2, -1)) if told else {}
    return [
        {"iteration": row["iteration"] + 1, "reward": row["reward"], "answer": cut(row["answer"])}
        | {"question": cut(last_question(row["prompt"]))}
        for iteration in chosen
        for row in [row for row in rows if row["iteration"] == iteration][:2]
    ]


def last_question(prompt: str) -> str:
    """What the user said last in a prompt written by the chat template; the prompt itself if it is not one."""
    said = re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", prompt, re.DOTALL)
    return said[-1] if said else prompt


def costs(run: Run) -> list[dict[str, Any]]:
    """Time and memory of each step, with the lengths of their bars in percent."""
    slowest = max((step.seconds for step in run.steps), default=0) or 1
    largest = max((step.peak_memory for step in run.steps), default=0) or 1
    return [
        {"step": s, "time": 100 * s.seconds / slowest, "memory": 100 * s.peak_memory / largest, "speed": speed(s)}
        for s in run.steps
    ]


def speed(step: Step) -> float | None:
    """Tokens per second of training, where a step trained."""
    found: float | None = step.summary.get("tokens_per_second")
    return found


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: float) -> str:
    """Bytes as GiB or MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def count(value: float) -> str:
    """A count: 1,234, or 4.3 million."""
    return f"{value / 1e6:.1f} million" if value >= 1e6 else f"{value:,.0f}"
