"""A stage up to the moment before it trains: its own preflight, its own data, its own first batch, and no more.

`fledge check` runs the very function that would train. What it shows is therefore what training would get: the first
rows token by token, what is supervised, how the lengths lie, what it will cost. Nothing is written.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fledge.core.config import Config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.packing import IGNORED
from fledge.data.rankings import RankedStream
from fledge.data.stream import Stream
from fledge.model.inputs import inputs
from fledge.stages import load_stage
from fledge.stages.session import Rehearsed, Session, TrainConfig
from fledge.text.tokenizer import Tokenizer
from fledge.train.rollouts import Rollouts

Batch = dict[str, torch.Tensor]
TOKENIZERS = ("tokenizer", "policy", "model")  # the config fields that may name a directory with a tokenizer


class Token(NamedTuple):
    """One token of a row as the model sees it; `target` is what it must predict in its place, if not itself."""

    text: str
    supervised: bool
    document: int
    target: str = ""


class Rehearsal(NamedTuple):
    """What a stage would do. `figures` is JSON; `rows` are the first rows of the first micro-batch."""

    figures: dict[str, Any]
    lengths: np.ndarray
    rows: list[list[Token]]


def rehearse(stage: str, config: Config, log: Log, rows: int = 2) -> Rehearsal | None:
    """Runs `stage` until it would train; None for a stage that trains nothing, which is not run at all.

    Raises FledgeError where preflight refuses.
    """
    if not isinstance(config, TrainConfig):
        return None
    with tempfile.TemporaryDirectory() as work:
        try:
            load_stage(stage).run(config, Path(work), Log(Path(work), console=log.console, rehearsal=True))
        except Rehearsed as stopped:
            session, loss = stopped.session, stopped.loss
        else:
            raise FledgeError(f"'{stage}' has nothing to train", "give it steps: more epochs, tokens or iterations")
        began = time.perf_counter()
        microbatches = next(iter(session.batches))
        waited = time.perf_counter() - began
        shown = [row for batch in microbatches for row in tokens_of(batch, tokenizer_of(config))][:rows]
        step_seconds = time_of(session, loss, microbatches[0]) * len(microbatches)
    pieces = pieces_of(session.batches)
    lengths = np.array([size for source in pieces.values() for size, _ in source])
    return Rehearsal(
        {
            "stage": stage,
            "steps": session.steps,
            "sources": {name: totals(source) for name, source in pieces.items()},
            "first_step": first_step(microbatches),
            "seconds": session.steps * step_seconds + waits(session) * waited,
            "flops": flops_of(session, microbatches),
            "parameters": sum(p.numel() for p in session.model.parameters()),
        },
        lengths,
        shown,
    )


def pieces_of(batches: Any) -> dict[str, list[tuple[int, int]]]:
    """(tokens, supervised tokens) of every example of every source, for the streams that hold examples."""
    if isinstance(batches, Stream):
        return {
            name: [(len(e.ids), int(e.mask.sum())) for e in source.examples] for name, source in batches.sources.items()
        }
    if isinstance(batches, RankedStream):
        return {
            "answers": [
                (len(ids), max(1, int(group.supervised(len(ids)).sum())))
                for group in batches.groups
                for ids in group.ids
            ]
        }
    if isinstance(batches, Rollouts):
        return {"prompts": [(len(prompt), 0) for prompt in batches.prompts]}
    return {}


def totals(pieces: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Examples, tokens an epoch, and the share of them that is supervised."""
    tokens = sum(size for size, _ in pieces)
    return {
        "examples": len(pieces),
        "tokens_per_epoch": tokens,
        "supervised_share": sum(count for _, count in pieces) / max(tokens, 1),
    }


def first_step(microbatches: Sequence[Batch]) -> dict[str, float]:
    """Rows, tokens, padding and supervised positions of one step."""
    places = sum(batch["ids"].numel() for batch in microbatches)
    real = sum(int(batch["documents"].count_nonzero()) for batch in microbatches)
    counted = sum(int((batch["targets"] != IGNORED).sum()) for batch in microbatches if "targets" in batch)
    return {
        "rows": sum(len(batch["ids"]) for batch in microbatches),
        "tokens": real,
        "padding_share": 1 - real / max(places, 1),
        "supervised_share": counted / max(real, 1),
    }


def time_of(session: Session, loss: Callable[[Any, Batch], Any], batch: Batch) -> float:
    """Seconds of one micro-batch forwards and backwards, the better of two."""
    moved = {name: column.to(session.device) for name, column in batch.items()}
    seconds = []
    session.model.train()
    for _ in range(2):
        began = time.perf_counter()
        with session.autocast():
            found = loss(session.model(**inputs(moved)), moved)
        found.sum.backward()
        float(found.sum.detach())
        seconds.append(time.perf_counter() - began)
        session.model.zero_grad()
    return min(seconds)


def waits(session: Session) -> float:
    """How many times the data will take as long as the first time: once a step, or once an iteration of rollouts."""
    return session.steps / (session.batches.steps_per_iteration if isinstance(session.batches, Rollouts) else 1)


def flops_of(session: Session, microbatches: Sequence[Batch]) -> float | None:
    """FLOPs of the whole job, for models that have one shape."""
    config: Any = getattr(session.model, "config", None)
    places = sum(batch["ids"].numel() for batch in microbatches)
    return None if config is None else session.steps * places * config.flops_per_token(session.config.length)


def tokenizer_of(config: Config) -> Tokenizer:
    """The tokenizer of a training stage."""
    given = [getattr(config, name) for name in TOKENIZERS if name in type(config).model_fields]
    return Tokenizer.load(given[0])


def tokens_of(batch: Batch, tokenizer: Tokenizer) -> list[list[Token]]:
    """The rows of a batch, padding left out, with what is supervised in each."""
    found = []
    for ids, targets, documents in zip(batch["ids"], batch["targets"], batch["documents"], strict=True):
        counted = targets != IGNORED
        following = counted[:-1] & (targets[:-1] == ids[1:])
        next_token = 2 * int(following.sum()) >= int(counted.sum())
        supervised = torch.nn.functional.pad(following, (1, 0)) if next_token else counted
        found.append(
            [
                Token(
                    tokenizer.decode([int(i)], skip_special=False),
                    bool(marked),
                    int(document),
                    "" if next_token or not marked or i == target else tokenizer.decode([int(target)], False),
                )
                for i, target, document, marked in zip(ids, targets, documents, supervised, strict=True)
                if document
            ]
        )
    return found
