"""What `fledge inspect` prints: tokens in colour, costs and guesses, the logit lens, heads, labels, parts."""

import math
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fledge.core.errors import FledgeError

WASHES = ("#c6dbef", "#c7e9c0", "#fdd0a2", "#dadaeb", "#fbb4c4")  # backgrounds of neighbouring tokens
SHADES = " ░▒▓█"
STYLE: dict[str, Any] = {
    "title_justify": "left", "title_style": "bold", "header_style": "dim", "box": None, "pad_edge": False,
}  # fmt: skip
Aim = Callable[[int, int, int], int]  # of row t among so many rows and columns: the column that is meant
NEAR: dict[str, Aim] = {"itself": lambda t, *_: t, "one before": lambda t, *_: t - 1}
AIMS: dict[str, dict[str, Aim]] = {
    "left": NEAR | {"first token": lambda t, *_: 0 if t else -1},
    "both": NEAR | {"one after": lambda t, *_: t + 1, "first token": lambda *_: 0, "last token": lambda *a: a[2] - 1},
    "cross": {
        "same place": lambda t, rows, columns: round(t * (columns - 1) / max(1, rows - 1)),
        "first token": lambda *_: 0,
        "last token": lambda *a: a[2] - 1,
    },
}


def show(found: dict[str, Any], console: Console, layer: int, head: int, stack: str) -> None:
    """Everything that fits into a terminal."""
    if "source" in found:
        console.print(Text("reads   ", "dim") + tokens_line(found["source"]))
        console.print(Text("writes  " if found["written"] else "target  ", "dim") + tokens_line(found["tokens"]))
    else:
        console.print(tokens_line(found["tokens"]))
    if found.get("loss") is not None:
        bits = found["loss"] / math.log(2)
        per_byte = f", {found['bits_per_byte']:.3f} bits per byte" if found["bits_per_byte"] else ""
        how = ", each found from the others (arXiv:1910.14659)" if found["shape"] == "encoder" else ""
        console.print(f"\n[bold]{bits:.2f} bits[/] a token, perplexity {2**bits:.1f}{per_byte}{how}\n")
    if found["lens"]:
        console.print(predictions_table(found["tokens"], found["shape"] == "encoder"))
        console.print(lens_table(found, console.width))
    if "labels" in found:
        console.print(labels_table(found["labels"]))
    if "label" in found["tokens"][0]:
        console.print(tags_table(found["tokens"]))
    stacks = stacks_of(found["attention"])
    if head:
        console.print(map_of(found, stacks, layer, head, stack))
    else:
        for name, layers in stacks.items():
            console.print(heads_table(found, name, layers))
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


