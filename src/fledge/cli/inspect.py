"""`fledge inspect`: one text through one model in the terminal, as a page (`--html`) or as JSON (`--json`).

`--shape` needs no model: where the parameters of a shape sit, GPT-3's for example.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fledge.core.errors import FledgeError

WASHES = ("#c6dbef", "#c7e9c0", "#fdd0a2", "#dadaeb", "#fbb4c4")  # backgrounds of neighbouring tokens
SHADES = " ░▒▓█"


def inspect(
    model: Annotated[Path | None, typer.Argument(help="A model directory, or the run directory of a recipe.")] = None,
    text: Annotated[str, typer.Argument(help="What it shall read.")] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Let a user say it, through the chat template.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page that opens anywhere.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    layer: Annotated[int, typer.Option(min=1, help="With --head: draw this head's attention.")] = 1,
    head: Annotated[int, typer.Option(min=0, help="0: none.")] = 0,
    top: Annotated[int, typer.Option(min=1, max=50, help="Predictions shown for each token.")] = 5,
    shape: Annotated[str, typer.Option(help="No model: a known shape, axes as layers=12,width=768, or all.")] = "",
    seed: Annotated[int, typer.Option(help="Of the random tokens of the induction test.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Look inside a model while it reads a text: tokens, predictions, attention, logit lens, induction, parameters."""
    console = Console(highlight=False)
    if shape:
        show_shapes(shape, console)
        return
    if model is None or not text:
        raise FledgeError("a model and a text are needed", 'write fledge inspect MODEL "some text", or --shape all')
    from fledge.evaluate.inspection import inspect_ids
    from fledge.generate.assistant import load

    assistant = load(model, device=device)
    ids = assistant.encode([{"role": "user", "content": text}] if chat else text)
    if not chat and ids[0] != assistant.tokenizer.document_id:
        ids = [assistant.tokenizer.document_id, *ids]  # as every document began in training
    found = inspect_ids(assistant.model, assistant.tokenizer, ids, top=top, seed=seed)
    if html:
        from fledge.core.files import write_text_atomic
        from fledge.stages.inspection_page import render_inspection

        write_text_atomic(html, render_inspection(found, str(model)))
        console.print(f"wrote {html}", markup=False, soft_wrap=True)
    elif as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        show(found, console, layer, head)


def show(found: dict[str, Any], console: Console, layer: int, head: int) -> None:
    """Everything that fits into a terminal."""
    console.print(tokens_line(found["tokens"]))
    if found.get("loss") is not None:
        bits = found["loss"] / math.log(2)
        per_byte = f", {found['bits_per_byte']:.3f} bits per byte" if found["bits_per_byte"] else ""
        console.print(f"\n[bold]{bits:.2f} bits[/] a token, perplexity {2**bits:.1f}{per_byte}\n")
        console.print(predictions_table(found["tokens"]))
        console.print(lens_table(found, console.width))
    if head:
        console.print(map_of(found, layer, head))
    else:
        console.print(heads_table(found))
    tested = found["induction"]
    if tested:
        console.print(
            f"[dim]induction: {tested['period']} random tokens said twice; attention to what followed the same token "
            f"before (prefix matching, arXiv:2209.11895)[/]"
        )
        if "loss_first" in tested:
            console.print(f"[dim]loss the first time {tested['loss_first']:.2f}, again {tested['loss_again']:.2f}[/]")
    console.print()
    console.print(anatomy_table(found["anatomy"], "parameters and forward FLOPs a token"))


def tokens_line(tokens: list[dict[str, Any]]) -> Text:
    """The tokens in alternating colours, each with its id."""
    line = Text()
    for index, token in enumerate(tokens):
        style = f"bold #000000 on {WASHES[index % len(WASHES)]}" if not token["special"] else "bold reverse"
        line.append(visible(token["text"]), style)
        line.append(f" {token['id']} ", "dim")
    return line


