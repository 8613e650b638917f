"""The whole path in about a minute: `fledge raise pydoc --scale smoke`, and what other tools make of what it wrote."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

import fledge
from conftest import offline

MODELS = ("base", "sft", "ppo", "ppo_without_ptx", "base_large")
FIGURES = (
    "truthful", "over_declined", "hallucinated", "declined", "preferred_to_sft", "bits_per_byte", "calibration_error",
)  # fmt: skip


ATTEMPTS = Path(tempfile.mkstemp(prefix="fledge-network-")[1])
ALONE, WATCHED = offline(ATTEMPTS)
FLEDGE = [*ALONE, sys.executable, "-m", "fledge"]
ENVIRONMENT = WATCHED | {"COLUMNS": "120"}


def raise_(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*FLEDGE, "raise", "pydoc", "--scale", "smoke", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900, check=False)


def interrupted(out: Path) -> tuple[int, str]:
    """The same command, which gets a Ctrl-C when it has trained for some steps."""
    command = [*FLEDGE, "raise", "pydoc", "--scale", "smoke", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not (out / ".pretrain.work" / "metrics.jsonl").is_file() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    return process.returncode, said


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("story") / "pydoc"
    code, said = interrupted(out)
    assert code == 130, said[-3000:]
    assert "run the same command again to go on from there" in said
    done = raise_(out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on from step" in done.stderr
    assert "to chat" in done.stderr
    assert "report.html" in done.stderr.replace("\n", "")
    return out


@pytest.mark.timeout(900)
def test_the_report_has_every_figure(run: Path) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    for model in MODELS:
        for figure in FIGURES:
            found = report["models"][model][figure]
            assert set(found) == {"value", "low", "high", "n"}, (model, figure)
            assert found["n"] > 0
    assert set(report["steps"]) >= {"collect", "curate", "pretrain", "sft", "reward", "ppo", "evaluate"}
    assert all(step["seconds"] >= 0 and step["peak_memory"] > 0 for step in report["steps"].values())
    page = (run / "report" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_what_it_wrote_loads_in_transformers(run: Path) -> None:
    transformers = pytest.importorskip("transformers")
    messages = [{"role": "user", "content": "What does json.dumps do?"}]
    for step in ("pretrain", "sft", "ppo"):
        ours = fledge.load(run / step)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(run / step).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(run / step)
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == ours.encode(messages)
        batch = torch.tensor([ids])
        with torch.no_grad():
            torch.testing.assert_close(ours.logits(batch), theirs(batch).logits, atol=1e-4, rtol=0)
    judge = transformers.AutoModelForSequenceClassification.from_pretrained(run / "reward").eval()
    answered = [*messages, {"role": "assistant", "content": "It serialises."}]
    whole = transformers.AutoTokenizer.from_pretrained(run / "reward").apply_chat_template(answered, return_dict=False)
    ended = whole[: len(whole) - whole[::-1].index(judge.config.eos_token_id)]  # up to the end of the turn
    with torch.no_grad():
        raw = float(judge(torch.tensor([ended])).logits)
    expected = raw - judge.config.reward_mean
    assert fledge.load(run / "reward").score([answered])[0] == pytest.approx(expected, abs=1e-4)


def test_the_assistant_answers(run: Path) -> None:
    answers = fledge.load(run).generate([[{"role": "user", "content": "What does json.dumps do?"}]], max_new_tokens=16)
    assert len(answers) == 1
    assert isinstance(answers[0], str)
    chat = [*FLEDGE, "chat", str(run), "--max-new-tokens", "16", "--seed", "3"]
    asked = "What does json.dumps do?\n/undo\n/quit\n"
    talk = subprocess.run(chat, input=asked, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert talk.returncode == 0, talk.stderr
    assert talk.stdout.strip()


@pytest.mark.timeout(900)
def test_a_second_call_does_nothing_and_a_plan_says_so(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("artifact.json")}
    again = raise_(run)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("artifact.json")} == before
    assert "to do" not in raise_(run, "--dry-run").stderr


def test_no_step_asked_for_a_network(run: Path) -> None:
    """The whole recipe ran without one; tests/test_network.py shows that an attempt would have been seen."""
    assert ATTEMPTS.read_text() == ""
