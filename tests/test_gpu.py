"""The same commands on a GPU, which is not there (`gpu.py`): nothing needs another setting, and the figures agree."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fledge
from fledge.cli.main import app
from gpu import gpu

SMALLER = (
    "names=20", "pretrain.tokens=8192", "base_large.tokens=8192", "sft.epochs=1", "reward.epochs=1", "compare.plain=2",
    "questions.prompts_invented=6", "questions.evaluate_forward=6", "questions.evaluate_reverse=3",
    "questions.evaluate_names=3", "questions.evaluate_invented=4", "evaluate.evaluate_documents=3",
)  # fmt: skip
MODELS = {"base", "sft", "ppo", "ppo_without_ptx", "base_large"}


def test_it_refuses_what_a_gpu_refuses() -> None:
    with gpu() as device:
        x, y = torch.randn(3, 4, device="cuda"), torch.randn(3, 4)
        assert x.device == device
        assert (x * 2.0 + y.to("cuda")).device == device
        assert (x[[0, 2]] * torch.tensor(2.0)).shape == (2, 4)
        for mixed in (lambda: x + y, lambda: torch.cat([x, y]), lambda: y[x[:, 0] > 0], lambda: x.index_add_(0, y, x)):
            with pytest.raises(RuntimeError, match=r"same device|on the CPU"):
                mixed()
        with pytest.raises(TypeError, match="to numpy"):
            np.asarray(x)
        with pytest.raises(RuntimeError, match="address"):
            x.data_ptr()
        with torch.autocast("cuda", torch.bfloat16):
            assert (x @ x.T).dtype == torch.bfloat16
            assert (x @ x.T).softmax(-1).dtype == torch.float32
    assert not torch.cuda.is_available()


@pytest.mark.timeout(900)
def test_a_recipe_runs_to_its_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [part for setting in SMALLER for part in ("--set", setting)]
    with gpu():
        done = CliRunner().invoke(app, ["raise", "pydoc", "--scale", "smoke", "--out", str(run), *settings])
    assert done.exit_code == 0, done.output[-3000:]
    for step in ("pretrain", "sft", "reward", "ppo", "ppo_without_ptx", "base_large"):
        summary = json.loads((run / step / "summary.json").read_text())
        assert (summary["device"], summary["dtype"]) == ("cuda:0", "bfloat16"), step
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["models"].keys() == MODELS
    assert report["environment"]["gpu"] == "a GPU that is not there"
    assistant = fledge.load(run, device="cpu")
    with gpu():
        there = fledge.load(run)
        assert next(there.model.parameters()).is_cuda
        ids = torch.tensor([[1, 2, 3, 4]])
        found = there.logits(ids).cpu()
        said = [there.generate(["Return the"], temperature=0, max_new_tokens=8) for _ in range(2)]
    assert said[0] == said[1] != [""]
    torch.testing.assert_close(found, assistant.logits(ids), atol=0.05, rtol=0.05)
