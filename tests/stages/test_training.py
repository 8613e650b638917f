"""Training that is stopped and goes on ends in the same bytes as training that was left in peace."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.checkpoint import checkpoint

from fledge.core.config import make_config
from fledge.core.errors import FledgeError, Stopped
from fledge.core.log import Log
from fledge.model import transformer
from fledge.recipes.artifact import make
from fledge.stages import load_stage
from fledge.stages.session import Session
from gpu import gpu

COMMON = {"length": 64, "tokens_per_step": 256, "tokens_per_microbatch": 128, "save_seconds": 1e9, "log_every": 1}
SETTINGS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "pretrain": lambda tiny: {
        "documents": tiny / "documents.jsonl", "heldout": tiny / "heldout.jsonl", "tokenizer": tiny / "tokenizer",
        "depth": 1, "context": 128, "tokens": 8 * 256, "evaluate_every": 2,
    },
    "sft": lambda tiny: {
        "model": tiny / "base", "demonstrations": tiny / "demonstrations.jsonl", "documents": tiny / "documents.jsonl",
        "epochs": 2,
    },
    "reward": lambda tiny: {
        "model": tiny / "base", "comparisons": tiny / "comparisons.jsonl",
        "demonstrations": tiny / "demonstrations.jsonl", "epochs": 2, "prompts_per_step": 8, "heldout": 0.2,
    },
    "dpo": lambda tiny: {
        "model": tiny / "base", "comparisons": tiny / "comparisons.jsonl", "epochs": 2, "prompts_per_step": 8,
        "heldout": 0.2,
    },
    "ppo": lambda tiny: {
        "policy": tiny / "base", "reward": tiny / "reward", "prompts": tiny / "prompts.jsonl",
        "documents": tiny / "documents.jsonl", "iterations": 3, "max_new_tokens": 8, "ptx_tokens": 64,
        "sample_every": 1, "samples": 2,
        "rollouts": {"answers_per_iteration": 8, "epochs": 1, "minibatches": 2, "ptx_coefficient": 0.5},
    },
}  # fmt: skip


def train(name: str, tiny: Path, directory: Path, **changes: Any) -> dict[str, Any]:
    stage = load_stage(name)
    config = make_config(stage.config, COMMON | SETTINGS[name](tiny) | changes, where="the test")
    return make(name, config, directory, "mark", Log(quiet=True))


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def metrics(directory: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k and "per_second" not in k} for row in rows]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch, with_signal: int) -> None:
    """Sends this process a signal in the middle of the step numbered `step`, once."""
    note = Session.note

    def noted(session: Session, done: Any, bar: Any) -> None:
        note(session, done, bar)
        if done.number + 1 == step:
            os.kill(os.getpid(), with_signal)

    monkeypatch.setattr(Session, "note", noted)


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Run A of each stage, made once."""
    done: dict[str, tuple[Path, dict[str, Any]]] = {}

    def run(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in done:
            directory = tmp_path_factory.mktemp("undisturbed") / name
            done[name] = (directory, train(name, tiny, directory))
        return done[name]

    return run


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_stopped_and_run_again(
    name: str, with_signal: int, undisturbed: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, summary = undisturbed(name)
    directory = tmp_path / name
    with monkeypatch.context() as patch:
        stop_after(3, patch, with_signal)
        with pytest.raises(
            Stopped, match=r"stopped after step \d of \d+; saved up to step [34]\n.*run the same command"
        ):
            train(name, tiny, directory)
    assert not directory.exists()
    again = train(name, tiny, directory)

    assert weights(directory) == weights(expected)
    assert metrics(directory) == metrics(expected)
    assert again["tokens"] == summary["tokens"]
    assert not (directory / "resume").exists()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if name == "ppo":
        assert (directory / "samples.jsonl").read_bytes() == (expected / "samples.jsonl").read_bytes()


def test_stopped_at_the_last_step_keeps_its_figures(
    undisturbed: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, summary = undisturbed("pretrain")
    with monkeypatch.context() as patch:
        stop_after(summary["steps"], patch, signal.SIGTERM)
        with pytest.raises(Stopped):
            train("pretrain", tiny, tmp_path / "pretrain")
    again = train("pretrain", tiny, tmp_path / "pretrain")
    assert weights(tmp_path / "pretrain") == weights(expected)
    assert again["bits_per_byte"] == summary["bits_per_byte"]


@pytest.mark.parametrize("name", ["sft", "ppo"])
def test_gradient_checkpointing_trains_the_same_weights(
    name: str, undisturbed: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = undisturbed(name)
    calls: list[object] = []

    def watched(block: Any, *inputs: Any, **options: Any) -> Any:
        calls.append(block)
        return checkpoint(block, *inputs, **options)

    monkeypatch.setattr(transformer, "checkpoint", watched)
    train(name, tiny, tmp_path / name, gradient_checkpointing=True)
    assert calls
    assert weights(tmp_path / name) == weights(expected)


def test_a_second_interrupt_stops_at_once(
    undisturbed: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves a measured step that was not saved: that step is done, and written down, once more."""
    expected, _ = undisturbed("pretrain")
    note = Session.note

    def impatient(session: Session, done: Any, bar: Any) -> None:
        note(session, done, bar)
        if done.number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "note", impatient)
        with pytest.raises(KeyboardInterrupt):
            train("pretrain", tiny, tmp_path / "pretrain", save_seconds=0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert metrics(tmp_path / ".pretrain.work")[-1]["step"] == 4
    train("pretrain", tiny, tmp_path / "pretrain", save_seconds=0)
    assert weights(tmp_path / "pretrain") == weights(expected)
    assert metrics(tmp_path / "pretrain") == metrics(expected)


def test_a_damaged_state_is_passed_over(
    undisturbed: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = undisturbed("sft")
    directory = tmp_path / "sft"
    with monkeypatch.context() as patch:
        stop_after(4, patch, signal.SIGTERM)
        with pytest.raises(Stopped):
            train("sft", tiny, directory, save_seconds=0)
    states = sorted((tmp_path / ".sft.work" / "resume").iterdir())
    assert len(states) == 2
    newest = states[-1] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    train("sft", tiny, directory, save_seconds=0)
    assert weights(directory) == weights(expected)


def test_killed_between_saves(undisturbed: Any, tiny: Path, tmp_path: Path) -> None:
    """A process that got SIGKILL leaves something that the same command goes on from, to the same bytes."""
    expected, _ = undisturbed("pretrain")
    settings = COMMON | SETTINGS["pretrain"](tiny) | {"save_seconds": 0}
    command = [sys.executable, "-m", "fledge", "pretrain", *(f"{k}={v}" for k, v in settings.items())]
    command += ["--out", str(tmp_path / "pretrain")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    resume = tmp_path / ".pretrain.work" / "resume"
    deadline = time.monotonic() + 120
    while not list(resume.glob("step-*[2-6]")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the process was done before it could be killed"
    assert not (tmp_path / "pretrain").exists()

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert weights(tmp_path / "pretrain") == weights(expected)
    assert metrics(tmp_path / "pretrain") == metrics(expected)


def test_killed_before_the_rename(
    undisturbed: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole work that only lacked its last rename is not done again."""
    expected, summary = undisturbed("sft")

    def killed(work: Path, directory: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fledge.recipes.artifact.install", killed)
        with pytest.raises(KeyboardInterrupt):
            train("sft", tiny, tmp_path / "sft")
    monkeypatch.setattr("fledge.recipes.artifact.load_stage", lambda name: pytest.fail("it was done again"))
    again = train("sft", tiny, tmp_path / "sft")
    assert again["tokens"] == summary["tokens"]
    assert weights(tmp_path / "sft") == weights(expected)


def test_a_failed_step_names_the_last_good_state(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(FledgeError) as caught:
        train("pretrain", tiny, tmp_path / "early", optimizer={"learning_rate": 1e38}, warmup=0)
    assert "nothing had been saved before" in caught.value.message
    with pytest.raises(FledgeError) as caught:
        train("pretrain", tiny, tmp_path / "late", optimizer={"learning_rate": 1e38}, warmup=0, save_seconds=0)
    assert f"the last good state is step 1 in {tmp_path / '.late.work' / 'resume'}" in caught.value.message
    assert (tmp_path / ".late.work" / "resume" / "step-000000001").is_dir()


def test_settings_that_change_start_anew(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(3, patch, signal.SIGTERM)
        with pytest.raises(Stopped):
            train("pretrain", tiny, tmp_path / "pretrain")
    stage = load_stage("pretrain")
    config = make_config(stage.config, COMMON | SETTINGS["pretrain"](tiny) | {"seed": 5}, where="the test")
    make("pretrain", config, tmp_path / "pretrain", "another mark", Log(quiet=True))
    train("pretrain", tiny, tmp_path / "other", seed=5)
    assert weights(tmp_path / "pretrain") == weights(tmp_path / "other")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_gpu_learns_the_same(name: str, tiny: Path, tmp_path: Path) -> None:
    """In float32, with every setting as it is."""
    train(name, tiny, tmp_path / "cpu", dtype="float32")
    with gpu():
        assert train(name, tiny, tmp_path / "gpu", dtype="float32")["device"] == "cuda:0"
    here, there = ([row["loss"] for row in metrics(tmp_path / device) if "loss" in row] for device in ("cpu", "gpu"))
    assert len(here) > 2
    assert there == pytest.approx(here, rel=1e-3)
