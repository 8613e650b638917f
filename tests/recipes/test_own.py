"""`fledge raise --data`: the steps follow from what the files hold, and raise a model from them."""

import json
import shutil
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError
from fledge.core.files import read_jsonl
from fledge.core.log import Log
from fledge.recipes.own import own_overrides
from fledge.recipes.runner import plan, read_recipe, run_recipe

TALK = {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]}
RANKED = {"prompt": "Where?", "chosen": "There.", "rejected": "Dunno."}
FILES = {
    "text": ("a.md", "# Zoo\n\nThe zebra sleeps near the river.\n"),
    "talk": ("b.jsonl", json.dumps(TALK) + "\n"),
    "ranked": ("c.jsonl", json.dumps(RANKED) + "\n"),
    "strange": ("package.json", '{"name": "zoo"}'),
}
ALWAYS = ["ingest", "curate", "tokenizer", "pretrain"]


@pytest.mark.parametrize(
    ("files", "trained"),
    [
        (["text"], []),
        (["text", "strange"], []),
        (["text", "talk"], ["sft"]),
        (["talk"], ["sft"]),
        (["text", "ranked"], ["sft", "reward", "ppo"]),
        (["text", "talk", "ranked", "strange"], ["sft", "reward", "ppo"]),
    ],
)
def test_the_steps_follow_from_the_files(tmp_path: Path, files: list[str], trained: list[str]) -> None:
    data = tmp_path / "my data: 1"
    data.mkdir()
    for file in files:
        name, content = FILES[file]
        (data / name).write_text(content)
    steps = plan(read_recipe("own"), tmp_path / "run", "", own_overrides(data))
    assert [step.name for step in steps if step.name != "report"] == [*ALWAYS, *trained]


def test_the_last_file_counts_too(tmp_path: Path) -> None:
    """However much text comes before it."""
    (tmp_path / "a.jsonl").write_text('{"text": "The zebra sleeps."}\n' * 30_000)
    (tmp_path / "z.jsonl").write_text(json.dumps(RANKED) + "\n")
    assert [text for text in own_overrides(tmp_path) if "skip" in text] == []


def test_nothing_to_raise_a_model_from(tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="holds no files"):
        own_overrides(tmp_path)


def test_raised_from_own_files(tiny: Path, tmp_path: Path) -> None:
    """Text, conversations and rankings in one folder: every step of the recipe, at the smallest sizes."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("documents.jsonl", "demonstrations.jsonl", "comparisons.jsonl"):
        shutil.copy(tiny / name, data)
    smaller = [
        "tokenizer.vocab_size=320", "pretrain.depth=1", "pretrain.tokens=512", "pretrain.tokens_per_step=512",
        "curate.heldout_share=0.1", "sft.tokens_per_step=1024", "sft.epochs=1", "reward.tokens_per_step=1024",
        "ppo.iterations=1", "ppo.max_new_tokens=4", "ppo.rollouts.answers_per_iteration=8",
    ]  # fmt: skip
    run = tmp_path / "run"
    steps = plan(read_recipe("own"), run, "", [*own_overrides(data), *smaller])
    run_recipe(steps, run, Log(quiet=True))
    assert all(step.done for step in steps)
    assert len(read_jsonl(run / "ingest" / "demonstrations.jsonl")) == 40
    assert len(read_jsonl(run / "ingest" / "comparisons.jsonl")) == 40
    prompts = [row["prompt"] for row in read_jsonl(run / "ingest" / "prompts.jsonl")]
    assert len(prompts) == len({json.dumps(prompt) for prompt in prompts}) == 10
    for step in ("pretrain", "sft", "reward", "ppo"):
        assert (run / step / "model.safetensors").is_file()
    assert json.loads((run / "reward" / "reward.json").read_text())["accuracy"]["n"] > 0


def test_without_demonstrations_the_best_answers_are_taken(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(tiny / "comparisons.jsonl", data)
    run = tmp_path / "run"
    steps = plan(read_recipe("own"), run, "", own_overrides(data))
    run_recipe(steps[:1], run, Log(quiet=True))
    for demonstration, comparison in zip(
        read_jsonl(run / "ingest" / "demonstrations.jsonl"), read_jsonl(tiny / "comparisons.jsonl"), strict=True
    ):
        assert demonstration["messages"][:-1] == comparison["prompt"]
        assert demonstration["messages"][-1]["content"] == comparison["completions"][0]
