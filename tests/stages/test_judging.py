"""Several reward models at once: their scale, their weights, in PPO and in best-of-n."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fledge.checkpoint.directory import load_model, save_model
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.files import read_jsonl
from fledge.core.log import Log
from fledge.data.branches import Answers
from fledge.evaluate.scoring import score_sequences
from fledge.stages import load_stage
from fledge.stages.evaluate import answers_given
from fledge.stages.judging import Judges
from fledge.text.tokenizer import Tokenizer

QUIET, CPU = Log(quiet=True), torch.device("cpu")
SEQUENCES = [[5, 6, 7], [9, 8, 7, 6, 5], [40, 41]]
GROUPS = [Answers((tuple(ids),)) for ids in SEQUENCES]


@pytest.fixture(scope="module")
def two(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny reward model, and one that says the opposite at another scale."""
    root = tmp_path_factory.mktemp("judges")
    tokenizer = Tokenizer.load(tiny / "reward")
    kind, harsh = load_model(tiny / "reward"), load_model(tiny / "reward")
    with torch.no_grad():
        harsh.score.weight.mul_(-10)
    save_model(kind, root / "kind", tokenizer=tokenizer, extra={"reward_mean": 0.5, "reward_std": 0.1})
    save_model(harsh, root / "harsh", tokenizer=tokenizer, extra={"reward_mean": -2.0, "reward_std": 4.0})
    return {"kind": root / "kind", "harsh": root / "harsh"}


