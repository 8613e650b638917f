"""Muon against torch's own and against the singular value decomposition; the state across a save."""

import copy

import pytest
import torch
from tiny_models import Tiny, text_batch
from torch import nn

from fledge.core.errors import FledgeError
from fledge.objectives import next_token
from fledge.train import optimizers
from fledge.train.loop import fit
from fledge.train.optimizers import Muon, OptimizerConfig, Optimizers, build, orthogonalise


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(24, 16 + 8 + 8, bias=False), nn.Linear(16, 24, bias=False)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(24, 2 * 40, bias=False), nn.Linear(40, 24, bias=False)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.feedforward, self.norm = Attention(), FeedForward(), nn.RMSNorm(24)


class Shape(nn.Module):
    """Only the parameters of a decoder, named as they are in fledge."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 24)
        self.blocks = nn.ModuleList([Layer(), Layer()])
        self.score = nn.Linear(24, 1, bias=False)


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def parts(built: Optimizers) -> tuple[Muon, torch.optim.AdamW]:
    muon, adamw = built.optimizers
    assert isinstance(muon, Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    return muon, adamw


def test_every_parameter_has_one_optimizer_and_fused_projections_their_pieces() -> None:
    model = Shape()
    built = build(model, OptimizerConfig(embedding_factor=0.5, learning_rate=0.01))
    muon, adamw = parts(built)
    assert muon.rows == [(16, 8, 8), (24,), (40, 40), (24,)] * 2
    names = {p: n for n, p in model.named_parameters()}
    grouped = [[names[p] for p in g["params"]] for g in adamw.param_groups]
    assert grouped == [["embedding.weight", "score.weight"], ["blocks.0.norm.weight", "blocks.1.norm.weight"]]
    assert [g["lr"] for g in built.param_groups] == [0.01, 0.005, 0.01]
    total = sum(len(g["params"]) for g in built.param_groups)
    assert total == len(list(model.parameters()))
    plain = build(model, OptimizerConfig(name="adamw"))
    assert [g["weight_decay"] for g in plain.param_groups] == [0.1, 0.0, 0.0]
    assert sum(len(g["params"]) for g in plain.param_groups) == total


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape), torch.randn(shape) * 1e3]
    for matrix, found in zip(matrices, orthogonalise(matrices)):
        u, before, v = torch.linalg.svd(matrix, full_matrices=False)
        values = (u.T @ found.float() @ v.T).diagonal()
        assert values[before > 0.05 * before[0]].min() > 0.6
        assert values.max() < 1.3
        rest = u.T @ found.float() @ v.T - values.diag()
        assert rest.abs().max() < 0.1


def test_equals_torch_muon_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "fast_bfloat16", lambda device: True)  # torch's own is in bfloat16
    torch.manual_seed(0)
    start = torch.randn(32, 24)
    fused = nn.Parameter(start.clone())
    pieces = [nn.Parameter(piece.clone()) for piece in start.split((16, 8, 8))]
    mine = Muon([fused], [(16, 8, 8)], learning_rate=0.02, momentum=0.6, weight_decay=0.1)
    theirs = torch.optim.Muon(pieces, lr=0.02, momentum=0.6, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        fused.grad = torch.randn_like(fused)
        for p, g in zip(pieces, fused.grad.split((16, 8, 8))):
            p.grad = g.clone()
        mine.step()
        theirs.step()
    expected = torch.cat([p.detach() for p in pieces]) - start
    assert (fused.detach() - start - expected).norm() < 0.02 * expected.norm()


def test_float32_without_fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "fast_bfloat16", lambda device: False)
    assert orthogonalise([torch.randn(4, 5)])[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_survives_a_save_to_the_bit(name: str) -> None:
    config = OptimizerConfig(name=name)
    model = Shape()
    first = build(model, config)
    for seed in range(2):
        give_gradients(model, seed)
        first.step()
    saved = copy.deepcopy((model.state_dict(), first.state_dict()))
    assert set(saved[1]) == {n for n, _ in model.named_parameters()}
    other = Shape()
    other.load_state_dict(saved[0])
    second = build(other, config)
    second.load_state_dict(saved[1])
    for seed in range(2, 4):
        for m, o in ((model, first), (other, second)):
            give_gradients(m, seed)
            o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_a_state_of_another_model_is_refused() -> None:
    with pytest.raises(FledgeError, match=r"another model.*nothing\.weight"):
        build(Shape(), OptimizerConfig()).load_state_dict({"nothing.weight": {}})


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_module_may_have_a_rate_of_its_own(name: str) -> None:
    def moved(factors: dict[str, float]) -> dict[str, float]:
        both = nn.ModuleDict({"policy": Shape(), "critic": Shape()})
        before = {n: p.detach().clone() for n, p in both.named_parameters()}
        optimizer = build(both, OptimizerConfig(name=name, learning_rate=1e-4, weight_decay=0.0, factors=factors))
        give_gradients(both, 0)
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 1e-4
        return {n: float((p.detach() - before[n]).norm()) for n, p in both.named_parameters()}

    plain, faster = moved({}), moved({"critic": 5})
    for parameter, distance in plain.items():
        expected = distance * (5 if parameter.startswith("critic.") else 1)
        assert faster[parameter] == pytest.approx(expected, rel=2e-2), parameter


def test_a_factor_for_no_module_is_refused() -> None:
    with pytest.raises(FledgeError, match="no module's name begins so"):
        build(Shape(), OptimizerConfig(factors={"critc": 5}))


def test_frozen_parameters_and_parameters_without_gradient_are_left_alone() -> None:
    model = Shape()
    model.blocks[0].requires_grad_(False)
    built = build(model, OptimizerConfig())
    give_gradients(model, 0)
    model.blocks[1].attention.out.weight.grad = None
    before = copy.deepcopy(model.state_dict())
    built.step()
    changed = {n for n, p in model.state_dict().items() if not torch.equal(p, before[n])}
    expected = {n for n in before if not n.startswith("blocks.0.") and n != "blocks.1.attention.out.weight"}
    assert changed == expected


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_it_learns(name: str) -> None:
    model = Tiny()
    batch = text_batch(8, seed=0)
    batches = iter([[batch]] * 60)
    steps = list(
        fit(model, batches, next_token, build(model, OptimizerConfig(name=name, learning_rate=0.02)), steps=60)
    )
    assert steps[-1].loss < 0.5 * steps[0].loss


def test_each_experts_matrices_are_orthogonalised_alone() -> None:
    """Gate and up of every expert, and its down: the singular values of the update are all alike."""
    from fledge.model.config import ModelConfig
    from fledge.model.heads import build as build_model

    torch.manual_seed(0)
    model = build_model(ModelConfig.sized(1, 30, 16, experts=3))
    experts = model.backbone.blocks[0].feedforward
    optimizer = build(model, OptimizerConfig(learning_rate=1.0, weight_decay=0.0))
    before = {name: weight.detach().clone() for name, weight in (("up", experts.up), ("down", experts.down))}
    gradient = torch.randn_like(experts.up)
    experts.up.grad, experts.down.grad = gradient, torch.randn_like(experts.down)
    optimizer.step()
    hidden = experts.down.shape[2]
    for expert in range(3):
        change = (before["up"] - experts.up.detach())[expert]
        for part, wanted in zip(change.split(hidden), gradient[expert].split(hidden)):
            values = torch.linalg.svdvals(part)
            assert values.max() < 1.7 * values.median()
            assert (part * wanted).sum() > 0
        down = torch.linalg.svdvals((before["down"] - experts.down.detach())[expert])
        assert down.max() < 1.7 * down.median()
