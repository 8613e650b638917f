"""What a family's table says: how its config maps to axes, and which of its tensors make up each of ours.

A weight rule is (our name, their names): one name is the tensor itself, several are concatenated along the rows. Rules
are read forwards when a checkpoint is loaded and inverted mechanically when one is written. `{i}` is the layer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig

Rule = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """A family of checkpoints. `architectures` by head; `read` and `write` convert configs; rules name tensors."""

    model_type: str
    architectures: dict[str, str]
    read: Callable[[dict[str, Any]], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    backbone: tuple[Rule, ...]
    block: tuple[Rule, ...]

    def rules(self, config: ModelConfig, ours: set[str]) -> Iterator[Rule]:
        """The rules that apply to a model with the parameters `ours`."""
        for rule in self.backbone:
            if rule[0] in ours:
                yield rule
        for i in range(config.layers):
            for name, theirs in self.block:
                if name.format(i=i) in ours:
                    yield name.format(i=i), tuple(t.format(i=i) for t in theirs)


def to_ours(
    family: Family, config: ModelConfig, shapes: dict[str, torch.Size], theirs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors from a checkpoint's. Raises FledgeError that names missing, left-over or ill-shaped tensors."""
    rules = list(family.rules(config, set(shapes)))
    wanted = [name for _, names in rules for name in names]
    ignorable = {"lm_head.weight"} if config.tied or config.head == "scalar" else set()
    ignorable |= {name for name in theirs if name.endswith("rotary_emb.inv_freq")}
    missing = [name for name in wanted if name not in theirs]
    extra = sorted(set(theirs) - set(wanted) - ignorable)
    if missing or extra:
        found = [
            f"{len(m)} {what} tensors (e.g. {m[0]})" for m, what in ((missing, "missing"), (extra, "unknown")) if m
        ]
        raise FledgeError(
            f"the checkpoint has {' and '.join(found)}", "its config.json and its weights do not belong together"
        )
    ours = {}
    for name, names in rules:
        sizes = [shapes[name][0]] if len(names) == 1 else parts_of(name, config)
        for part, size in zip(names, sizes, strict=True):
            wanted_shape = [size, *shapes[name][1:]]
            if list(theirs[part].shape) != wanted_shape:
                raise FledgeError(
                    f"{part} has shape {list(theirs[part].shape)}, by config.json it must be {wanted_shape}",
                    "its config.json and its weights do not belong together",
                )
        parts = [theirs[part] for part in names]
        ours[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return ours


def to_theirs(family: Family, config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors from ours: the rules inverted."""
    theirs: dict[str, Tensor] = {}
    for name, names in family.rules(config, set(ours)):
        parts = [ours[name]] if len(names) == 1 else ours[name].split(parts_of(name, config))
        theirs |= {n: part.contiguous() for n, part in zip(names, parts, strict=True)}
    return theirs


def parts_of(name: str, config: ModelConfig) -> list[int]:
    """How many rows each part of a fused projection has."""
    if ".gate_up." in name:
        return [config.hidden, config.hidden]
    return [config.heads * config.head_size, *[config.kv_heads * config.head_size] * 2]
