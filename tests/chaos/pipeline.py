"""A recipe of seconds, run in forked children that may be killed: the victim of the chaos harness.

torch and fledge are imported once, by the parent; an attempt is a fork, so that a hundred kills take minutes. Every
attempt is the real command line, `fledge raise recipe.yaml --out RUN`, in a process of its own.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fledge.cli import main as command
from fledge.core.device import environment, release_memory
from fledge.stages import STAGES, load_stage

ANIMALS = ("zebra", "lion", "otter", "heron", "tapir", "gecko", "llama", "moose")
PLACES = ("New York Zoo", "the river", "a warm stone", "the old harbour", "my garden")
MODELS = ("pretrain", "sft", "reward", "ppo")
PATIENCE = 120.0  # seconds an attempt may take


class Pipeline:
    """The recipe in `home`, with its data; each run has a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        draw = random.Random(0)

        def sentence() -> str:
            return f"The {draw.choice(ANIMALS)} sees the {draw.choice(ANIMALS)} at {draw.choice(PLACES)}."

        def asked(animal: str) -> list[dict[str, str]]:
            return [{"role": "user", "content": f"Where is the {animal}?"}]

        texts = [" ".join(sentence() for _ in range(6)) for _ in range(60)]
        answers = [f"At {place}." for place in PLACES]
        self.write("documents", [{"text": text} for text in texts])
        self.write(
            "demonstrations",
            [
                {"messages": [*asked(animal), {"role": "assistant", "content": answers[i % 5]}]}
                for i, animal in enumerate(ANIMALS * 4)
            ],
        )
        self.write(
            "comparisons",
            [
                {"prompt": asked(animal), "completions": answers[:3], "ranks": [i % 3, (i + 1) % 3, (i + 2) % 3]}
                for i, animal in enumerate(ANIMALS * 4)
            ],
        )
        self.write("prompts", [{"prompt": asked(animal)} for animal in ANIMALS])
        sizes = {
            "length": 64, "tokens_per_step": 256, "tokens_per_microbatch": 128, "save_seconds": 0.1,
            "compile": "never", "dtype": "float32", "log_every": 1,
        }  # fmt: skip
        steps: dict[str, dict[str, Any]] = {
            "tokenizer": {"documents": self.path("documents"), "vocab_size": 320},
            "pretrain": {
                "documents": self.path("documents"), "tokenizer": "${tokenizer}", "depth": 1, "context": 128,
                "tokens": 256 * 24, **sizes,
            },
            "sft": {"model": "${pretrain}", "demonstrations": self.path("demonstrations"), "epochs": 3, **sizes},
            "reward": {
                "model": "${sft}", "comparisons": self.path("comparisons"), "epochs": 2, "prompts_per_step": 4, **sizes
            },
            "ppo": {
                "policy": "${sft}", "reward": "${reward}", "prompts": self.path("prompts"), "iterations": 5,
                "max_new_tokens": 8, "rollouts": {"answers_per_iteration": 8, "minibatches": 2, "epochs": 1}, **sizes,
            },
        }  # fmt: skip
        self.recipe = home / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
        for stage in STAGES:
            load_stage(stage)  # imported before any fork, like what these two load lazily
        release_memory()
        environment()

    def path(self, name: str) -> str:
        return str(self.home / f"{name}.jsonl")

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        Path(self.path(name)).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def start(self, run: Path, before: Callable[[], None] = lambda: None) -> int:
        """Forks a child that raises into `run`; returns its process id."""
        child = os.fork()
        if child:
            return child
        code = 99
        try:
            said = os.open(self.home / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.argv = ["fledge", "raise", str(self.recipe), "--out", str(run)]
            before()
            command.run()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def said(self) -> str:
        """What the last attempt printed."""
        return (self.home / "said").read_text(errors="replace")

    def finish(self, run: Path, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
        """An attempt that is let be: its exit code and what it said."""
        code = wait(self.start(run, before), PATIENCE)
        return (-9 if code is None else code), self.said()

    def kill_after(self, run: Path, seconds: float, number: int = signal.SIGKILL) -> int | None:
        """An attempt that gets a signal after `seconds`; its exit code, None if the kernel had to end it."""
        child = self.start(run)
        code = wait(child, seconds)
        if code is not None:
            return code
        os.kill(child, number)
        return wait(child, PATIENCE)


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a child within `seconds` (minus the signal that ended it), or None while it still runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def result_of(run: Path) -> dict[str, str]:
    """The checksums of everything a run is for: weights, tokenizers, samples."""
    files = [run / model / "model.safetensors" for model in MODELS] + [run / "ppo" / "samples.jsonl"]
    files += [run / step / "tokenizer.json" for step in ("tokenizer", *MODELS)]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def die_at(operation: int, run: Path) -> Callable[[], None]:
    """Kills the process at its n-th operation on a file below `run`: inside writes, between them, before renames."""

    def install() -> None:
        count = 0

        def heard(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
                return
            place = arguments[0]
            if isinstance(place, bytes | str | os.PathLike) and os.fsdecode(place).startswith(str(run)):
                count += 1
                if count == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(heard)

    return install


def jumping_clock(seed: int) -> Callable[[], None]:
    """All clocks of the process jump by up to a day, forwards and backwards."""

    def install() -> None:
        draw = random.Random(seed)
        for name in ("time", "monotonic", "perf_counter"):
            real = getattr(time, name)
            setattr(time, name, lambda real=real: real() + draw.uniform(-86_400, 86_400))

    return install
