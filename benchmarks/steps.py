"""What the benchmarks of alignment share: steps that are made once, and how far a policy is from where it came from."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from fledge.checkpoint.directory import load_model
from fledge.core.config import make_config
from fledge.core.device import autocast, pick_device, pick_dtype
from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.data.rankings import Ranked
from fledge.evaluate.scoring import score_answers
from fledge.evaluate.statistics import Estimate, mean
from fledge.generate.engine import Engine
from fledge.generate.sampling import Sampling
from fledge.recipes.artifact import finished, make, mark_of
from fledge.stages import load_stage
from fledge.stages.asking import ask
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer

FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def made(stage: str, directory: Path, log: Log, **settings: Any) -> Path:
    """The artifact of a stage with these settings, made if it is not there; its directory."""
    config = make_config(load_stage(stage).config, settings, str(directory))
    mark = mark_of(stage, config)
    if not finished(directory, mark):
        log.say(f"[bold]{directory.name}[/] ({stage})")
        began = time.monotonic()
        make(stage, config, directory, mark, log)
        log.say(f"[dim]{directory.name}: {time.monotonic() - began:.0f} s[/]")
    return directory


def distance(policy: Path, reference: Path, prompts: list[tuple[Message, ...]], new: int, log: Log) -> Estimate:
    """KL(policy ‖ reference) in nats per answer, at temperature 1: the mean of log π - log π_ref over sampled answers.

    Both log-probs come from the same pass over whole sequences, so that the engine's rounding does not count.
    """
    tokenizer, device = Tokenizer.load(policy), pick_device("auto")
    dtype = pick_dtype("auto", device)
    ours, theirs = (load_model(path, device=device) for path in (policy, reference))
    answers = ask(
        Engine(ours, tokenizer, max_batch=256, dtype=dtype), tokenizer, prompts, Sampling(), new, 5, log, "KL"
    )
    ids = [render(tokenizer, prompt, add_generation_prompt=True).ids for prompt in prompts]
    groups = [Ranked(((*p, *a.ids),), (0,), prompt=len(p)) for p, a in zip(ids, answers, strict=True)]
    length = max(len(group.ids[0]) for group in groups)
    with autocast(device, dtype):
        first, second = (np.array(score_answers(model, groups, length))[:, 0] for model in (ours, theirs))
    return mean(first - second)
