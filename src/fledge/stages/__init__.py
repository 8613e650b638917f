"""The stages, each one page: a config dataclass and one function `stage(config, out, log) -> summary`.

`STAGES` names them in the order of life; `load_stage` imports one only when it is needed, so that `--help` is quick.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from fledge.core.config import Config
from fledge.core.log import Log

STAGES = {
    "collect": "read the documentation and source of a Python installation",
    "ingest": "sort your own files into text, demonstrations and comparisons",
    "gather": "take what people said since the last round out of the feedback store",
    "curate": "clean, filter and de-duplicate documents",
    "tokenizer": "learn a byte-level BPE vocabulary",
    "pretrain": "learn language by predicting the next token",
    "questions": "derive demonstrations, prompts and an evaluation from documented names",
    "sft": "learn to follow instructions from demonstrations",
    "compare": "sample answers and have them ranked",
    "reward": "learn what people prefer from rankings",
    "ppo": "learn to please the reward model, staying near where it came from",
    "grpo": "the same without a critic: answers are compared with others to the same prompt",
    "dpo": "learn what people prefer from rankings directly, without a reward model",
    "bestof": "keep the best of n sampled answers, to evaluate or to learn from",
    "finetune": "learn a labelled task: classes, numbers, tags, answers, text to text",
    "promote": "put the better model in the place of the one so far, if it is better with confidence",
    "evaluate": "measure truthfulness, preference, calibration and bits per byte",
    "report": "tell the whole run in one HTML page",
}


class Stage(NamedTuple):
    """A stage: its config class and its function (config, work directory, log) -> JSON summary."""

    config: type[Config]
    run: Callable[[Any, Path, Log], dict[str, Any]]


def load_stage(name: str) -> Stage:
    """Imports the stage `name`; module and function bear its name, the config class is the function's annotation."""
    run = getattr(importlib.import_module(f"fledge.stages.{name}"), name)
    return Stage(get_type_hints(run)["config"], run)
