"""The same commands on a GPU, which is not there (`gpu.py`): nothing needs another setting, and the figures agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fledge
from fledge.cli.main import app
from fledge.generate.beam import BeamConfig, beam_search
from fledge.generate.decoding import decoding_of
from fledge.generate.engine import Engine
from fledge.generate.live import LiveEngine
from fledge.generate.packed import packed
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, build
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


def requests() -> list[Request]:
    ways = (Sampling(), Sampling(temperature=0), Sampling(top_p=0.8, repetition_penalty=1.2, presence_penalty=0.3))
    return [Request([5 + i, 6, 7 + i][: 1 + i % 3], 6 + i, ways[i % 3], seed=i) for i in range(7)]


def decoder() -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 16, "hidden": 48}
    model = LanguageModel(ModelConfig(**sizes, context=64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.25)
    return model.eval()


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16], ids=str)
def test_the_engine_writes_the_same(dtype: torch.dtype | None) -> None:
    def run(model: LanguageModel) -> list[Any]:
        return Engine(model, max_batch=3, dtype=dtype).run(requests())

    expected = run(decoder())
    with gpu() as device:
        found = run(decoder().to(device))
    if dtype == torch.bfloat16:  # a processor sums in another order, so a token may fall otherwise
        assert [len(completion.ids) for completion in found] == [len(completion.ids) for completion in expected]
        return
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16], ids=str)
def test_the_live_engine_writes_the_same(dtype: torch.dtype | None) -> None:
    def run(model: LanguageModel) -> dict[int, list[int]]:
        engine = LiveEngine(model if dtype is None else packed(model, dtype), max_batch=3)
        tickets = [engine.submit(request) for request in requests()]
        ids: dict[int, list[int]] = {ticket: [] for ticket in tickets}
        while engine.busy:
            for update in engine.step():
                ids[update.ticket] += [scored.token for scored in update.tokens]
        return ids

    expected = run(decoder())
    with gpu() as device:
        found = run(decoder().to(device))
    assert found.keys() == expected.keys()
    if dtype != torch.bfloat16:
        assert found == expected


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder"])
def test_beams_find_the_same(shape: str) -> None:
    def search(model: Any) -> list[list[list[int]]]:
        prompts = [[1, 2, 3], [4], [5, 6]] if shape == "decoder" else [[3], [3], [3]]
        sources = None if shape == "decoder" else [[1, 2, 7], [8], [9, 10, 4]]
        decoding = decoding_of(model, prompts, 5, sources)
        lists = beam_search(decoding, 2, ends=[0], max_new_tokens=5, config=BeamConfig(beams=4))
        return [[list(hypothesis.ids) for hypothesis in found] for found in lists]

    torch.manual_seed(1)
    sizes: dict[str, Any] = {"vocab_size": 30, "width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 8}
    model = build(ModelConfig(**sizes, hidden=24, context=32, shape=shape)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.6)
    expected = search(model)
    with gpu() as device:
        assert search(model.to(device)) == expected
