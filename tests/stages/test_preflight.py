"""Every preflight check: what it refuses, in which words, and what it lets through."""

import copy
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fledge.checkpoint.directory import load_model, save_model
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.data.packing import Example
from fledge.generate.engine import Engine
from fledge.model.config import ModelConfig
from fledge.stages import load_stage, preflight
from fledge.stages.examples import answer_ids, conversation_examples
from fledge.stages.session import TrainConfig
from fledge.stages.sft import read_conversations
from fledge.text.tokenizer import Tokenizer

QUIET = Log(quiet=True)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(tiny / "tokenizer")


def example(ids: list[int], supervised: list[int] | None = None) -> Example:
    mask = np.ones(len(ids), bool) if supervised is None else np.isin(np.arange(len(ids)), supervised)
    return Example(np.array(ids, np.int32), mask)


def refused(check: Any, *arguments: Any, **named: Any) -> tuple[str, str]:
    with pytest.raises(FledgeError) as caught:
        check(*arguments, **named)
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.remedy


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer.spec, tokenizer.config, template)


def test_a_sound_tokenizer(tokenizer: Tokenizer) -> None:
    preflight.check_tokenizer(tokenizer)


def test_padding_that_is_the_end_of_turn(tokenizer: Tokenizer) -> None:
    same = Tokenizer(tokenizer.spec, tokenizer.config | {"pad_token": "<|im_end|>"}, tokenizer.chat_template)
    assert refused(preflight.check_tokenizer, same) == (
        "the pad token is the end-of-turn token: its loss would be masked and the model would never stop",
        "give the tokenizer a pad token of its own",
    )


def test_text_that_would_become_a_special_token(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    parsing = copy.copy(tokenizer)
    monkeypatch.setattr(parsing, "encode", parsing.encode_special, raising=False)
    assert refused(preflight.check_tokenizer, parsing) == (
        "the tokenizer turns text that spells a special token into one: users could forge turns",
        "take those tokens out of its vocabulary, they belong into added_tokens",
    )


def test_a_template_that_marks_nothing(tokenizer: Tokenizer) -> None:
    template = re.sub(r"\{%-? (end)?generation -?%\}", "", tokenizer.chat_template)
    assert refused(preflight.check_tokenizer, with_template(tokenizer, template)) == (
        "the chat template marks nothing as the assistant's: training on it would learn nothing",
        "put {% generation %} … {% endgeneration %} around the assistant's turn in chat_template.jinja",
    )


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}"
    "INSIDE{% endgeneration %}OUTSIDE\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}PROMPT{% endif %}"
)


def filled(inside: str, outside: str, prompt: str) -> str:
    return TEMPLATE.replace("INSIDE", inside).replace("OUTSIDE", outside).replace("PROMPT", prompt)


def test_the_template_of_these_tests_is_sound_when_filled_well(tokenizer: Tokenizer) -> None:
    good = filled("<|im_end|>", "", "<|im_start|>assistant\n")
    preflight.check_tokenizer(with_template(tokenizer, good))


def test_an_end_of_turn_that_is_not_learnt(tokenizer: Tokenizer) -> None:
    bad = filled("", "<|im_end|>", "<|im_start|>assistant\n")
    assert refused(preflight.check_tokenizer, with_template(tokenizer, bad)) == (
        "the end-of-turn token is not inside the template's {% generation %} block: the model would never stop",
        "move the end-of-turn token before {% endgeneration %}",
    )


def test_a_prompt_that_is_rendered_otherwise(tokenizer: Tokenizer) -> None:
    bad = filled("<|im_end|>", "", "<|im_start|>Assistant: ")
    assert refused(preflight.check_tokenizer, with_template(tokenizer, bad)) == (
        "the chat template renders a prompt for generation differently from the same prompt in training",
        "make the add_generation_prompt branch equal to the start of an assistant turn",
    )


def test_rows_without_anything_supervised() -> None:
    rows = [example([1, 2]), example([1, 2, 3], []), example([4], [])]
    assert refused(preflight.check_examples, rows, 8, False, "demonstrations", QUIET) == (
        "2 of 3 demonstrations have no supervised token (the first is number 2)",
        "every row needs something that the assistant says; remove rows without",
    )


def test_no_rows_at_all() -> None:
    assert refused(preflight.check_examples, [], 8, False, "demonstrations", QUIET) == (
        "there are no demonstrations to train on",
        "check the data file and its columns",
    )


def test_rows_that_are_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    """They are never cut: a cut could take the answer away. Left out only when that is asked for, and then said."""
    rows = [example([1] * 5), example([1] * 9), example([1] * 12)]
    assert refused(preflight.check_examples, rows, 8, False, "demonstrations", QUIET) == (
        "2 of 3 demonstrations are longer than 8 tokens (the longest 12)",
        "set length=12, or drop_long=true to leave them out",
    )
    assert refused(preflight.check_examples, rows[1:], 8, True, "demonstrations", QUIET) == (
        "all 2 demonstrations are longer than 8 tokens",
        "set length=12",
    )
    assert preflight.check_examples(rows, 8, True, "demonstrations", Log()) == rows[:1]
    assert "left out 2 of 3 demonstrations: longer than 8 tokens" in capsys.readouterr().err


