"""The best checkpoint beside the last: which one it is, that it loads, that interruptions do not change its bits."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import metrics, stop_after, train, weights

from fledge.checkpoint.directory import load_model
from fledge.core.errors import Stopped
from fledge.stages import reward
from fledge.stages.best import Best
from fledge.stages.reward import ranking_loss

# So high a learning rate that the held-out text gets worse again; rankings do not, so there the sign is turned round.
OVERFIT: dict[str, dict[str, Any]] = {
    "pretrain": {"tokens": 24 * 256, "evaluate_every": 3, "decay": 0.0, "optimizer": {"learning_rate": 1.0}},
    "reward": {"epochs": 4, "heldout": 0.3},
}
FIGURE = {"pretrain": "bits_per_byte", "reward": "heldout_loss"}


@pytest.mark.parametrize("name", list(OVERFIT))
def test_the_best_is_kept_and_survives_an_interruption(
    tiny: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "ranking_loss", lambda found: -ranking_loss(found))
    summary = train(name, tiny, tmp_path / "a", **OVERFIT[name])
    curve = {row["step"]: row[FIGURE[name]] for row in metrics(tmp_path / "a") if FIGURE[name] in row}
    best = min(curve, key=lambda step: (curve[step], step))
    last = max(curve)
    assert best != last, "this test needs a run that gets worse"
    assert summary["best"] == {"step": best, "value": pytest.approx(curve[best]), "last": pytest.approx(curve[last])}
    assert weights(tmp_path / "a" / "best") != weights(tmp_path / "a")
    load_model(tmp_path / "a" / "best")
    assert not (tmp_path / "a" / "resume").exists()

    # Stopped right after the best was written (a later state does not know it yet), and once more after that.
    for stop in (best + 1, last - 1):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(stop, patch, signal.SIGTERM)
            with pytest.raises(Stopped):
                train(name, tiny, tmp_path / "b", **OVERFIT[name])
    assert train(name, tiny, tmp_path / "b", **OVERFIT[name])["best"] == summary["best"]
    assert weights(tmp_path / "b") == weights(tmp_path / "a")
    assert weights(tmp_path / "b" / "best") == weights(tmp_path / "a" / "best")


def test_the_best_is_the_model_of_that_step(tiny: Path, tmp_path: Path) -> None:
    """A run that ends at the best step, under the same schedule, has its weights."""
    settings = OVERFIT["pretrain"] | {"warmup": 0.0}
    best = train("pretrain", tiny, tmp_path / "long", **settings)["best"]["step"]
    shorter = train("pretrain", tiny, tmp_path / "short", **settings | {"tokens": best * 256})
    assert "best" not in shorter  # the last is the best: there is nothing else to keep
    assert not (tmp_path / "short" / "best").exists()
    found, expected = (load_model(tmp_path / place).state_dict() for place in ("long/best", "short"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def write(text: str) -> Any:
    return lambda directory: (directory / "model.safetensors").write_text(text)


def test_older_ones_stay_as_long_as_a_state_knows_them(tmp_path: Path) -> None:
    best = Best(tmp_path)
    best.offer(1, 3.0, write("a"))
    best.after_saving()  # a state that knows step 1
    best.offer(2, 2.0, write("b"))
    best.offer(3, 2.5, write("worse"))
    best.after_saving()  # a state that knows step 2; that of step 1 is still the newest but one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-000000001", "best-000000002"]
    state = json.loads(json.dumps(best.state()))
    (tmp_path / ".best-000000004.writing").mkdir()
    best.after_saving()
    assert [path.name for path in tmp_path.iterdir()] == ["best-000000002"]
    again = Best(tmp_path)
    again.load_state(state)
    again.offer(5, float("nan"), write("nan"))
    assert (again.step, again.value) == (2, 2.0)
    assert again.settle(tmp_path / "out", 2) == ""
    assert not (tmp_path / "out").exists()
    assert again.settle(tmp_path / "out", 5) == ""
    assert (tmp_path / "out" / "best" / "model.safetensors").read_text() == "b"


def test_a_damaged_best_is_never_taken_for_whole(tiny: Path, tmp_path: Path) -> None:
    best = Best(tmp_path)
    (tmp_path / "best-000000001").mkdir()
    for file in (tiny / "base").iterdir():
        (tmp_path / "best-000000001" / file.name).write_bytes(file.read_bytes())
    best.load_state({"step": 1, "value": 1.0})
    (tmp_path / "best-000000001" / "config.json").write_text("{}")
    assert "config.json is damaged" in best.settle(tmp_path / "out", 9)
    assert not (tmp_path / "out").exists()
