"""`fledge inspect`: one text through one model in the terminal, as a page (`--html`) or as JSON (`--json`).

A decoder reads it, an encoder is asked for each of its tokens in turn, an encoder-decoder reads it and writes.
`--shape` needs no model: where the parameters of a shape sit, GPT-3's for example. The tables: `inspect_views`.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fledge.core.errors import FledgeError


def inspect(
    model: Annotated[Path | None, typer.Argument(help="A model directory, or the run directory of a recipe.")] = None,
    text: Annotated[str, typer.Argument(help="What it shall read.")] = "",
    target: Annotated[
        str, typer.Option(help="What an encoder-decoder is to have written. Default: what it would.")
    ] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Let a user say it, through the chat template.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page that opens anywhere.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    layer: Annotated[int, typer.Option(min=1, help="With --head: draw this head's attention.")] = 1,
    head: Annotated[int, typer.Option(min=0, help="0: none.")] = 0,
    stack: Annotated[str, typer.Option(help="With --head: decoder, encoder or cross. Default: the first.")] = "",
    top: Annotated[int, typer.Option(min=1, max=50, help="Predictions shown for each token.")] = 5,
    shape: Annotated[str, typer.Option(help="No model: a known shape, axes as layers=12,width=768, or all.")] = "",
    seed: Annotated[int, typer.Option(help="Of the random tokens of the induction test.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Look inside a model while it reads a text: tokens, predictions, attention, logit lens, induction, parameters."""
    from fledge.cli.inspect_views import show, show_shapes

    console = Console(highlight=False)
    if shape:
        show_shapes(shape, console)
        return
    if model is None or not text:
        raise FledgeError("a model and a text are needed", 'write fledge inspect MODEL "some text", or --shape all')
    from fledge.checkpoint.directory import read_config
    from fledge.evaluate.inspection import inspect_ids
    from fledge.evaluate.inspection_encoders import inspect_text
    from fledge.generate.assistant import find_model, load
    from fledge.model.lstm import LstmModel

    assistant = load(model, device=device)
    inside, tokenizer = assistant.model, assistant.tokenizer
    if chat:
        if getattr(inside.config, "shape", "") != "decoder":
            raise FledgeError("only a decoder is talked to", "leave --chat out")
        ids = assistant.encode([{"role": "user", "content": text}])
        found = inspect_ids(inside, tokenizer, ids, top=top, seed=seed)
    else:
        lstm = isinstance(inside, LstmModel)
        names = {} if lstm else read_config(find_model(model))[1].get("id2label") or {}
        labels = [str(names[number]) for number in sorted(names, key=int)]
        found = inspect_text(inside, tokenizer, text, target=target, top=top, seed=seed, labels=labels)
    if html:
        from fledge.core.files import write_text_atomic
        from fledge.stages.inspection_page import render_inspection

        write_text_atomic(html, render_inspection(found, str(model)))
        console.print(f"wrote {html}", markup=False, soft_wrap=True)
    elif as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        show(found, console, layer, head, stack)