def visible(text: str) -> str:
    """A token's text on one line."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍") or "∅"


def predictions_table(tokens: list[dict[str, Any]]) -> Table:
    """For each token what it cost and what was expected to follow it."""
    table = Table(title="cost of each token, and what was expected after it", **STYLE)
    table.add_column("token")
    table.add_column("bits", justify="right")
    table.add_column("then", overflow="fold")
    for token in tokens:
        bits = None if token["nats"] is None else token["nats"] / math.log(2)
        guesses = Text("  ")
        for guess in token["next"]:
            guesses.append(f"{visible(guess['text'])!s} ", "bold" if guess["p"] > 0.5 else "")
            guesses.append(f"{guess['p']:.0%}   ", "dim")
        table.add_row(
            visible(token["text"]), Text("" if bits is None else f"{bits:.1f} {bar(bits / 16, 8):8}", "red"), guesses
        )
    return table


STYLE: dict[str, Any] = {
    "title_justify": "left", "title_style": "bold", "header_style": "dim", "box": None, "pad_edge": False,
}  # fmt: skip


def bar(share: float, width: int) -> str:
    """A bar of blocks."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def lens_table(found: dict[str, Any], width: int) -> Table:
    """The logit lens: favourites of as many layers, evenly taken, as fit; green where they are what came."""
    lens, tokens = found["lens"], found["tokens"]
    fit = max(2, (width - 14) // 14)
    rows = [lens[round(i * (len(lens) - 1) / (min(fit, len(lens)) - 1))] for i in range(min(fit, len(lens)))]
    table = Table(title="logit lens: what each layer would have said next", **STYLE)
    table.add_column("after", max_width=12, no_wrap=True)
    for row in rows:
        table.add_column(f"layer {row['layer']}" if row["layer"] else "embedding", max_width=12, no_wrap=True)
    for t, token in enumerate(tokens):
        came = tokens[t + 1]["text"] if t + 1 < len(tokens) else None
        cells = [
            Text(f"{visible(cell['text'])} {cell['p']:.0%}", "green" if cell["text"] == came else "")
            for cell in (row["tokens"][t] for row in rows)
        ]
        table.add_row(visible(token["text"]), *cells)
    return table


def heads_table(found: dict[str, Any]) -> Table:
    """Each head in one line: where its attention goes on average, and its induction score."""
    table = Table(title="heads: where the attention of this text goes", **STYLE)
    for column in ("layer", "head", "itself", "one before", "first token", "induction"):
        table.add_column(column, justify="right")
    scores = found["induction"]["scores"] if found["induction"] else None
    for number, layer in enumerate(found["attention"]):
        for index, rows in enumerate(layer["heads"]):
            n = len(rows)
            itself = sum(rows[t][t] for t in range(n)) / n
            before = sum(rows[t][t - 1] for t in range(1, n)) / max(1, n - 1)
            first = sum(rows[t][0] for t in range(1, n)) / max(1, n - 1)
            score = scores[number][index] if scores else math.nan
            shown = [f"{value:.0%}" for value in (itself, before, first)]
            style = "bold yellow" if score > 0.2 else ""
            table.add_row(str(number + 1), str(index + 1), *shown, Text(f"{score:.3f}", style))
    return table


def map_of(found: dict[str, Any], layer: int, head: int) -> Text:
    """One head's attention as a picture of blocks: a row for each token that looks."""
    try:
        rows = found["attention"][layer - 1]["heads"][head - 1]
    except IndexError:
        raise FledgeError(f"there is no head {head} in layer {layer}", "see the page: --html FILE") from None
    picture = Text(f"attention of layer {layer}, head {head}: rows look at columns\n", "bold")
    for token, row in zip(found["tokens"], rows, strict=True):
        picture.append(f"{visible(token['text'])[:12]:>12} ", "dim")
        picture.append("".join(SHADES[min(4, math.ceil(4 * math.sqrt(p)) if p >= 0.02 else 0)] * 2 for p in row) + "\n")
    return picture


def anatomy_table(anatomy: dict[str, dict[str, float]], title: str) -> Table:
    """The parts, with shares as bars."""
    sums = {what: sum(part[what] for part in anatomy.values()) or 1 for what in ("parameters", "flops")}
    table = Table(title=title, **STYLE)
    table.add_column("part")
    for column in ("parameters", "FLOPs"):
        table.add_column(column, justify="right")
        table.add_column("")
    for name, part in anatomy.items():
        cells: list[Any] = [name]
        for what in ("parameters", "flops"):
            share = part[what] / sums[what]
            cells += [f"{part[what]:,.0f}", Text(f"{share:>6.1%} {bar(share, 12):12}  ", "cyan")]
        table.add_row(*cells)
    table.add_row("all", f"{sums['parameters']:,.0f}", "", f"{sums['flops']:,.0f}", "")
    return table


def show_shapes(text: str, console: Console) -> None:
    """The anatomy of one shape, or of all known ones side by side."""
    from fledge.evaluate.anatomy import PARTS, SHAPES, anatomy_of_shape, named_shape, total

    if text != "all":
        shape = named_shape(text)
        console.print(anatomy_table(anatomy_of_shape(shape), f"{text}, attention over {shape.context:,} tokens"))
        return
    table = Table(title="where the weights of known shapes sit, and the forward FLOPs of a token", **STYLE)
    table.add_column("shape", no_wrap=True)
    for column in ("layers", "width", "weights", *PARTS[:3], PARTS[4], "FLOPs"):
        table.add_column(column, justify="right")
    for name, shape in SHAPES.items():
        anatomy = anatomy_of_shape(shape)
        size = total(anatomy, "parameters")
        shares = [f"{anatomy[part]['parameters'] / size:.1%}" for part in (*PARTS[:3], PARTS[4])]
        figures = (f"{shape.layers}", f"{shape.width:,}", f"{size / 1e9:,.1f} B")
        table.add_row(name, *figures, *shares, f"{total(anatomy, 'flops') / 1e9:,.1f} G")
    console.print(table)
