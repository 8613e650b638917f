"""`fledge feedback`: what people said, out of the store and into it; tasks for labellers; how far they agree."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape

from fledge.core.errors import FledgeError
from fledge.feedback.opening import open_store

app = typer.Typer(help="What people said of a model: export, import, tasks, agreement.", rich_markup_mode=None)
console = Console(stderr=True, highlight=False)
Where = Annotated[str, typer.Option("--store", help="The store: a file or a database URL.")]
STORE = "runs/feedback.db"


@app.command("export")
def export_(
    out: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    layout: Annotated[str, typer.Option(help="messages, rankings, pairs, prompts or chats.")] = "messages",
    store: Where = STORE,
    guideline: Annotated[str, typer.Option(help="Only judgements under this version.")] = "",
    since: Annotated[str, typer.Option(help="Not before this date, e.g. 2026-11-01.")] = "",
    until: Annotated[str, typer.Option(help="Before this date.")] = "",
    person: Annotated[list[str] | None, typer.Option(help="Only these people.")] = None,
    agreement: Annotated[float, typer.Option(help="The least agreement with others, 0 to 1.")] = 0.0,
    weight: Annotated[float, typer.Option(help="The least weight of a person's comparisons, 0 to 1.")] = 0.0,
) -> None:
    """Write what people said as training data."""
    kept = open_store(store)
    from fledge.core.files import write_jsonl
    from fledge.feedback.exporting import Filter, Layout, export

    chosen = Filter(guideline, since, until, tuple(person or ()), agreement, weight)
    rows = export(kept, cast(Layout, layout), chosen)
    write_jsonl(out, rows)
    console.print(f"wrote {len(rows):,} rows to [bold]{escape(str(out))}[/]", soft_wrap=True)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="JSONL, JSON, CSV or Parquet files.")], store: Where = STORE
) -> None:
    """Read comparisons, ratings and demonstrations that were made elsewhere."""
    kept = open_store(store)
    from fledge.data.readers import read
    from fledge.feedback.importing import import_rows

    for file in files:
        counts = import_rows(kept, read(file).rows, file.name)
        for kind, count in sorted(counts.items()):
            console.print(f"{escape(file.name)}: {count:,} × {escape(kind)}", soft_wrap=True)


@app.command()
def queue(
    file: Annotated[Path | None, typer.Argument(help="Rows with prompt, or prompt and completions.")] = None,
    chats: Annotated[bool, typer.Option("--chats", help="Prompts of rated chats, to be answered.")] = False,
    answered_by: Annotated[
        list[Path] | None, typer.Option(help="With --chats: models whose answers are to be ranked. May be repeated.")
    ] = None,
    wanted: Annotated[int, typer.Option(min=1, help="How many people judge each.")] = 1,
    overlap: Annotated[float, typer.Option(min=0, max=1, help="The share of tasks that --wanted people get.")] = 1.0,
    screening: Annotated[bool, typer.Option("--screening", help="Rows have the right ranks: a test.")] = False,
    choose: Annotated[
        list[Path] | None, typer.Option(help="A reward model: what it is least sure of comes first. May be repeated.")
    ] = None,
    answers: Annotated[
        int | None, typer.Option(min=2, max=9, help="Answers of each: 4 with --answered-by, 9 with --choose.")
    ] = None,
    most: Annotated[int, typer.Option(min=0, help="With --choose: rows of the file, 0 for all.")] = 0,
    store: Where = STORE,
) -> None:
    """Give labellers something to do; --choose alone orders the tasks that wait."""
    if file is None and not chats and not choose:
        raise FledgeError("nothing to add", "give a file, or --chats")
    if answered_by and not chats:
        raise FledgeError("--answered-by answers the prompts of chats", "give --chats too")
    kept = open_store(store)
    from fledge.data.readers import read
    from fledge.feedback.chats import add_chat_rankings, add_chats
    from fledge.feedback.importing import add_rows

    rows: Any = read(file).rows if file else []
    scorers: list[Any] = []
    if choose:
        from fledge.feedback import choice
        from fledge.generate.assistant import load

        scorers = [load(path).score for path in choose]
        rows = choice.choose(rows, scorers, answers or 9, most) if file else []
    added = add_rows(kept, rows, wanted, overlap=overlap, screening=screening)
    if answered_by:
        added += add_chat_rankings(kept, {str(path): sampler(path) for path in answered_by}, answers or 4, wanted)
    elif chats:
        added += add_chats(kept)
    ordered = f", {choice.reorder(kept, scorers):,} in the order of doubt" if choose else ""
    console.print(f"{added:,} tasks added{ordered}: [bold]fledge serve …[/], then the page Label")


def sampler(path: Path) -> Any:
    """How a model answers conversations, at temperature 1."""
    from fledge.generate.assistant import load

    model = load(path)
    return lambda prompts, seed: model.generate(prompts, seed=seed, temperature=1.0)


@app.command()
def agreement(store: Where = STORE) -> None:
    """How far people agree, how fast they are, and the weight of what they say."""
    kept = open_store(store)
    from fledge.core.log import Log
    from fledge.feedback.agreement import agreement as measured
    from fledge.feedback.weights import weights

    found = measured(kept.judgements(["ranking"]), weights(kept))
    columns = ["person", "rankings", "median seconds", "agreement", "weight"]
    rows = [
        [row["person"], row["rankings"], *(none(row[key]) for key in ("seconds", "agreement", "weight"))]
        for row in found["people"]
    ]
    Log(console=console).table("", columns, rows)
    alpha, share = none(found["alpha"]), none(found["agreement"])
    shown = [value if isinstance(value, str) else f"{value:.3f}" for value in (alpha, share)]
    told = f"Krippendorff's alpha {shown[0]}, agreement {shown[1]} on {found['pairs']:,} pairs"
    console.print(f"{told} (InstructGPT's labellers: {found['instruct_gpt']:.3f})", soft_wrap=True)


def none(value: float | None) -> float | str:
    """A dash for what was not measured."""
    return "–" if value is None else value


@app.command()
def erase(
    person: Annotated[str, typer.Argument(help="Whose judgements and chats to forget.")], store: Where = STORE
) -> None:
    """Forget a person and all they said."""
    console.print(f"{open_store(store).erase(person):,} judgements erased")