def test_marks_that_are_doubled(tokenizer: Tokenizer) -> None:
    end, mark = tokenizer.eos_id, tokenizer.document_id
    assert refused(preflight.check_marks, [example([7, end]), example([7, end, end])], tokenizer, "rows") == (
        "the end-of-turn token is doubled in 1 rows (the first is number 2)",
        "the text was marked already: give the plain text",
    )
    assert refused(preflight.check_marks, [example([mark, mark, 7, mark])], tokenizer, "rows")[0] == (
        "the document mark is doubled in 1 rows (the first is number 1)"
    )


def test_supervised_text_without_an_end(tokenizer: Tokenizer) -> None:
    rows = [example([7, tokenizer.eos_id, 9], [0, 1]), example([7, 8, tokenizer.eos_id], [0, 1])]
    assert refused(preflight.check_marks, rows, tokenizer, "demonstrations") == (
        "1 demonstrations end without an end mark (the first is number 2)",
        "the model would never learn to stop: check the chat template",
    )


def test_real_demonstrations_pass(tiny: Path, tokenizer: Tokenizer) -> None:
    examples = conversation_examples(read_conversations(tiny / "demonstrations.jsonl", QUIET), tokenizer)
    preflight.check_marks(examples, tokenizer, "demonstrations")
    assert len(preflight.check_examples(examples, 128, False, "demonstrations", QUIET)) == 40


def test_evaluation_text_in_the_training_data() -> None:
    train = ["The zebra  sleeps.", "A lion.", "An otter."]
    assert refused(preflight.check_contamination, train, ["the ZEBRA\nsleeps.", "a heron"], "held-out documents") == (
        "1 held-out documents are in the training data too, e.g. 'the ZEBRA\\nsleeps.'",
        "remove them from one side: a result on them would say nothing",
    )
    preflight.check_contamination(train, ["a heron"], "held-out documents")


def test_a_reward_at_the_wrong_place(tokenizer: Tokenizer) -> None:
    good = answer_ids(tokenizer, [Message("user", "ping")], "pong")
    preflight.check_reward_position([good], tokenizer)
    for bad in (good[:-1], [*good, tokenizer.pad_id], [tokenizer.pad_id, *good]):
        assert refused(preflight.check_reward_position, [good, bad], tokenizer) == (
            "1 sequences do not end with the end-of-turn token, where the reward is read",
            "render answers with the chat template, without padding",
        )


def test_rows_longer_than_the_context() -> None:
    shape = ModelConfig.sized(1, 300, 128)
    preflight.check_length(128, shape)
    assert refused(preflight.check_length, 129, shape) == (
        "rows of length=129 are longer than the model's context of 128",
        "set length=128, or pretrain a model with context=129",
    )


def test_prompts_that_leave_no_room_for_the_answer() -> None:
    prompts = [[1] * 10, [1] * 20, [1] * 30]
    assert preflight.check_prompts(prompts, 8, 38, False, QUIET) == prompts
    assert preflight.check_prompts(prompts, 8, 24, True, QUIET) == prompts[:1]
    assert refused(preflight.check_prompts, prompts, 8, 24, False, QUIET) == (
        "2 of 3 prompts do not fit into 24 tokens with 8 new ones",
        "set length=38, lower max_new_tokens, or drop_long=true to leave them out",
    )


def test_memory_that_will_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(tokens_per_microbatch=8192, length=256, device="cpu")
    message, remedy = refused(preflight.check_memory, ModelConfig.sized(200, 50_000, 512), config, QUIET)
    assert re.fullmatch(
        r"training 393,697\.3 M parameters on micro-batches of 8,192 tokens would take about "
        r"\d+,\d+\.\d GiB and \d[\d,]*\.\d GiB are free",
        message,
    )
    assert remedy == "lower tokens_per_microbatch, length or the model's depth"
    monkeypatch.setattr(preflight, "free_memory", lambda device: 2 << 30)
    small, config = ModelConfig.sized(8, 4096, 512), config.model_copy(update={"dtype": "float32"})
    assert preflight.check_memory(small, config.model_copy(update={"tokens_per_microbatch": 512}), QUIET) < 1 << 30
    config = config.model_copy(update={"tokens_per_microbatch": 4096})
    message, remedy = refused(preflight.check_memory, small, config, QUIET)
    assert "and 2.0 GiB are free" in message
    assert remedy == "set gradient_checkpointing=true, or lower tokens_per_microbatch, length or the model's depth"
    saving = config.model_copy(update={"gradient_checkpointing": True})
    one = preflight.check_memory(small, saving, QUIET)
    refused(preflight.check_memory, small, saving, QUIET, models=2)
    monkeypatch.setattr(preflight, "free_memory", lambda device: 8 << 30)
    assert 1.9 < preflight.check_memory(small, saving, QUIET, models=2) / one < 2.1
    held = preflight.check_memory(small, saving, QUIET, copies=3) - one
    assert held == pytest.approx(3 * 4 * small.parameters(), rel=0.01)


