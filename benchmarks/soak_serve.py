"""Soak: thousands of requests of mixed length with random disconnects; memory stays flat, no answer is lost or crossed.

Starts a server of its own with a random model (or `--model`), learns what each of a set of prompts is answered
greedily when nothing else runs, and then asks them in any order, 32 at a time, streamed and whole, leaving a fifth of
the answers in the middle. Every answer that is read to its end must be the prompt's own. As many requests go
before; from then on memory may not grow by more than 2 %, measured when the server has nothing to do and has given back
what the load took. Prints it on the way, under load, too; exits with 1 if it grew or an answer was wrong.

  python benchmarks/soak_serve.py [--requests 10000] [--quick]
"""

import argparse
import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data import topics
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
import torch

from fledge.checkpoint.directory import save_model
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.serve.worker import REST
from fledge.text.tokenizer import Tokenizer

AT_ONCE = 32
LEAVES = 0.2
FLAT = 1.02


def model_in(directory: Path) -> Path:
    """A random model with a real vocabulary; spread weights, so that its answers differ."""
    tokenizer = Tokenizer.train(topics.topics.values(), 2048)
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig.sized(2, tokenizer.vocab_size, 512))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1)
    save_model(model, directory, tokenizer=tokenizer)
    return directory


async def ask(client: httpx.AsyncClient, body: dict[str, Any], stream: bool, leave_after: int | None) -> str | None:
    """The answer's text, or None if we left."""
    if not stream:
        call = client.post("/v1/chat/completions", json=body)
        if leave_after is None:
            return str((await call).raise_for_status().json()["choices"][0]["message"]["content"])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(call, 0.01 * leave_after)
        return None
    text, seen = "", 0
    async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            text += chunk["choices"][0]["delta"].get("content") or ""
            seen += 1
            if leave_after is not None and seen > leave_after:
                return None
    return text


async def soak(address: str, process: psutil.Process, requests: int) -> list[str]:
    """What was wrong."""
    draw = random.Random(0)
    words = topics.topics["assignment"].split()
    bodies = []
    for _ in range(40):
        start, size = draw.randrange(100), draw.choice([3, 10, 40, 80])
        turn = {"role": "user", "content": " ".join(words[start : start + size])}
        new = draw.choice([1, 5, 20, 60])
        bodies.append({"model": "model", "messages": [turn], "temperature": 0, "max_tokens": new})
    wrong: list[str] = []
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=httpx.Limits(max_connections=AT_ONCE)) as client:
        expected = [await ask(client, body, False, None) for body in bodies]
        print(f"{len(set(expected))} different answers to {len(bodies)} prompts")
        done = left = 0
        memory: list[int] = []
        warm = requests

        async def one(until: int) -> None:
            nonlocal done, left
            while done < until:
                done += 1
                if done > warm and (done - warm) % (requests // 10) == 0:
                    memory.append(process.memory_info().rss)
                which = draw.randrange(len(bodies))
                leave = draw.randrange(20) if draw.random() < LEAVES else None
                text = await ask(client, bodies[which], draw.random() < 0.5, leave)
                left += text is None
                if text is not None and text != expected[which]:
                    wrong.append(f"prompt {which}: {text!r} instead of {expected[which]!r}")

        async def at_rest(until: int) -> int:
            """Bytes of the server after so many requests, when it has nothing to do."""
            await asyncio.gather(*(one(until) for _ in range(AT_ONCE)))
            for _ in range(200):
                if (health := (await client.get("/health")).json())["open"] == 0:
                    break
                await asyncio.sleep(0.05)
            if health["open"]:
                wrong.append(f"{health['open']} answers are still being written")
            await asyncio.sleep(2 * REST)
            return process.memory_info().rss

        began = time.perf_counter()
        early, late = await at_rest(warm), await at_rest(warm + requests)
        seconds = time.perf_counter() - began
    print(f"{done} requests in {seconds:.0f} s, {left} left in the middle, {len(wrong)} wrong answers")
    print(f"memory {early >> 20} MB after {warm} requests, {late >> 20} MB at the end ({late / early - 1:+.1%})")
    print(f"on the way, MB: {' '.join(str(size >> 20) for size in memory)}")
    if late > FLAT * early:
        wrong.append("memory grew by more than 2 %")
    return wrong


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="300 requests: does it run at all")
    parser.add_argument("--model", type=Path, default=None)
    given = parser.parse_args()
    with TemporaryDirectory() as made, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        model = given.model or model_in(Path(made))
        command = [sys.executable, "-m", "fledge", "serve", f"model={model}", "--port", str(port)]
        caches = ["--set", "cache_bytes=268435456", "--set", "shared_bytes=67108864"]
        server = subprocess.Popen([*command, *caches])
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    httpx.get(f"{address}/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            wrong = asyncio.run(soak(address, psutil.Process(server.pid), 300 if given.quick else given.requests))
        finally:
            server.terminate()
            server.wait(20)
    for line in wrong[:10]:
        print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
