"""`fledge objectives "some text"`: one text corrupted by every objective of `fledge pretrain`, side by side in colour.

Without a tokenizer each word is one token. Token stands above token: what is read, and below it what is to be said
there. docs/objectives.md is made of the same lines.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from fledge.core.errors import FledgeError

if TYPE_CHECKING:
    from fledge.cli.objective_views import Cell, View

SENTENCE = "I am happy to join with you today"
SHARE, SPAN, SEED = 0.35, 2.0, 8  # a short text shows little at 15 %, and this seed shows most
COLOURS = {"decoder": "#2a9d8f", "encoder": "#e9a23b", "encoder_decoder": "#7a6ff0"}
SENTINELS = ("#f4a261", "#8ecae6", "#b5e48c", "#ffafcc", "#cdb4db", "#ffe066")
STYLES = {
    **{
        "plain": "",
        "special": "dim",
        "nothing": "dim",
        "number": "dim",
        "said": "bold #57cc99",
        "label": "bold #57cc99",
    },
    **{"mask": "bold #1b1b1b on #ffd166", "random": "bold #ffffff on #c8553d", "kept": "underline #ffd166"},
    **{"prefix": "#8ecae6"},
    **{f"sentinel{n}": f"bold #1b1b1b on {colour}" for n, colour in enumerate(SENTINELS)},
}


def objectives(
    text: Annotated[str, typer.Argument(help="What to corrupt.")] = SENTENCE,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer's directory; default: a token a word.")] = None,
    objective: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
    translation: Annotated[str, typer.Option(help="The text in another language, for tlm.")] = "",
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="How much is hidden.")] = SHARE,
    mean_span: Annotated[float, typer.Option(min=0.1, help="The mean length of hidden spans.")] = SPAN,
    seed: Annotated[int, typer.Option(min=0, help="Another one corrupts in another way.")] = SEED,
    svg: Annotated[Path | None, typer.Option(help="Write a picture instead.")] = None,
) -> None:
    """Show a text corrupted by every objective of pretraining: what the model reads, and what it must say."""
    if not text.strip():
        raise FledgeError("there is no text to corrupt", 'write fledge objectives "some text"')
    console = Console(record=True, width=100, file=io.StringIO()) if svg else Console(highlight=False)
    from fledge.cli.objective_views import views

    shown = list(views(text, tokenizer, objective or [], translation, share, mean_span, seed))
    for shape, colour in COLOURS.items():
        group = [view for view in shown if view.shape == shape]
        if group:
            console.print(panel(shape, colour, group, console.width - 6))
    if svg:
        from fledge.core.files import write_text_atomic

        picture = console.export_svg(title=f"fledge objectives {text!r}")
        write_text_atomic(svg, re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))  # fonts from elsewhere
        print(f"wrote {svg}")


def panel(shape: str, colour: str, group: "Sequence[View]", width: int) -> Panel:
    """The views of one shape in a frame."""
    parts: list[Text | Padding] = []
    for view in group:
        title = Text.assemble((view.name, f"bold {colour}"), "  ", (view.about, "italic dim"))
        parts += [title, Padding(Group(*lines(view, width)), (0, 0, 1, 0))]
    last = parts.pop()
    assert isinstance(last, Padding)
    frame = f"[bold {colour}] {shape.replace('_', ' + ')} [/]"
    return Panel(Group(*parts, last.renderable), title=frame, title_align="left", border_style=colour, padding=(1, 2))


def lines(view: "View", width: int) -> list[Text]:
    """The strands of a view as lines of at most `width` columns (a wider cell gets a line of its own)."""
    margin = max(len(label) for label, _ in view.strands) + 2
    together = [strand for strand in view.strands if view.aligned and len(strand[1]) == len(view.strands[0][1])]
    groups = [together] if together else []
    groups += [[strand] for strand in view.strands if strand not in together]
    return [line for group in groups for line in laid(group, margin, width)]


def laid(strands: "list[tuple[str, list[Cell]]]", margin: int, width: int) -> list[Text]:
    """Strands of equally many cells, cell under cell, wrapped together."""
    widths = [max(len(cells[n][0]) for _, cells in strands) for n in range(len(strands[0][1]))]
    found: list[Text] = []
    start = 0
    while start < len(widths):
        end, used = start + 1, margin + widths[start]
        while end < len(widths) and used + 1 + widths[end] <= width:
            used += 1 + widths[end]
            end += 1
        for label, cells in strands:
            line = Text(no_wrap=True).append((label if start == 0 else "").ljust(margin), "dim")
            for n in range(start, end):
                text, kind = cells[n]
                line.append(text, STYLES[kind])
                line.append(" " * (widths[n] - len(text) + (n + 1 < end)))
            found.append(line)
        start = end
    return found
