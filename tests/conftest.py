"""A tiny world that many tests live in: text, conversations, rankings, a tokenizer and random models, in one folder."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from fledge.checkpoint.directory import save_model
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, ScalarModel
from fledge.text.tokenizer import Tokenizer

hypothesis.settings.register_profile("fledge", deadline=None)  # no test depends on how busy a machine is
hypothesis.settings.load_profile("fledge")

ANIMALS = ("zebra", "lion", "otter", "heron", "tapir", "gecko", "llama", "moose", "raven", "panda")
PLACES = ("New York Zoo", "the river", "a warm stone", "the old harbour", "my garden", "the far north")


def offline(log: Path) -> tuple[list[str], dict[str, str]]:
    """What stands before a command, and its environment, so that it has no network and every attempt is in `log`."""
    log.touch()
    places = os.pathsep.join([str(Path(__file__).parent / "offline"), os.environ.get("PYTHONPATH", "")]).strip(
        os.pathsep
    )
    environment = os.environ | {"OFFLINE_LOG": str(log), "PYTHONPATH": places}
    try:
        alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-current-user"]
        if subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
            return alone, environment | {"OFFLINE_NAMESPACE": "1"}
    except OSError:
        pass
    return [], environment


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def random_weights(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.05, generator=generator)
    return model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder: documents, heldout, demonstrations, comparisons, prompts (.jsonl); tokenizer/, base/, reward/."""
    root = tmp_path_factory.mktemp("tiny")
    draw = np.random.default_rng(0)

    def sentence() -> str:
        return f"The {draw.choice(ANIMALS)} sees the {draw.choice(ANIMALS)} at {draw.choice(PLACES)}."

    texts = [" ".join(sentence() for _ in range(6)) for _ in range(80)]
    rows = [{"text": text, "kind": "prose" if i % 3 else "code"} for i, text in enumerate(texts)]
    write_rows(root / "documents.jsonl", rows[:72])
    write_rows(root / "heldout.jsonl", rows[72:])
    tokenizer = Tokenizer.train(texts, 320)
    tokenizer.save(root / "tokenizer")

    def asked(animal: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Where is the {animal}?"}]

    demonstrations, comparisons = [], []
    for i in range(40):
        animal, place = ANIMALS[i % 10], PLACES[i % 6]
        answer = {"role": "assistant", "content": f"At {place}."}
        demonstrations.append({"messages": [*asked(animal), answer]})
        others = [f"In {PLACES[(i + k) % 6]}!" for k in (1, 2, 3)]
        comparisons.append({"prompt": asked(animal), "completions": [f"At {place}.", *others], "ranks": [0, 1, 1, 2]})
    write_rows(root / "demonstrations.jsonl", demonstrations)
    write_rows(root / "comparisons.jsonl", comparisons)
    write_rows(root / "prompts.jsonl", [{"prompt": asked(animal)} for animal in ANIMALS])

    shape = ModelConfig.sized(1, tokenizer.vocab_size, 128)
    save_model(random_weights(LanguageModel(shape), 1), root / "base", tokenizer=tokenizer)
    scalar = random_weights(ScalarModel(shape.model_copy(update={"head": "scalar"})), 2)
    save_model(scalar, root / "reward", tokenizer=tokenizer, extra={"reward_mean": 0.25})
    return root
