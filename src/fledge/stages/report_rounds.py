"""The part of a report that tells the rounds with people: a table, how the model got better, whom one can rely on."""

from typing import Any

from fledge.stages.charts import Line
from fledge.stages.report_page import Picture, figure, picture, span
from fledge.stages.run_record import Run

FIGURES = (("truthful", "Truthful", "ppo"), ("hallucinated", "Makes things up", "base"))
COLOURS = ("sft", "ppo", "plain", "large", "base", "other")


def told(run: Run) -> dict[str, Any] | None:
    """The rounds so far, as rows and charts; None for a run that is no round."""
    step = run.first("promote")
    rounds: list[dict[str, Any]] = step.json("promotion.json").get("rounds", []) if step else []
    if not rounds:
        return None
    shown = [(key, name) for key, name, _ in FIGURES if all(key in each["figures"] for each in rounds)]
    shown += [("score", "Score")] if all("score" in each["figures"] for each in rounds) else []
    return {
        "rows": [row(each, shown) for each in rounds],
        "names": [name for _, name in shown],
        "charts": charts(rounds),
    }


def row(each: dict[str, Any], shown: list[tuple[str, str]]) -> dict[str, Any]:
    """A round as cells."""
    cells = [figure(each["figures"][key]["value"], key != "score") for key, _ in shown]
    if not each["round"]:
        return {"round": "start", "counts": None, "preferred": None, "stands": None, "cells": cells}
    preferred = each["preferred"]
    silent = [person["person"] for person in each["people"] if person["weight"] is not None and person["weight"] < 0.1]
    return {
        "round": each["round"],
        "counts": each["counts"],
        "people": len(each["people"]),
        "silent": silent,
        "preferred": figure(preferred["value"]),
        "interval": span(preferred["low"], preferred["high"], True),
        "p": f"{each['p']:.1g}",
        "candidate": each["candidate"],
        "stands": each["promoted"] is not None,
        "cells": cells,
    }


def charts(rounds: list[dict[str, Any]]) -> list[Picture]:
    """Preference to the first model, what is said, and people's weights, round by round."""
    options: dict[str, Any] = {"x_range": (0, max(len(rounds) - 1, 1)), "whole": True, "y_range": (0.0, 1.0)}
    return [
        picture(caption, lines, "rounds", y, percent=y != "weight", **options) for caption, y, lines in curves(rounds)
    ]


def curves(rounds: list[dict[str, Any]]) -> list[tuple[str, str, list[Line]]]:
    """Each chart's caption, what its y axis counts, and its lines."""
    better = [(0.0, 0.5), *((each["round"], each["against_start"]["value"]) for each in rounds[1:])]
    said = [
        Line(
            name,
            colour,
            [(each["round"], each["figures"][key]["value"]) for each in rounds if key in each["figures"]],
            True,
        )
        for key, name, colour in FIGURES
    ]
    weights: dict[str, list[tuple[float, float]]] = {}
    for each in rounds[1:]:
        for person in each["people"]:
            if person["weight"] is not None:
                weights.setdefault(person["person"], []).append((each["round"], person["weight"]))
    trust = [
        Line(name, COLOURS[i % len(COLOURS)], points, True) for i, (name, points) in enumerate(sorted(weights.items()))
    ]
    return [
        ("Preferred to the model of the start", "preferred", [Line("the model that stands", "ppo", better, True)]),
        ("What it says", "answers", [line for line in said if line.points]),
        ("The weight of each labeller", "weight", trust),
    ]