def raw(path: Path) -> torch.Tensor:
    """Scores by transformers, a sequence at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in SEQUENCES])


def test_each_is_measured_by_its_own_demonstrations(two: dict[str, Path]) -> None:
    judges = Judges(two, {"harsh": 0.5}, 32, CPU, QUIET)
    kind, harsh = (raw(two["kind"]) - 0.5) / 0.1, (raw(two["harsh"]) + 2.0) / 4.0
    torch.testing.assert_close(judges(GROUPS), kind + 0.5 * harsh, atol=1e-4, rtol=1e-4)
    assert judges.numbers() == pytest.approx(
        {"reward_kind": float(kind.mean()), "reward_harsh": float(harsh.mean())}, abs=1e-4
    )
    assert judges.heaviest == two["kind"]
    assert Judges(two, {"kind": 0.1, "harsh": -2}, 32, CPU, QUIET).heaviest == two["harsh"]


def test_one_alone_keeps_its_scale(two: dict[str, Path]) -> None:
    judges = Judges(two["kind"], {}, 32, CPU, QUIET)
    torch.testing.assert_close(judges(GROUPS), raw(two["kind"]) - 0.5, atol=1e-5, rtol=1e-4)
    assert judges.numbers() == {}


def test_what_is_refused(two: dict[str, Path]) -> None:
    with pytest.raises(FledgeError, match="there is no reward 'harmles'") as caught:
        Judges({"harmless": two["kind"]}, {"harmles": 1.0}, 32, CPU, QUIET)
    assert "did you mean 'harmless'?" in str(caught.value)
    with pytest.raises(FledgeError, match="no reward model is given"):
        Judges({}, {}, 32, CPU, QUIET)


def run(stage: str, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    found = load_stage(stage)
    return found.run(make_config(found.config, settings, "the test"), out, Log(out, quiet=True))


def test_ppo_logs_each_and_learns_from_their_sum(tiny: Path, two: dict[str, Path], tmp_path: Path) -> None:
    run(
        "ppo", tmp_path / "out", policy=tiny / "base", prompts=tiny / "prompts.jsonl", length=64, tokens_per_step=1024,
        reward=two, reward_weights={"kind": 2.0, "harsh": 0.5}, max_new_tokens=8, iterations=2, dtype="float32",
        rollouts={"answers_per_iteration": 8, "epochs": 1, "minibatches": 2},
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in lines if "iteration" in row]
    assert len(found) == 2
    for row in found:
        assert row["reward"] == pytest.approx(2 * row["reward_kind"] + 0.5 * row["reward_harsh"], rel=1e-4)


def test_the_reward_stage_records_the_scale(tiny: Path, tmp_path: Path) -> None:
    run(
        "reward", tmp_path / "out", model=tiny / "base", comparisons=tiny / "comparisons.jsonl", length=64,
        demonstrations=tiny / "demonstrations.jsonl", prompts_per_step=8, dtype="float32",
        optimizer={"name": "adamw", "learning_rate": 3e-3},
    )  # fmt: skip
    recorded = json.loads((tmp_path / "out" / "config.json").read_text())
    model, tokenizer = load_model(tmp_path / "out"), transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = [json.loads(line)["messages"] for line in (tiny / "demonstrations.jsonl").read_text().splitlines()]
    ids = [tokenizer.apply_chat_template(row, return_dict=False) for row in rows]
    ids = [row[: len(row) - row[::-1].index(tokenizer.eos_token_id)] for row in ids]
    scores = score_sequences(model, ids, 64)
    assert recorded["reward_std"] > 0
    assert recorded["reward_mean"] == pytest.approx(float(scores.mean()), abs=1e-4)
    assert recorded["reward_std"] == pytest.approx(float(scores.std(correction=0)), abs=1e-4)


@pytest.fixture(scope="module")
def kept(tiny: Path, two: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bestof") / "out"
    run(
        "bestof", out, policy=tiny / "base", reward=two, prompts=tiny / "prompts.jsonl", n=6, max_new_tokens=60,
        length=128, dtype="float32",
    )  # fmt: skip
    return out


def test_the_best_answer_is_kept(kept: Path, tiny: Path, two: dict[str, Path]) -> None:
    """The rewards are those of the judges, and no other finished answer has a higher one."""
    prompts, samples = read_jsonl(tiny / "prompts.jsonl"), read_jsonl(kept / "samples.jsonl")
    for prompt, row, answer in zip(prompts, samples, read_jsonl(kept / "answers.jsonl"), strict=True):
        assert row["prompt"] == answer["prompt"] == prompt["prompt"]
        finished = [i for i, ended in enumerate(row["ended"]) if ended] or range(6)
        assert answer["reward"] == max(row["rewards"][i] for i in finished)
        assert answer["answer"] == row["completions"][row["rewards"].index(answer["reward"])]
        both = zip(row["rewards_kind"], row["rewards_harsh"], strict=True)
        assert row["rewards"] == pytest.approx([a + b for a, b in both], abs=1e-4)
        assert len(set(row["completions"])) > 1


def test_sft_reads_what_was_kept(kept: Path, tiny: Path, tmp_path: Path) -> None:
    demonstrations, answers = read_jsonl(kept / "demonstrations.jsonl"), read_jsonl(kept / "answers.jsonl")
    ended = [any(row["ended"]) for row in read_jsonl(kept / "samples.jsonl")]
    texts = [row["answer"] for row, done in zip(answers, ended, strict=True) if done and row["answer"].strip()]
    assert [row["messages"][-1]["content"] for row in demonstrations] == texts
    assert texts, "no answer of the tiny model ended: choose other seeds"
    summary = run(
        "sft", tmp_path / "sft", model=tiny / "base", demonstrations=kept / "demonstrations.jsonl", length=128,
        tokens_per_step=256, epochs=1,
    )  # fmt: skip
    assert summary["conversations"] == len(texts)


def test_only_what_is_good_enough_is_learnt(tiny: Path, two: dict[str, Path], tmp_path: Path) -> None:
    summary = run(
        "bestof", tmp_path / "out", policy=tiny / "base", reward=two["kind"], prompts=tiny / "prompts.jsonl", n=2,
        max_new_tokens=8, above=1e9, dtype="float32", length=128, limit=3,
    )  # fmt: skip
    assert summary["prompts"] == 3
    assert summary["demonstrations"] == 0
    assert summary["reward"]["value"] >= summary["reward_of_all"]["value"]


def test_kept_answers_are_evaluated_as_a_models(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "What is abs?"}]
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"prompt": asked, "answer": " A function. "}) + "\n")
    assert answers_given(file, [{"prompt": asked}]) == ["A function."]
    with pytest.raises(FledgeError, match="answers 1 of 2 questions"):
        answers_given(file, [{"prompt": asked}, {"prompt": [*asked, *asked]}])
