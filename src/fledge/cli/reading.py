"""`fledge embed` and `fledge fill`: texts in (arguments, lines or JSONL), vectors or hidden words out, in order."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fledge.cli.generate import read_lines
from fledge.core.errors import FledgeError
from fledge.core.log import Log

if TYPE_CHECKING:
    import numpy as np

Model = Annotated[Path, typer.Argument(help="A model directory, of fledge or Hugging Face.")]
Texts = Annotated[list[str] | None, typer.Option("--text", help="A text; may be given several times.")]
Input = Annotated[Path | None, typer.Option("--input", help='Texts: one a line, or JSONL with "text". Default: stdin.')]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
FORMATS = (".jsonl", ".npy", ".parquet")


def embed(
    model: Model,
    text: Texts = None,
    input_: Input = None,
    out: Annotated[
        Path | None, typer.Option(help="A file that ends in .jsonl, .npy or .parquet. Default: JSONL to stdout.")
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="mean, first (cls) or last; by default as the model's directory says, else mean.")
    ] = "",
    normalise: Annotated[bool, typer.Option("--normalise/--raw", help="Whether vectors have the length 1.")] = True,
    device: Device = "auto",
) -> None:
    """Turn texts into vectors that are near where the texts are alike."""
    from fledge.generate.assistant import load

    if out is not None and out.suffix not in FORMATS:
        raise FledgeError(f"{out} has no known format", f"end its name in {', '.join(FORMATS)}")
    rows = given(text, input_)
    assistant = load(model, device=device)
    texts = [str(row["text"]) for row in rows]
    size = assistant.config.context
    long = sum(len(ids) > size for ids in assistant.tokenizer.encode_batch(texts))
    if long:
        log = Log(console=Console(stderr=True, highlight=False))
        log.say(f"[yellow]{long:,} texts are longer than the context of {size} tokens: their ends are not read[/]")
    write(rows, assistant.embed(texts, pooling=pooling or None, normalise=normalise), out)


def write(rows: list[dict[str, Any]], vectors: "np.ndarray", out: Path | None) -> None:
    """Rows with their vectors, in the format that the name of `out` says."""
    import numpy as np

    from fledge.core.files import disk_errors, write_jsonl

    joined = [row | {"embedding": vector} for row, vector in zip(rows, vectors.tolist(), strict=True)]
    if out is None:
        for row in joined:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    if out.suffix == ".jsonl":
        write_jsonl(out, joined)
        return
    with disk_errors(out):
        if out.suffix == ".npy":
            np.save(out, vectors)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(joined), out)


def fill(
    model: Model,
    text: Texts = None,
    input_: Input = None,
    top: Annotated[int, typer.Option(min=1, help="Candidates of each hidden place.")] = 5,
    device: Device = "auto",
) -> None:
    """Find the tokens that belong where texts say [MASK]; writes JSONL with text, filled and candidates."""
    from fledge.generate.assistant import load

    rows = given(text, input_)
    for row, found in zip(rows, load(model, device=device).fill([str(row["text"]) for row in rows], top)):
        candidates = [[{"token": token, "probability": chance} for token, chance in place] for place in found.places]
        sys.stdout.write(json.dumps(row | {"filled": found.text, "candidates": candidates}, ensure_ascii=False) + "\n")


def given(texts: list[str] | None, path: Path | None) -> list[dict[str, Any]]:
    """The rows asked about: of --text, or of lines that are texts or JSON objects with `text`."""
    if texts:
        return [{"text": text} for text in texts]
    rows: list[dict[str, Any]] = []
    lines = list(read_lines(path))
    jsonl = bool(lines) and lines[0][1].lstrip().startswith("{")
    for where, line in lines:
        if not jsonl:
            rows.append({"text": line})
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise FledgeError(f"{where}: not valid JSON ({error.msg})", "mend or remove that line") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise FledgeError(f'{where}: no "text"', 'write {"text": "…"}')
        rows.append(row)
    if not rows:
        raise FledgeError("no texts given", "use --text, --input FILE or pipe lines into stdin")
    return rows
