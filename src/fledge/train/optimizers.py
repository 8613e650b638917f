"""Muon for the hidden matrices, AdamW for embeddings, heads, norms and biases, behind one object.

Muon (Jordan 2024; at scale arXiv:2502.16982) orthogonalises the momentum of a matrix by Newton-Schulz iterations and
scales it to the update size of AdamW, so both share one learning rate. Unlike torch.optim.Muon, fused projections are
orthogonalised as the matrices they consist of (queries, keys and values; gate and up), equal shapes in one batched
product, and in float32 where the hardware has no fast bfloat16.
AdamW: arXiv:1711.05101. Left out: 8-bit states, per-layer rates.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fledge.core.config import Config
from fledge.core.device import fast_bfloat16
from fledge.core.errors import FledgeError

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steepest at zero, singular values end in about [0.7, 1.2]


class OptimizerConfig(Config):
    """`learning_rate` is of AdamW's scale for every parameter; weight decay falls on hidden matrices only. `factors`
    multiply the rate of modules by the beginning of their name: {critic: 5}."""

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3
    embedding_factor: float = 1.0
    factors: dict[str, float] = {}
    weight_decay: float = 0.1
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8


def build(model: nn.Module, config: OptimizerConfig) -> "Optimizers":
    """The optimizer of every trainable parameter of `model`.

    Hidden matrices are the weights of two dimensions inside `blocks`, and of three (one matrix per expert);
    embeddings and heads are the other ones.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    remaining = dict(named)
    special: list[torch.optim.Optimizer] = []
    for prefix, factor in config.factors.items():
        chosen = {name: remaining.pop(name) for name in list(remaining) if name.startswith(prefix)}
        if not chosen:
            raise FledgeError(f"optimizer.factors names '{prefix}', but no module's name begins so", "correct the name")
        special += of_module(chosen, config, config.learning_rate * factor)
    optimizers = of_module(remaining, config, config.learning_rate) + special
    return Optimizers(optimizers, {p: name for name, p in named.items()})


def of_module(named: dict[str, nn.Parameter], config: OptimizerConfig, rate: float) -> list[torch.optim.Optimizer]:
    """Muon and AdamW, or AdamW alone, over these parameters."""
    matrices = {name: p for name, p in named.items() if p.ndim >= 2 and "blocks." in name}
    tables = {name: p for name, p in named.items() if p.ndim == 2 and name not in matrices}
    vectors = {name: p for name, p in named.items() if p.ndim < 2}
    decay = config.weight_decay
    groups = [
        {"params": list(tables.values()), "lr": rate * config.embedding_factor, "weight_decay": 0.0},
        {"params": list(vectors.values()), "lr": rate, "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        groups.insert(0, {"params": list(matrices.values()), "lr": rate, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = []
    if config.name == "muon" and matrices:
        pieces = [rows_of_pieces(name, p, matrices) for name, p in matrices.items()]
        optimizers.append(
            Muon(matrices.values(), pieces, learning_rate=rate, momentum=config.momentum, weight_decay=decay)
        )
    if groups:
        optimizers.append(torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True))
    return optimizers


def rows_of_pieces(name: str, weight: Tensor, matrices: dict[str, nn.Parameter]) -> tuple[int, ...]:
    """How many rows each matrix inside a fused projection has: (queries, keys, values), (gate, up) or all; of experts
    [X,rows,columns], one after the other."""
    rows = weight.shape[0]
    if weight.ndim == 3:
        down = matrices.get(name.removesuffix("up") + "down") if name.endswith("up") else None
        each = weight.shape[1] if down is None else down.shape[2]
        return (each,) * (rows * weight.shape[1] // each)
    if name.endswith(("gate_up.weight", "cross.kv.weight")):
        return (rows // 2, rows // 2)
    sibling = matrices.get(name.removesuffix("qkv.weight") + "out.weight")
    if name.endswith("qkv.weight") and sibling is not None:
        queries = sibling.shape[1]
        return (queries, (rows - queries) // 2, (rows - queries) // 2)
    return (rows,)


class Optimizers:
    """Several torch optimizers as one. Its state is keyed by parameter name; learning rates are not part of it."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], names: dict[nn.Parameter, str]) -> None:
        self.optimizers = list(optimizers)
        self.names = names
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        """One update from the gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """{parameter name: {quantity: tensor}}, of every parameter that has been updated."""
        return {
            self.names[p]: dict(state)  # type: ignore[index]
            for optimizer in self.optimizers
            for p, state in optimizer.state.items()
        }

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes back what `state_dict` gave, onto the parameters' devices; FledgeError if it is of another model."""
        unknown = set(state) - set(self.names.values())
        if unknown:
            raise FledgeError(
                f"the optimizer state is of another model: it knows '{sorted(unknown)[0]}'",
                "resume with the configuration it was saved with, or start anew",
            )
        for optimizer in self.optimizers:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            found = {i: state[self.names[p]] for i, p in enumerate(parameters) if self.names[p] in state}
            optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. `rows[i]` are the row counts of the matrices that parameter i consists of.

    Update of a matrix [A,B]: Nesterov momentum → Newton-Schulz → × 0.2·√max(A,B), AdamW's usual update size
    (arXiv:2502.16982, eq. 4); weight decay is decoupled.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rows: Sequence[tuple[int, ...]],
        *,
        learning_rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay})
        self.rows = list(rows)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients; parameters without one are left alone."""
        (group,) = self.param_groups
        chosen = [(p, rows) for p, rows in zip(group["params"], self.rows, strict=True) if p.grad is not None]
        if not chosen:
            return
        parameters = [p for p, _ in chosen]
        gradients = [p.grad for p in parameters]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])

        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        targets = [piece for p, rows in chosen for piece in stacked(p).split(rows)]
        directions = [piece for d, (_, rows) in zip(ahead, chosen, strict=True) for piece in stacked(d).split(rows)]
        for target, update in zip(targets, orthogonalise(directions), strict=True):
            target.add_(update, alpha=-group["lr"] * 0.2 * max(target.shape) ** 0.5)


def stacked(weight: Tensor) -> Tensor:
    """The matrices of experts [X,A,B] under each other, [X·A,B]; a matrix as it is."""
    return weight if weight.ndim == 2 else weight.view(-1, weight.shape[-1])


def orthogonalise(matrices: Sequence[Tensor], iterations: int = 5) -> list[Tensor]:
    """The nearest semi-orthogonal matrix (U·Vᵀ) of each, roughly: singular values end up near 1.

    Equal shapes are computed together. In bfloat16 where the hardware is fast at it, else in float32.
    """
    device = matrices[0].device
    dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    shapes: dict[tuple[int, int], list[int]] = {}
    for index, matrix in enumerate(matrices):
        low, high = sorted(matrix.shape)
        shapes.setdefault((low, high), []).append(index)
    result: list[Tensor] = [matrices[0]] * len(matrices)
    for indices in shapes.values():
        wide = [m.mT if m.shape[0] > m.shape[1] else m for m in (matrices[i] for i in indices)]
        for index, update in zip(indices, newton_schulz(torch.stack(wide).to(dtype), iterations), strict=True):
            tall = matrices[index].shape[0] > matrices[index].shape[1]
            result[index] = update.mT if tall else update
    return result


def newton_schulz(x: Tensor, iterations: int) -> Tensor:
    """The quintic iteration X ← aX + b(XXᵀ)X + c(XXᵀ)²X on a stack [n, A, B] of matrices with A ≤ B."""
    a, b, c = NEWTON_SCHULZ
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
