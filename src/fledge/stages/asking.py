"""Asking a model: prompts in, sampled answers out, with progress. Base models are asked by few-shot prompting."""

from collections.abc import Sequence

from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.generate.engine import Completion, Engine, Request
from fledge.generate.sampling import Sampling
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer


def ask(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    max_new_tokens: int,
    seed: int,
    log: Log,
    label: str,
    start: str = "",
) -> list[Completion]:
    """One sampled answer to each conversation; `start` is put into the assistant's mouth first."""
    prefix = tokenizer.encode(start) if start else []
    ids = [render(tokenizer, prompt, add_generation_prompt=True).ids + prefix for prompt in prompts]
    return run(engine, ids, sampling, max_new_tokens, seed, log, label, stop_ids=(tokenizer.eos_id,))


def ask_base(
    engine: Engine,
    tokenizer: Tokenizer,
    shots: Sequence[tuple[str, str]],
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    max_new_tokens: int,
    seed: int,
    log: Log,
    label: str,
) -> list[Completion]:
    """One answer (a line) to each conversation by few-shot prompting (arXiv:2005.14165): `shots`, then the question."""
    shown = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in shots)
    texts = [shown + as_transcript(prompt) for prompt in prompts]
    ids = [[tokenizer.document_id, *tokenizer.encode(text)] for text in texts]
    return run(engine, ids, sampling, max_new_tokens, seed, log, label, stop=("\n",), stop_ids=(tokenizer.document_id,))


def as_transcript(prompt: Sequence[Message]) -> str:
    """A conversation as questions and answers, ready for the next answer; the system message is left out."""
    marks = {"user": "Q", "assistant": "A"}
    lines = [f"{marks[m.role]}: {m.content}" for m in prompt if m.role in marks]
    return "\n".join(lines) + "\nA:"


def run(
    engine: Engine,
    ids: Sequence[list[int]],
    sampling: Sampling,
    max_new_tokens: int,
    seed: int,
    log: Log,
    label: str,
    stop: tuple[str, ...] = (),
    stop_ids: tuple[int, ...] = (),
) -> list[Completion]:
    """Runs the requests through the engine with a progress bar; request i is seeded by (seed, i)."""
    requests = [
        Request(list(row), max_new_tokens, sampling, seed=seed * 1_000_003 + i, stop=stop, stop_ids=stop_ids)
        for i, row in enumerate(ids)
    ]
    with log.progress(len(requests), label, unit="answers") as bar:
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            bar.update(done - shown)
            shown = done

        return engine.run(requests, on_progress=progress)
