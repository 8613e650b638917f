"""DPO as a stage: against transformers, what it learns, what it refuses, what it leaves behind."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fledge.checkpoint.directory import load_model, save_model
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.stages.dpo import DpoConfig, dpo
from fledge.stages.rehearsal import rehearse
from fledge.text.tokenizer import Tokenizer


def run(tiny: Path, out: Path, **changes: Any) -> dict[str, Any]:
    out.mkdir()
    return dpo(settings(tiny, **changes), out, Log(out, quiet=True))


def settings(tiny: Path, **changes: Any) -> DpoConfig:
    given: dict[str, Any] = {
        "model": tiny / "base", "comparisons": tiny / "comparisons.jsonl", "length": 64, "heldout": 0.2,
        "tokens_per_step": 2048, "prompts_per_step": 10, "dtype": "float32", "log_every": 1,
    }  # fmt: skip
    return make_config(DpoConfig, given | changes, "the test")


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def pairs_file(tiny: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (tiny / "comparisons.jsonl").read_text().splitlines()][:12]
    pairs = [{"prompt": r["prompt"], "chosen": r["completions"][0], "rejected": r["completions"][3]} for r in rows]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return file, pairs


def logprob(model: Any, tokenizer: Any, prompt: list[dict[str, str]], answer: str) -> torch.Tensor:
    """log π of one answer and its end of turn, by transformers, one sequence at a time."""
    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    said = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([start + said])
    logprobs = model(ids).logits[0].log_softmax(-1)
    return logprobs[len(start) - 1 : -1].gather(1, ids[0, len(start) :, None]).sum()


@pytest.mark.parametrize("form", ["sigmoid", "ipo"])
def test_the_loss_is_that_of_transformers(tiny: Path, tmp_path: Path, form: str) -> None:
    """A model and another one as the reference: the first loss and gradient norm, computed with their classes."""
    file, pairs = pairs_file(tiny, tmp_path)
    other, tokenizer = load_model(tiny / "base"), Tokenizer.load(tiny / "base")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)), alpha=0.05)
    save_model(other, tmp_path / "reference", tokenizer=tokenizer)
    run(
        tiny, tmp_path / "out", comparisons=file, reference=tmp_path / "reference", heldout=0.0, prompts_per_step=12,
        beta=0.4, loss=form, tokens_per_microbatch=512, label_smoothing=0.2 if form == "sigmoid" else 0.0,
    )  # fmt: skip
    policy, reference = (
        transformers.AutoModelForCausalLM.from_pretrained(path).eval()
        for path in (tiny / "base", tmp_path / "reference")
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tiny / "base")
    losses = []
    for pair in pairs:
        chosen, rejected = (
            logprob(policy, theirs, pair["prompt"], pair[side]) - logprob(reference, theirs, pair["prompt"], pair[side])
            for side in ("chosen", "rejected")
        )
        z = chosen - rejected
        smoothed = -0.8 * torch.sigmoid(0.4 * z).log() - 0.2 * torch.sigmoid(-0.4 * z).log()
        losses.append((z - 1.25).square() if form == "ipo" else smoothed)
    loss = torch.stack(losses).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    first = metrics(tmp_path / "out")[0]
    assert first["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert first["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


def test_it_learns_what_is_preferred(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(tiny, out, epochs=12, optimizer={"name": "adamw", "learning_rate": 3e-3}, beta=0.5)
    found = metrics(out)
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are one at first
    assert abs(found[0]["margin"]) < 1e-3
    assert found[-1]["accuracy"] > 0.8
    assert found[-1]["chosen_shift"] > found[-1]["rejected_shift"] + 1
    assert summary["accuracy"]["value"] > 0.7
    assert summary["margin"] == pytest.approx(0.5 * (summary["chosen_shift"] - summary["rejected_shift"]), rel=1e-4)
    assert json.loads((out / "dpo.json").read_text())["accuracy"] == summary["accuracy"]
    assert transformers.AutoModelForCausalLM.from_pretrained(out).config.vocab_size == 320


def test_smoothing_keeps_the_margin_smaller(tiny: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"epochs": 12, "optimizer": {"name": "adamw", "learning_rate": 3e-3}, "beta": 0.5}
    sure = run(tiny, tmp_path / "sure", **common)
    unsure = run(tiny, tmp_path / "unsure", label_smoothing=0.3, **common)
    assert unsure["margin"] < 0.7 * sure["margin"]


def test_what_it_refuses(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="label_smoothing means nothing to the ipo loss"):
        run(tiny, tmp_path / "a", loss="ipo", label_smoothing=0.1)
    with pytest.raises(FledgeError, match="no comparisons are left to train on"):
        run(tiny, tmp_path / "b", heldout=1.0)
    with pytest.raises(FledgeError, match=r"40 of 40 comparisons are longer than 8 tokens"):
        run(tiny, tmp_path / "c", length=8)
    with pytest.raises(FledgeError, match="is a reward model, it has no language head"):
        run(tiny, tmp_path / "d", model=tiny / "reward")
    with pytest.raises(FledgeError, match="'beta' in the test"):
        run(tiny, tmp_path / "e", beta=0)


def test_check_shows_the_answers_as_supervised(tiny: Path) -> None:
    found = rehearse("dpo", settings(tiny), Log(quiet=True))
    assert found is not None
    said = "".join(token.text for token in found.rows[0] if token.supervised and token.document == 1)
    assert said.endswith("<|im_end|>")
    assert said.startswith(("At ", "In "))
    assert 0.1 < found.figures["sources"]["answers"]["supervised_share"] < 0.9
