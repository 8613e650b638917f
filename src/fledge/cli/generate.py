"""`fledge generate`: prompts in (arguments, lines or JSONL), one JSON object per completion out, in the same order."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fledge.core.errors import FledgeError
from fledge.core.log import Log

if TYPE_CHECKING:
    from fledge.generate.engine import Completion


def generate(
    model: Annotated[Path, typer.Argument(help="A model directory, or the run directory of a recipe.")],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", help='Prompts: one a line, or JSONL with "prompt" or "messages". Default: stdin.'),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask plain prompts as a user instead of continuing them.")
    ] = False,
    system: Annotated[str, typer.Option(help="System message for --chat.")] = "",
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default: 256, or what fits.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="0: off.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="1: off.")] = 1.0,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="0: off.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, help="1: off.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="0: off.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="0: off.")] = 0.0,
    stop: Annotated[list[str] | None, typer.Option(help="Text to stop before; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(help="Prompt i draws with seed + i.")] = 0,
    beams: Annotated[int, typer.Option(min=0, help="Beam search with so many beams instead of drawing. 0: off.")] = 0,
    length_penalty: Annotated[float, typer.Option(help="Beams: power of the length a score is divided by.")] = 1.0,
    no_repeat_ngram: Annotated[int, typer.Option(min=0, help="Beams: no n-gram of this size twice. 0: off.")] = 0,
    judge: Annotated[
        Path | None, typer.Option(help="Beams: another model of the same vocabulary, to rank the texts with.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Prompts worked on at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Complete prompts; writes JSONL with prompt, completion, finish and tokens to stdout."""
    from fledge.generate.assistant import load

    rows = [("--prompt", text) for text in prompt] if prompt else list(read_prompts(input_))
    if not rows:
        raise FledgeError("no prompts given", "use --prompt, --input FILE or pipe lines into stdin")
    asked = [as_user(text, system) if chat and isinstance(text, str) else text for _, text in rows]
    assistant = load(model, device=device, dtype=dtype)
    if beams:
        how = {"beams": beams, "length_penalty": length_penalty, "no_repeat_ngram": no_repeat_ngram}
        other = load(judge, device=device, dtype=dtype) if judge else None
        for (_, content), found in zip(rows, assistant.nbest(asked, max_new_tokens or 64, other, **how)):
            candidates = [{"text": text, "score": score} for text, score in found]
            row = {"prompt": content, "completion": found[0][0] if found else "", "candidates": candidates}
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    requests = []
    for index, ((where, _), content) in enumerate(zip(rows, asked)):
        try:
            requests.append(
                assistant.request(
                    content,
                    index,
                    max_new_tokens=max_new_tokens,
                    seed=seed,
                    stop=stop or (),
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    min_p=min_p,
                    repetition_penalty=repetition_penalty,
                    presence_penalty=presence_penalty,
                    frequency_penalty=frequency_penalty,
                )
            )
        except FledgeError as error:
            raise FledgeError(f"{where}: {error.message}", error.remedy) from None
    engine = assistant.engine(max_batch)
    log = Log(console=Console(stderr=True, highlight=False))
    waiting: dict[int, Completion] = {}
    written = 0
    with log.progress(len(requests), "generating") as bar:
        for index, completion in engine.completions(requests):
            waiting[index] = completion
            bar.update()
            while written in waiting:
                write(rows[written][1], waiting.pop(written))
                written += 1


def write(prompt: Any, completion: "Completion") -> None:
    """One line of output."""
    row = {
        "prompt": prompt,
        "completion": completion.text,
        "finish": completion.finish,
        "tokens": len(completion.ids),
    }
    sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def as_user(text: str, system: str) -> list[dict[str, str]]:
    """A conversation that asks `text`."""
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": text}]


def read_prompts(path: Path | None) -> Iterator[tuple[str, Any]]:
    """(where, prompt) for every non-empty line of a file or of stdin: text, or JSONL if the first begins with {."""
    lines = list(read_lines(path))
    jsonl = bool(lines) and lines[0][1].lstrip().startswith("{")
    for where, line in lines:
        yield where, parse(line, where) if jsonl else line


def read_lines(path: Path | None) -> Iterator[tuple[str, str]]:
    """(where, line) for every non-empty line of a file or of stdin."""
    name = str(path) if path else "stdin"
    try:
        raw = path.read_bytes() if path else sys.stdin.buffer.read()
    except OSError as error:
        raise FledgeError(f"{name} cannot be read: {error.strerror}", "check the path") from None
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            try:
                yield f"{name}, line {number}", line.decode("utf-8")
            except UnicodeDecodeError:
                raise FledgeError(f"{name}, line {number}: not valid UTF-8", "save the file as UTF-8") from None


def parse(line: str, where: str) -> Any:
    """The prompt of a JSON line: its `prompt`, or its `messages`."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise FledgeError(f"{where}: not valid JSON ({error.msg})", "mend or remove that line") from None
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return row["prompt"]
    for key in ("messages", "prompt"):
        if isinstance(row, dict) and isinstance(row.get(key), list) and row[key]:
            return row[key]
    raise FledgeError(
        f"{where}: neither a prompt nor messages", 'write {"prompt": "…"} or {"messages": [{"role": …, "content": …}]}'
    )
