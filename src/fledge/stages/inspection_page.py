"""The page of `fledge inspect`: one text through one model, as a self-contained HTML file that works offline.

It wears the clothes of the report. Words, tables and bars stand in the template and need no script; the script only
draws the attention maps and answers to the pointer. Text is escaped, the data is JSON that cannot end its element.
"""

import base64
import json
import math
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fledge.stages.charts import brief
from fledge.stages.report_page import count

COLOURS = ("large", "ppo", "sft", "plain", "base")  # of the parts of a model


def render_inspection(found: dict[str, Any], name: str) -> str:
    """The HTML of what `evaluate.inspection_encoders.inspect_text` found in the model called `name`."""
    assets = resources.files("fledge.stages") / "report_assets"

    def asset(file: str) -> str:
        return (assets / file).read_text(encoding="utf-8")

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"brief": brief, "count": count, "visible": visible, "place": place}
    here = found["shape"] == "encoder"
    asked = [token for token in found["tokens"] if token.get("here" if here else "next")]
    known = [token["nats"] for token in found["tokens"] if token.get("nats") is not None]
    return environment.from_string(asset("inspection.html.jinja")).render(
        found=found,
        here=here,
        source=found.get("source"),
        labels=found.get("labels"),
        shown=asked[-1]["text"] if asked else "",
        guesses=asked[-1]["here" if here else "next"] if asked else [],
        name=name,
        style=Markup(asset("report.css") + asset("inspection.css")),
        script=Markup(asset("inspection.js")),
        data=Markup(in_script(compact(found))),
        most=max([*known, 1e-9]),
        parts=parts_table(found["anatomy"]),
        bits=None if found.get("loss") is None else found["loss"] / math.log(2),
    )


def compact(found: dict[str, Any]) -> dict[str, Any]:
    """What the script needs; each head's map as base64 of bytes, 255 for probability 1."""
    maps = [layer | {"heads": [packed(head) for head in layer["heads"]]} for layer in found["attention"]]
    return {"tokens": found["tokens"], "source": found.get("source"), "attention": maps}


def packed(head: list[list[float]]) -> str:
    """A map [T][S] of probabilities as base64 of T·S bytes."""
    return base64.b64encode(bytes(round(255 * p) for row in head for p in row)).decode()


def in_script(value: Any) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def visible(text: str) -> str:
    """A token's text with its blanks made visible."""
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍") or "∅"


def place(module: str) -> str:
    """The path of a module as people count: `backbone.blocks.0.attention` is layer 1, `….cross` layer 1 across."""
    named = re.sub(r"blocks\.(\d+)", lambda match: f"layer {int(match[1]) + 1}", module.removeprefix("backbone."))
    plain = named.removesuffix(".attention").replace(".cross", " across")
    return plain.replace("_", " ").replace(".", " ") or "attention"


def parts_table(anatomy: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The rows of the parameter table: each part's share of the parameters, of those a token uses, and of the work."""
    sums = {what: sum(part[what] for part in anatomy.values()) or 1 for what in ("parameters", "active", "flops")}
    return [
        {"name": name, "colour": colour, **part, "share": part["parameters"] / sums["parameters"],
         "used": part["active"] / sums["active"], "work": part["flops"] / sums["flops"]}
        for (name, part), colour in zip(anatomy.items(), COLOURS, strict=True)
    ]  # fmt: skip
