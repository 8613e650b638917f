"""`fledge check`: what it shows is what training would get, and nothing is trained or written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fledge.cli.main import app
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.stages import load_stage
from fledge.stages.examples import conversation_examples
from fledge.stages.rehearsal import Rehearsal, rehearse
from fledge.stages.sft import read_conversations
from fledge.text.tokenizer import Tokenizer

QUIET = Log(quiet=True)


def rehearsed(tiny: Path, stage: str, **settings: object) -> Rehearsal:
    inputs: dict[str, dict[str, object]] = {
        "pretrain": {"tokenizer": tiny / "tokenizer", "documents": tiny / "documents.jsonl", "depth": 1, "context": 64},
        "sft": {"model": tiny / "base", "demonstrations": tiny / "demonstrations.jsonl"},
        "reward": {"model": tiny / "base", "comparisons": tiny / "comparisons.jsonl"},
        "ppo": {
            "policy": tiny / "base", "reward": tiny / "reward", "prompts": tiny / "prompts.jsonl",
            "max_new_tokens": 8, "iterations": 3,
            "rollouts": {"answers_per_iteration": 8, "minibatches": 2, "epochs": 2},
        },
    }  # fmt: skip
    sizes = {"length": 64, "tokens_per_step": 256, "tokens_per_microbatch": 128}
    config = make_config(load_stage(stage).config, inputs[stage] | sizes | settings, "the test")
    found = rehearse(stage, config, QUIET)
    assert found is not None
    json.dumps(found.figures, allow_nan=False)
    return found


def test_the_totals_of_sft_are_those_of_its_demonstrations(tiny: Path) -> None:
    found = rehearsed(tiny, "sft", epochs=2.0)
    tokenizer = Tokenizer.load(tiny / "base")
    examples = conversation_examples(read_conversations(tiny / "demonstrations.jsonl", QUIET), tokenizer)
    tokens = sum(len(e.ids) for e in examples)
    assert found.figures["sources"] == {
        "demonstrations": {
            "examples": 40,
            "tokens_per_epoch": tokens,
            "supervised_share": sum(e.mask.sum() for e in examples) / tokens,
        }
    }
    assert sorted(found.lengths) == sorted(len(e.ids) for e in examples)
    assert found.figures["steps"] == round(2 * tokens / 256)
    assert found.figures["seconds"] > 0
    assert found.figures["flops"] > 6 * (found.figures["parameters"] - 320 * 64) * found.figures["steps"] * 256


def test_what_is_in_colour_is_what_the_assistant_says(tiny: Path) -> None:
    for row in rehearsed(tiny, "sft").rows:
        text = "".join(token.text for token in row)
        said = "".join(token.text for token in row if token.supervised)
        assert re.findall(r"assistant\n(At .*?\.<\|im_end\|>)", text) == [said]


def test_pretraining_supervises_everything_but_the_first_token_of_a_document(tiny: Path) -> None:
    (first, *_) = rehearsed(tiny, "pretrain").rows
    starts = [i for i in range(len(first)) if i == 0 or first[i].document != first[i - 1].document]
    assert [i for i, token in enumerate(first) if not token.supervised] == starts


def test_reward_and_ppo_show_answers_and_prompts(tiny: Path) -> None:
    reward = rehearsed(tiny, "reward")
    assert reward.figures["sources"]["answers"]["examples"] % 4 == 0
    assert reward.rows[0][-1].text == "<|im_end|>"
    ppo = rehearsed(tiny, "ppo")
    assert ppo.figures["steps"] == 12
    assert ppo.figures["sources"]["prompts"]["examples"] == 10
    assert any(token.supervised for token in ppo.rows[0])


def test_nothing_is_written_and_refusals_pass_through(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"model={tiny / 'base'}", f"demonstrations={tiny / 'demonstrations.jsonl'}", "length=64"]
    (tmp_path / "sft.yaml").write_text("epochs: 1\n")
    shown = CliRunner().invoke(app, ["check", "sft.yaml", *settings], catch_exceptions=False).stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sft.yaml"]
    for part in ("row 1", "ready to train", "lengths in tokens", "28.7%", "FLOPs", "GiB"):
        assert part in shown
    with pytest.raises(FledgeError, match="all 40 demonstrations are longer than 16 tokens"):
        CliRunner().invoke(app, ["check", "sft", *settings, "length=16"], catch_exceptions=False)
    with pytest.raises(FledgeError, match="which stage is 'my' for"):
        CliRunner().invoke(app, ["check", "my.yaml"], catch_exceptions=False)
    with pytest.raises(FledgeError, match="needs what is not there: documents: nowhere"):
        CliRunner().invoke(app, ["check", "curate", "documents=nowhere"], catch_exceptions=False)
    plain = CliRunner().invoke(app, ["check", "curate", f"documents={tiny / 'documents.jsonl'}"]).stdout
    assert "it trains nothing" in plain


def test_lengths_are_whole_numbers(tiny: Path) -> None:
    assert rehearsed(tiny, "pretrain").lengths.dtype.kind == "i"
    assert isinstance(rehearsed(tiny, "pretrain").lengths, np.ndarray)
