"""`fledge check`: preflight alone. Refuses what training would refuse, and shows what training would see and cost."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.stages import STAGES


def check(
    settings: Annotated[
        list[str],
        typer.Argument(metavar="[STAGE] [CONFIG.yaml] [key=value]...", help="The stage may be the file's name."),
    ],
    rows: Annotated[int, typer.Option(min=0, help="How many of the first rows to show.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run a stage's preflight, show the first rows as the model will see them, train nothing."""
    from fledge.core.config import load_config
    from fledge.stages import load_stage
    from fledge.stages.rehearsal import rehearse

    name, file, overrides = parsed(settings)
    config = load_config(load_stage(name).config, file, overrides)
    log = Log(console=Console(stderr=as_json, highlight=False))
    missing = [f"{key}: {path}" for key, path in config if isinstance(path, Path) and not path.exists()]
    if missing:
        raise FledgeError(f"'{name}' needs what is not there: {missing[0]}", "run the step that writes it first")
    found = rehearse(name, config, log, rows)
    if found is None:
        log.say(f"[green]the settings of {name} are valid and its inputs are there[/]; it trains nothing")
        return
    if as_json:
        print(json.dumps(found.figures))
        return
    for number, row in enumerate(found.rows, 1):
        log.console.print(f"\n[bold]row {number}[/] [dim]{len(row)} tokens, supervised ones in colour[/]")
        log.console.print(row_line(row))
    tell(found.figures, log)
    if len(found.lengths):
        log.console.print(histogram(found.lengths))
    log.say("[green]ready to train[/]")


def parsed(settings: list[str]) -> tuple[str, Path | None, list[str]]:
    """Stage, config file and overrides, in whichever order they were given."""
    overrides = [text for text in settings if "=" in text]
    stages = [text for text in settings if text in STAGES]
    files = [Path(text) for text in settings if "=" not in text and text not in STAGES]
    if len(files) > 1 or len(stages) > 1:
        raise FledgeError("more than one stage or config file given", "give one of each; overrides are key=value")
    file = files[0] if files else None
    name = stages[0] if stages else file.stem if file else ""
    if name not in STAGES:
        raise FledgeError(
            f"which stage is '{name}' for?", f"write e.g. fledge check sft {file}; stages: {', '.join(STAGES)}"
        )
    return name, file, overrides


def row_line(row: list[Any]) -> Text:
    """The tokens of a row, divided by thin lines; a new document begins after a bar."""
    line, document = Text(), None
    for token in row:
        if document not in (None, token.document):
            line.append(" ┃ ", "bold magenta")
        document = token.document
        text = token.text.replace("\n", "⏎").replace("\t", "⇥")
        line.append(text, "green" if token.supervised else "dim")
        if token.target:
            line.append(f"→{token.target}", "bold yellow")
        line.append("|", "grey37")
    return line


def tell(figures: dict[str, Any], log: Log) -> None:
    """The totals."""
    table = []
    for name, part in figures["sources"].items():
        share = f"{part['supervised_share']:.1%}" if part["supervised_share"] else "–"
        table.append([name, part["examples"], part["tokens_per_epoch"], share])
    log.console.print()
    if table:
        log.table("an epoch", ["source", "examples", "tokens", "supervised"], table)
    step = figures["first_step"]
    supervised = f"{step['supervised_share']:.0%} supervised, " if step["supervised_share"] else ""
    log.say(
        f"a step: {step['rows']:,} rows, {step['tokens']:,} tokens, {supervised}{step['padding_share']:.1%} padding"
    )
    flops = "" if figures["flops"] is None else f", {figures['flops']:.2g} FLOPs"
    log.say(
        f"{figures['steps']:,} steps of {figures['parameters'] / 1e6:,.1f} M parameters{flops}: "
        f"about [bold]{escape(duration(figures['seconds']))}[/] on this machine, as it is now"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def histogram(lengths: np.ndarray) -> Text:
    """How many examples have how many tokens, in bins of powers of two."""
    picture = Text("lengths in tokens\n", "bold")
    edges = 2 ** np.arange(int(np.ceil(np.log2(max(2, lengths.max() + 1)))) + 1)
    counts = np.histogram(lengths, [0, *edges])[0]
    for low, high, count in zip([0, *edges], edges, counts, strict=False):
        if count:
            width = max(1, round(40 * count / counts.max()))
            picture.append(f"{low:>7,}–{high - 1:<7,} ", "dim").append("█" * width, "cyan").append(f" {count:,}\n")
    return picture