def stacks_of(attention: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The layers that attend, by stack: encoder, decoder and cross; one stack alone has no name."""
    stacks: dict[str, list[dict[str, Any]]] = {}
    for layer in attention:
        across = layer["rows"] != layer["columns"]
        stacks.setdefault("cross" if across else "encoder" if layer["rows"] == "source" else "decoder", []).append(
            layer
        )
    return stacks if len(stacks) > 1 else {"": attention}


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


def predictions_table(tokens: list[dict[str, Any]], here: bool) -> Table:
    """For each token what it cost and what was expected to follow it, or (`here`) to stand in its place."""
    after = "what could stand in its place" if here else "what was expected after it"
    table = Table(title=f"cost of each token, and {after}", **STYLE)
    table.add_column("token")
    table.add_column("bits", justify="right")
    table.add_column("here" if here else "then", overflow="fold")
    for token in tokens:
        nats = token.get("nats")
        bits = None if nats is None else nats / math.log(2)
        guesses = Text("  ")
        for guess in token.get("here" if here else "next", []):
            guesses.append(f"{visible(guess['text'])!s} ", "bold" if guess["p"] > 0.5 else "")
            guesses.append(f"{guess['p']:.0%}   ", "dim")
        table.add_row(
            visible(token["text"]), Text("" if bits is None else f"{bits:.1f} {bar(bits / 16, 8):8}", "red"), guesses
        )
    return table


def labels_table(labels: list[dict[str, Any]]) -> Table:
    """How sure a classifier is of each label."""
    table = Table(title="labels of the text", **STYLE)
    for label in sorted(labels, key=lambda label: -label["p"]):
        table.add_row(label["text"], f"{label['p']:.1%}", Text(bar(label["p"], 24), "cyan"))
    return table


def tags_table(tokens: list[dict[str, Any]]) -> Table:
    """What a tagger calls each token."""
    table = Table(title="labels of the tokens", **STYLE)
    for token in tokens:
        table.add_row(visible(token["text"]), token["label"], Text(f"{token['p']:.0%}", "dim"))
    return table


def bar(share: float, width: int) -> str:
    """A bar of blocks."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def lens_table(found: dict[str, Any], width: int) -> Table:
    """The logit lens: favourites of as many layers, evenly taken, as fit; green where they are the token itself."""
    lens, tokens, here = found["lens"], found["tokens"], found["shape"] == "encoder"
    fit = max(2, (width - 14) // 14)
    rows = [lens[round(i * (len(lens) - 1) / (min(fit, len(lens)) - 1))] for i in range(min(fit, len(lens)))]
    said = "put in each place" if here else "said next"
    table = Table(title=f"logit lens: what each layer would have {said}", **STYLE)
    table.add_column("for" if here else "after", max_width=12, no_wrap=True)
    for row in rows:
        table.add_column(f"layer {row['layer']}" if row["layer"] else "embedding", max_width=12, no_wrap=True)
    for t, token in enumerate(tokens):
        came = tokens[t]["text"] if here else tokens[t + 1]["text"] if t + 1 < len(tokens) else None
        cells = [
            Text(
                f"{visible(cell['text'])} {cell['p']:.0%}" if cell["p"] else "", "green" if cell["text"] == came else ""
            )
            for cell in (row["tokens"][t] for row in rows)
        ]
        table.add_row(visible(token["text"]), *cells)
    return table


def heads_table(found: dict[str, Any], name: str, layers: list[dict[str, Any]]) -> Table:
    """Each head of a stack in one line: where its attention goes on average, how spread it is, its induction score."""
    title = {"": "heads", "cross": "cross-attention: where the target looks in the source"}.get(name, f"{name}'s heads")
    table = Table(title=title if name == "cross" else f"{title}: where the attention of this text goes", **STYLE)
    scores = found["induction"]["scores"] if found["induction"] else None
    aims = AIMS["cross" if name == "cross" else "both" if found["shape"] == "encoder" or name == "encoder" else "left"]
    for column in ("layer", "head", *aims, "spread", *(["induction"] if scores else [])):
        table.add_column(column, justify="right")
    for number, layer in enumerate(layers):
        for index, rows in enumerate(layer["heads"]):
            shown = [f"{mean_at(rows, aim):.0%}" for aim in aims.values()]
            spread = sum(-p * math.log2(p) for row in rows for p in row if p > 0) / len(rows)
            cells = [Text(f"{spread:.1f} bits")]
            if scores:
                score = scores[number][index]
                cells.append(Text(f"{score:.3f}", "bold yellow" if score > 0.2 else ""))
            table.add_row(str(number + 1), str(index + 1), *shown, *cells)
    return table


def mean_at(rows: list[list[float]], aim: Aim) -> float:
    """The mean attention to what each row aims at: aim(t, rows, columns) is a column; rows whose aim lies outside do
    not count."""
    aims = [(row, aim(t, len(rows), len(row))) for t, row in enumerate(rows)]
    found = [row[s] for row, s in aims if 0 <= s < len(row)]
    return sum(found) / max(1, len(found))


def map_of(found: dict[str, Any], stacks: dict[str, list[dict[str, Any]]], layer: int, head: int, stack: str) -> Text:
    """One head's attention as a picture of blocks: a row for each token that looks."""
    name = stack or next(iter(stacks))
    if name not in stacks:
        raise FledgeError(f"this model has no stack '{name}'", f"stacks: {', '.join(stacks) or 'one, without a name'}")
    try:
        chosen = stacks[name][layer - 1]
        rows = chosen["heads"][head - 1]
    except IndexError:
        raise FledgeError(f"there is no head {head} in layer {layer}", "see the page: --html FILE") from None
    of = f"{name} " if name else ""
    picture = Text(f"attention of {of}layer {layer}, head {head}: rows look at columns\n", "bold")
    for token, row in zip(found[chosen["rows"]], rows, strict=True):
        picture.append(f"{visible(token['text'])[:12]:>12} ", "dim")
        picture.append("".join(SHADES[min(4, math.ceil(4 * math.sqrt(p)) if p >= 0.02 else 0)] * 2 for p in row) + "\n")
    return picture


def anatomy_table(anatomy: dict[str, dict[str, float]], title: str) -> Table:
    """The parts, with shares as bars; of a mixture of experts also what one token goes through."""
    sums = {what: sum(part[what] for part in anatomy.values()) or 1 for what in ("parameters", "active", "flops")}
    names = {"parameters": "parameters", "active": "active", "flops": "FLOPs"}
    if sums["active"] == sums["parameters"]:
        names.pop("active")
    table = Table(title=title, **STYLE)
    table.add_column("part")
    for column in names.values():
        table.add_column(column, justify="right")
        table.add_column("")
    for name, part in anatomy.items():
        cells: list[Any] = [name]
        for what in names:
            share = part[what] / sums[what]
            cells += [f"{part[what]:,.0f}", Text(f"{share:>6.1%} {bar(share, 12):12}  ", "cyan")]
        table.add_row(*cells)
    table.add_row("all", *(cell for what in names for cell in (f"{sums[what]:,.0f}", "")))
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
    for column in ("layers", "width", "weights", "active", *PARTS[:3], PARTS[4], "FLOPs"):
        table.add_column(column, justify="right")
    for name, shape in SHAPES.items():
        anatomy = anatomy_of_shape(shape)
        size = total(anatomy, "parameters")
        shares = [f"{anatomy[part]['parameters'] / size:.1%}" for part in (*PARTS[:3], PARTS[4])]
        active = f"{total(anatomy, 'active') / 1e9:,.1f} B"
        figures = (f"{shape.layers}", f"{shape.width:,}", f"{size / 1e9:,.1f} B", active)
        table.add_row(name, *figures, *shares, f"{total(anatomy, 'flops') / 1e9:,.1f} G")
    console.print(table)