@pytest.mark.parametrize(
    "how", ["'float32', False", "'float32', True", "'bfloat16', False", "'float32', False, depth=6"]
)
def test_the_estimate_of_memory_is_not_far_from_what_training_holds(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    held, estimate = importlib.import_module("bench_memory").measured(f"train({how})")
    assert 0.9 * held < estimate < 2.5 * held


def test_weights_that_are_not_finite(tiny: Path) -> None:
    model = load_model(tiny / "base")
    preflight.check_finite(model, "base")
    with torch.no_grad():
        model.backbone.norm.weight[3] = float("nan")
    message, remedy = refused(preflight.check_finite, model, "runs/base")
    assert message.startswith("runs/base holds NaN or infinity in backbone.")
    assert remedy == "go back to an earlier checkpoint"


def run_ppo(tiny: Path, out: Path, **changes: Any) -> dict[str, Any]:
    stage = load_stage("ppo")
    settings = {
        "policy": tiny / "base", "reward": tiny / "reward", "prompts": tiny / "prompts.jsonl", "iterations": 1,
        "length": 64, "tokens_per_step": 256, "max_new_tokens": 8, "dtype": "float32",
        "rollouts": {"answers_per_iteration": 8, "epochs": 1, "minibatches": 2, "logprob_tolerance": 1e-4},
    }  # fmt: skip
    out.mkdir()
    return stage.run(make_config(stage.config, settings | changes, "the test"), out, QUIET)


def test_rollouts_by_another_model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the engine and the trainer agree to 1e-4 nats; an engine with other weights is found out at once."""
    assert run_ppo(tiny, tmp_path / "same")["last"]["logprob_disagreement"] < 1e-4

    def stale(model: Any, tokenizer: Tokenizer, **named: Any) -> Engine:
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        return Engine(other, tokenizer, **named)

    monkeypatch.setattr("fledge.stages.reinforcing.Engine", stale)
    message, remedy = refused(run_ppo, tiny, tmp_path / "other")
    assert message.startswith("rollout and training log-probs disagree by 0.")
    assert "nats per token (tolerance 0.0001)" in message
    assert remedy == "sample with the very weights that are trained, in the same precision"


@pytest.mark.parametrize("model", ["base", "reward"])
def test_ppo_refuses_broken_weights(tiny: Path, tmp_path: Path, model: str) -> None:
    broken = load_model(tiny / model)
    with torch.no_grad():
        broken.backbone.norm.weight[0] = float("inf")
    save_model(broken, tmp_path / "broken", tokenizer=Tokenizer.load(tiny / model))
    where = {"policy" if model == "base" else "reward": tmp_path / "broken"}
    assert refused(run_ppo, tiny, tmp_path / "out", **where)[0].startswith(f"{tmp_path / 'broken'} holds NaN or inf")


def test_questions_that_were_demonstrated(tiny: Path, tmp_path: Path) -> None:
    """An evaluation on what training showed would say nothing: that holds for every turn of a demonstration."""
    turns = [
        {"role": "user", "content": "Where is the zebra?"},
        {"role": "assistant", "content": "At the river."},
        {"role": "user", "content": "And the lion?"},
        {"role": "assistant", "content": "There too."},
    ]
    (tmp_path / "shots.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    stage = load_stage("evaluate")

    def run(prompt: list[dict[str, str]], **columns: Any) -> dict[str, Any]:
        row = {"prompt": prompt, "kind": "forward", "name": "a", "truth": "b", "split": "invented"} | columns
        row = {key: value for key, value in row.items() if value is not None}
        (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
        settings = {"questions": tmp_path / "questions.jsonl", "shots": tmp_path / "shots.jsonl", "max_new_tokens": 4}
        config = make_config(stage.config, settings | {"models": {"sft": tiny / "base"}}, "the test")
        return stage.run(config, tmp_path, QUIET)

    for seen in (turns[:1], turns[:3]):
        message, remedy = refused(run, seen)
        assert message.startswith("1 questions are in the training data too, e.g. ")
        assert remedy == "remove them from one side: a result on them would say nothing"
    assert refused(run, turns[2:3], kind=None) == (
        f"{tmp_path / 'questions.jsonl'} has no column 'kind'",
        "give the evaluation.jsonl of `questions`",
    )
    assert run(turns[2:3])["models"]["sft"]
