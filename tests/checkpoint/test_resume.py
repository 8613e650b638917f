"""Resume state comes back bit by bit, the damaged is passed over, and a half is never taken for whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.checkpoint.resume import load_state, pack, save_state, saved, unpack
from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer


def equal(a: Any, b: Any) -> bool:
    """The same tree, types and bits included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b)


def step(model: torch.nn.Module, optimizer: Any, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(TREES)
def test_any_tree_survives_json(tree: Any) -> None:
    assert equal(tree, unpack(json.loads(json.dumps(pack(tree, {}))), {}))


def test_tensors_of_every_kind_survive(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tree = {
        "float": base,
        "view": base.T[1:3],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 2),
        "bfloat16": base.bfloat16(),
        "bytes": torch.get_rng_state(),
        "ints": torch.tensor([2**62, -1]),
        "bools": base > 0,
        "nan": torch.tensor([float("inf")]),
        "list": [torch.ones(1), (torch.zeros(1), "x")],
    }
    save_state(tmp_path, tree, 1)
    assert equal(tree, load_state(tmp_path))


def test_what_would_not_come_back_is_refused() -> None:
    for value in (object(), {1, 2}, b"x", {(1, 2): 3}, {"a": {1.5: 1}}):
        with pytest.raises(TypeError, match="cannot be part"):
            pack(value, {})


def test_torchs_adamw_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model = torch.nn.Linear(5, 7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    for i in range(3):
        step(model, optimizer, i)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    assert set(state["optimizer"]["state"]) == {0, 1}
    save_state(tmp_path, state, 3)
    read = load_state(tmp_path)
    assert equal(dict(state["optimizer"]), read["optimizer"])
    again = torch.nn.Linear(5, 7)
    other = torch.optim.AdamW(again.parameters(), lr=0.5)
    again.load_state_dict(read["model"])
    other.load_state_dict(read["optimizer"])
    step(model, optimizer, 9)
    step(again, other, 9)
    assert all(map(torch.equal, model.parameters(), again.parameters()))


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_our_optimizers_go_on_to_the_same_bits(tmp_path: Path, name: str) -> None:
    config = ModelConfig.sized(1, 40, 16)
    model, again = build(config), build(config)
    optimizer, other = (build_optimizer(m, OptimizerConfig(name=name)) for m in (model, again))
    for i in range(3):
        step(model, optimizer, i)
    save_state(tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, 3)
    state = load_state(tmp_path)
    assert equal(optimizer.state_dict(), state["optimizer"])
    again.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    for m, o in ((model, optimizer), (again, other)):
        step(m, o, 9)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert equal(optimizer.state_dict(), other.state_dict())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    assert load_state(tmp_path / "absent") is None
    for number in (2, 10, 100):
        save_state(tmp_path, {"step": number}, number)
    assert [path.name for path in saved(tmp_path)] == ["step-000000010", "step-000000100"]
    assert load_state(tmp_path) == {"step": 100}
    save_state(tmp_path, {"step": 100, "again": True}, 100)
    assert load_state(tmp_path) == {"step": 100, "again": True}


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "a flipped bit": flipped,
    "emptied": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "replaced by null": lambda path: path.write_text("null"),
}


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_passed_over_aloud(tmp_path: Path, file: str, damage: str) -> None:
    for number in (1, 2):
        save_state(tmp_path, {"step": number, "weights": torch.full((40,), float(number))}, number)
    DAMAGES[damage](tmp_path / "step-000000002" / file)
    said: list[str] = []
    state = load_state(tmp_path, said.append)
    assert state is not None
    assert state["step"] == 1
    assert state["weights"].eq(1).all()
    assert len(said) == 1
    assert "step-000000002 is damaged" in said[0]
    DAMAGES[damage](tmp_path / "step-000000001" / file)
    with pytest.raises(FledgeError, match=r"every saved state in .* is damaged") as caught:
        load_state(tmp_path)
    assert f"delete {tmp_path}" in caught.value.remedy


def test_a_state_that_was_not_finished_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, {"step": 1}, 1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fledge.checkpoint.resume.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, {"step": 2}, 2)
    assert load_state(tmp_path) == {"step": 1}


def test_what_a_killed_process_left_is_neither_read_nor_kept(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 1}, 1)
    shutil.copytree(tmp_path / "step-000000001", tmp_path / ".step-000000009.writing")
    assert load_state(tmp_path) == {"step": 1}
    save_state(tmp_path, {"step": 2}, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]


def test_a_full_disk_is_one_clear_line_and_the_last_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, {"step": 1}, 1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fledge.checkpoint.resume.save_file", full)
    with pytest.raises(FledgeError, match="disk is full"):
        save_state(tmp_path, {"step": 2}, 2)
    assert load_state(tmp_path) == {"step": 1}
