"""Serving speed: fledge's live engine against `transformers`, on the same weights.

Streams of one prompt length and one answer length, greedy, started at once: tokens a second over all of them, and the
seconds to the first token. Prefixes are not shared here. The last tables say what a token costs on its way through
HTTP, and what 8 bits cost in perplexity on real text (the topics of Python's own help, through a model you name).
llama.cpp takes part where `gguf` and `llama-cpp-python` are installed (see `llamacpp.py`).

  python benchmarks/bench_serve.py [--quick] [--model DIRECTORY] [--text FILE] [--only throughput|overhead|perplexity]
"""

import argparse
import math
import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from pydoc_data import topics
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import torch
import uvicorn
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import fledge
import llamacpp
from bench_decode import SMOL, same_in_transformers
from fledge.checkpoint.directory import save_model
from fledge.generate.live import LiveEngine
from fledge.generate.packed import packed
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig
from fledge.serve.start import listen
from fledge.text.tokenizer import Tokenizer
from measure import warn_if_busy

GREEDY = Sampling(temperature=0)
Measured = tuple[float, float]  # tokens a second, seconds to the first token (median)


def prompts(streams: int, size: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Different random prompts."""
    draw = random.Random(seed)
    return [[draw.randrange(4, vocabulary) for _ in range(size)] for _ in range(streams)]


def live(engine: LiveEngine, asked: list[list[int]], new: int) -> Measured:
    """All prompts at once through a live engine."""
    began = time.perf_counter()
    for ids in asked:
        engine.submit(Request(ids, new, GREEDY))
    first: dict[int, float] = {}
    while engine.busy:
        for update in engine.step():
            first.setdefault(update.ticket, time.perf_counter() - began)
    return len(asked) * new / (time.perf_counter() - began), statistics.median(first.values())


def theirs(model: Any, asked: list[list[int]], new: int) -> Measured:
    """The same as one batch of `generate`; a first run of one token is the time to it."""
    ids = torch.tensor(asked)
    seconds = []
    for count in (1, new):
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False,
                pad_token_id=0,
            )  # fmt: skip
        seconds.append(time.perf_counter() - began)
    return len(asked) * new / seconds[1], seconds[0]


def throughput(config: ModelConfig, streams: list[int], size: int, new: int, rounds: int) -> Table:
    """The table of one shape with random weights."""
    torch.manual_seed(0)
    model = LanguageModel(config).eval().requires_grad_(False)
    contenders: dict[str, Callable[[list[list[int]]], Measured]] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        peer = same_in_transformers(model).to(dtype)
        contenders[f"transformers {name}"] = lambda asked, peer=peer: theirs(peer, asked, new)
    copies = {
        "float32": packed(model, torch.float32),
        "bfloat16": packed(model, torch.bfloat16),
        "int8": packed(model, torch.bfloat16, int8=True),
    }
    for name, copy in copies.items():
        engine = LiveEngine(copy, max_batch=max(streams), shared_bytes=0)
        contenders[f"fledge {name}"] = lambda asked, engine=engine: live(engine, asked, new)
    if llamacpp.found:
        for kind in ("F16", "Q8_0"):
            with TemporaryDirectory() as made:
                path = llamacpp.write_gguf(model, Path(made) / f"{kind}.gguf", kind)
                runner = llamacpp.LlamaCpp(path, max(streams), size + new)
            contenders[f"llama.cpp {kind}"] = lambda asked, runner=runner: runner.measured(asked, new)
    table = Table(box=MARKDOWN, title=f"{config.parameters() / 1e6:.0f} M parameters, {size} + {new} tokens")
    table.add_column("")
    for count in streams:
        table.add_column(f"{count} streams: tokens/s")
        table.add_column("first token, s")
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    for count in streams:
        results: dict[str, list[Measured]] = {name: [] for name in contenders}
        for number in range(rounds + 1):  # the first warms up
            for name, run in contenders.items():
                measured = run(prompts(count, size, config.vocab_size, number))
                if number:
                    results[name].append(measured)
        for name, values in results.items():
            found[name].append((statistics.median(v[0] for v in values), statistics.median(v[1] for v in values)))
    for name, values in found.items():
        table.add_row(name, *(text for speed, first in values for text in (f"{speed:.0f}", f"{first:.3f}")))
    return table


def streamed(address: str, body: dict[str, Any]) -> float:
    """Seconds from asking to the end of a streamed answer."""
    with httpx.Client(base_url=address, timeout=120) as client:
        began = time.perf_counter()
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for _ in answer.iter_raw():
                pass
        return time.perf_counter() - began


def overhead(directory: Path, new: int) -> Table:
    """What HTTP adds to a token: a stream over a socket against the same request in the engine."""
    assistant = fledge.load(directory)
    engine = LiveEngine(packed(assistant.language, torch.bfloat16), assistant.tokenizer)
    ids, bias = assistant.encode([{"role": "user", "content": "What is this?"}]), {}
    for token in {assistant.tokenizer.eos_id, assistant.tokenizer.document_id}:
        bias[token] = -100.0

    def inside() -> float:
        began = time.perf_counter()
        engine.submit(Request(ids, new, GREEDY, logit_bias=bias))
        while engine.busy:
            engine.step()
        return time.perf_counter() - began

    listening = listen("127.0.0.1", 0)
    app = create_app([f"model={directory}"], ServeConfig(dtype="bfloat16"))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    body = {
        "model": "model", "messages": [{"role": "user", "content": "What is this?"}], "temperature": 0, "stream": True,
        "max_tokens": new, "logit_bias": {str(token): value for token, value in bias.items()},
    }  # fmt: skip

    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    rounds = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as client:  # as programs are that use an API
        for number in range(12):
            pair = inside(), client.submit(streamed, address, body).result()
            if number:
                rounds.append(pair)
    server.should_exit = True
    thread.join(10)
    table = Table("engine, s", "over HTTP, s", "a token more, ms", box=MARKDOWN, title=f"{new} tokens through HTTP")
    more = statistics.median(out - own for own, out in rounds) / new * 1000
    own, out = (statistics.median(values) for values in zip(*rounds))
    table.add_row(f"{own:.3f}", f"{out:.3f}", f"{more:.3f}")
    return table


def perplexity(directory: Path, text: str, most: int) -> Table:
    """Perplexity of a text, cut into contexts, in each precision."""
    assistant = fledge.load(directory)
    tokenizer, size = assistant.tokenizer, min(assistant.config.context - 1, 512)
    ids = tokenizer.encode(text)[:most]
    rows = [[tokenizer.document_id, *ids[start : start + size - 1]] for start in range(0, len(ids), size - 1)]
    table = Table("precision", "perplexity", "against float32", box=MARKDOWN, title=f"{len(ids)} tokens of real text")
    exact = 0.0
    for name, dtype, int8 in (
        ("float32", torch.float32, False),
        ("bfloat16", torch.bfloat16, False),
        ("int8", torch.bfloat16, True),
    ):
        engine = LiveEngine(packed(assistant.language, dtype, int8), tokenizer, shared_bytes=0)
        for row in rows:
            engine.submit(Request(row, 0, prompt_logprobs=True))
        total = count = 0.0
        while engine.busy:
            for update in engine.step():
                found = [scored.logprob for scored in update.prompt or [] if scored.logprob is not None]
                total, count = total + sum(found), count + len(found)
        value = math.exp(-total / count)
        exact = exact or value
        table.add_row(name, f"{value:.3f}", f"{value / exact - 1:+.2%}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--model", type=Path, default=None, help="a trained model, for perplexity and overhead")
    parser.add_argument("--text", type=Path, default=None, help="real text, for perplexity")
    parts = ("throughput", "overhead", "perplexity")
    parser.add_argument("--only", choices=parts, default="", help="one of the parts")
    given = parser.parse_args()
    console = Console()
    warn_if_busy()
    small = ModelConfig.sized(4, 4096, 512)
    if given.only in ("", "throughput"):
        for config in (small,) if given.quick else (SMOL, small):
            quick = ([1, 8], 16, 8, 1)
            console.print(throughput(config, *(quick if given.quick else ([1, 8, 32], 128, 64, 3))))
    with TemporaryDirectory() as made:
        directory = given.model
        if directory is None:
            tokenizer = Tokenizer.train(topics.topics.values(), 2048)
            directory = Path(made)
            save_model(LanguageModel(ModelConfig.sized(2, tokenizer.vocab_size, 1024)), directory, tokenizer=tokenizer)
        if given.only in ("", "overhead"):
            console.print(overhead(directory, 100 if given.quick else 400))
        if given.model and given.only in ("", "perplexity"):
            text = given.text.read_text(encoding="utf-8") if given.text else "\n\n".join(topics.topics.values())
            console.print(perplexity(given.model, text, 5_000 if given.quick else 100_000))


if __name__ == "__main__":
    main()
