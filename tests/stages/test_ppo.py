"""PPO and GRPO as stages: which prompts it reads, whose reward it raises, when it stops, what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint.directory import load_model
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.branches import Answers
from fledge.generate.engine import Engine
from fledge.stages.grpo import GrpoConfig, grpo
from fledge.stages.ppo import PpoConfig, ppo
from fledge.stages.prompts import read_prompts
from fledge.text.tokenizer import Tokenizer

QUIET = Log(quiet=True)


STAGES: dict[str, tuple[Any, Any]] = {"ppo": (PpoConfig, ppo), "grpo": (GrpoConfig, grpo)}
both = pytest.mark.parametrize("stage", STAGES)


def run(tiny: Path, out: Path, stage: str = "ppo", **changes: Any) -> dict[str, Any]:
    rollouts = {"answers_per_iteration": 8, "group": 2, "epochs": 2, "minibatches": 2} | changes.pop("rollouts", {})
    settings: dict[str, Any] = {
        "policy": tiny / "base", "reward": tiny / "reward", "prompts": tiny / "prompts.jsonl",
        "length": 64, "tokens_per_step": 1024, "max_new_tokens": 8, "iterations": 2, "dtype": "float32",
    }  # fmt: skip
    out.mkdir()
    kind, function = STAGES[stage]
    config = make_config(kind, settings | changes | {"rollouts": rollouts}, "the test")
    found: dict[str, Any] = function(config, out, Log(out, quiet=True))
    return found


def iterations(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "iteration" in row]


@pytest.fixture
def prompts_of(tiny: Path, tmp_path: Path) -> Any:
    tokenizer = Tokenizer.load(tiny / "base")

    def read(*rows: object) -> list[str]:
        file = tmp_path / "prompts.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [tokenizer.decode(ids, skip_special=False) for ids in read_prompts(file, tokenizer, QUIET)]

    return read


ASK, ANSWER, MORE = (
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "There."},
    {"role": "user", "content": "And then?"},
)
ASKED = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
TWICE = ASKED + "There.<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Where?"}, ASKED),
        ({"prompt": [ASK]}, ASKED),
        ({"prompt": [ASK, ANSWER, MORE]}, TWICE),
        ({"messages": [ASK, ANSWER]}, ASKED),
        ({"messages": [ASK, ANSWER, MORE]}, TWICE),
        ({"messages": [ASK, ANSWER, MORE, ANSWER]}, TWICE),
        ({"instruction": "Where?", "output": "There."}, ASKED),
        ({"prompt": "\n\nHuman: Where?\n\nAssistant:"}, ASKED),
        ({"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]}, ASKED),
    ],
)
def test_prompts_in_any_layout(prompts_of: Any, row: object, expected: str) -> None:
    assert prompts_of(row) == [expected]


def test_rows_that_are_no_prompts_are_left_out(prompts_of: Any) -> None:
    assert prompts_of({"text": "a"}, {"prompt": "Where?"}, {"prompt": [ANSWER]}) == [ASKED]


@both
def test_it_raises_the_reward_it_is_given(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A reward of one for every "z" in an answer: they become more, beyond what chance would do."""
    (wanted,) = Tokenizer.load(tiny / "base").encode("z")

    def zs(model: Any, groups: list[Answers], length: int) -> torch.Tensor:
        return torch.tensor([float(ids.count(wanted)) for group in groups for ids in group.ids])

    monkeypatch.setattr("fledge.stages.judging.score_groups", zs)
    optimizer = {"name": "adamw", "learning_rate": 2e-2}
    rollouts = {"answers_per_iteration": 96, "group": 8, "kl_coefficient": 0.0}
    run(tiny, tmp_path / "out", stage, iterations=8, max_new_tokens=6, optimizer=optimizer, rollouts=rollouts)
    found = iterations(tmp_path / "out")
    assert [row["iteration"] for row in found] == list(range(8))
    rewards = [row["reward"] + 0.25 for row in found]  # reward_mean of the tiny reward model
    assert 0 <= rewards[0] < 0.3
    assert rewards[-1] > rewards[0] + 2
    assert abs(found[0]["kl"]) < 1e-4
    assert found[-1]["kl"] > 0.1


def test_rewards_are_measured_from_the_demonstrations(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def three(model: Any, groups: list[Answers], length: int) -> torch.Tensor:
        return torch.full([sum(len(group.ids) for group in groups)], 3.0)

    monkeypatch.setattr("fledge.stages.judging.score_groups", three)
    assert run(tiny, tmp_path / "out", iterations=1)["last"]["reward"] == pytest.approx(3.0 - 0.25)


@both
def test_what_it_leaves_behind(tiny: Path, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "out"
    summary = run(tiny, out, stage, iterations=4, sample_every=2, samples=4)
    assert summary["iterations"] == 4
    assert summary["stopped"] == ""
    own = {"ppo": "explained_variance", "grpo": "groups_without_signal"}[stage]
    assert {"reward", "kl", "entropy", own, "length"} <= set(summary["last"])
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in samples] == [0] * 4 + [2] * 4 + [3] * 4
    assert all(row["prompt"].endswith("<|im_start|>assistant\n") for row in samples)
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"clip_fraction", {"ppo": "value_loss", "grpo": "kl_loss"}[stage]} <= {key for row in losses for key in row}
    before, after = load_model(tiny / "base"), load_model(out)
    assert after.config == before.config
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_it_writes_the_mean_of_the_policies_that_answered(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brute force: every policy that answers is copied; what is written is the mean of the last two of three."""
    seen: list[dict[str, torch.Tensor]] = []
    answered = Engine.run

    def run_and_copy(engine: Engine, *given: Any) -> Any:
        seen.append({name: p.detach().clone() for name, p in engine.model.named_parameters()})
        return answered(engine, *given)

    monkeypatch.setattr(Engine, "run", run_and_copy)
    optimizer = {"name": "adamw", "learning_rate": 1e-2}
    run(tiny, tmp_path / "out", iterations=3, average=0.67, optimizer=optimizer)
    written = dict(load_model(tmp_path / "out").named_parameters())
    assert len(seen) == 3
    for name, value in written.items():
        torch.testing.assert_close(value, (seen[1][name] + seen[2][name]) / 2, rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(seen[1][name], seen[2][name], atol=1e-4) for name in written)


def test_it_stops_when_it_has_gone_too_far(tiny: Path, tmp_path: Path) -> None:
    optimizer = {"name": "adamw", "learning_rate": 2e-2}
    rollouts = {"kl_stop": 0.5, "answers_per_iteration": 16}
    summary = run(tiny, tmp_path / "out", iterations=30, optimizer=optimizer, rollouts=rollouts)
    assert summary["stopped"].startswith("KL ")
    assert summary["stopped"].endswith("nats per answer passed kl_stop=0.5")
    assert summary["iterations"] < 30
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(("coefficient", "mixed"), [(0.0, False), (0.5, True)])
@both
def test_pretraining_text_is_mixed_in(tiny: Path, tmp_path: Path, coefficient: float, mixed: bool, stage: str) -> None:
    run(
        tiny, tmp_path / "out", stage, iterations=1, documents=tiny / "documents.jsonl", ptx_tokens=64, log_every=1,
        rollouts={"ptx_coefficient": coefficient},
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("ptx_loss" in row for row in rows) == mixed


def test_answers_must_fit(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="10 of 10 prompts do not fit into 16 tokens with 8 new ones"):
        run(tiny, tmp_path / "out", length=16)
    with pytest.raises(FledgeError, match="rows of length=256 are longer than the model's context of 128"):
        run(tiny, tmp_path / "out2", length=256)
