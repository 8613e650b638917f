"""What a family's table says: how its config maps to axes, and which of its tensors make up each of ours.

A rule is (our name, their names, layout). Rules are read forwards when a checkpoint is loaded and inverted
mechanically when one is written; one whose tensor a model does not have does not apply. In names, `{i}` is the layer,
`{x}` the expert, `{p}` the prefix that the base model has under a head.

Layouts: ROWS lays their parts under each other; TRANSPOSED is what GPT-2's Conv1D stores; INTERLEAVED is a fused
projection that goes head by head, query, key, value; EXPERTS stacks one matrix (or gate and up) of each expert.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig


class Layout(NamedTuple):
    """join: their parts → our tensor. split: our tensor and the number of parts → their parts."""

    join: Callable[[list[Tensor], ModelConfig], Tensor]
    split: Callable[[Tensor, list[int], ModelConfig], list[Tensor]]


def joined(parts: list[Tensor], config: ModelConfig) -> Tensor:
    """Parts under each other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def parted(tensor: Tensor, rows: list[int], config: ModelConfig) -> list[Tensor]:
    """The inverse of `joined`."""
    return [tensor] if len(rows) == 1 else list(tensor.split(rows))


def by_head(tensor: Tensor, config: ModelConfig) -> Tensor:
    """Rows [3, H, D] as [H, 3, D]."""
    return tensor.view(3, config.heads, config.head_size, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)


def by_kind(tensor: Tensor, config: ModelConfig) -> Tensor:
    """Rows [H, 3, D] as [3, H, D]."""
    return tensor.view(config.heads, 3, config.head_size, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)


ROWS = Layout(joined, parted)
TRANSPOSED = Layout(lambda parts, _: parts[0].T, lambda tensor, _, __: [tensor.T])
INTERLEAVED = Layout(
    lambda parts, config: by_kind(parts[0], config), lambda tensor, _, config: [by_head(tensor, config)]
)
EXPERTS = Layout(
    lambda parts, config: torch.cat(parts).view(config.experts, -1, parts[0].shape[1]),
    lambda tensor, rows, _: list(tensor.flatten(0, 1).split(tensor.shape[0] * tensor.shape[1] // len(rows))),
)


class Rule(NamedTuple):
    """Our tensor `ours` is made of their tensors `theirs`, laid out so."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = ROWS


def linear(ours: str, *theirs: str, layout: Layout = ROWS) -> tuple[Rule, Rule]:
    """The rules of a projection or norm: its weight, and its bias, which no layout but INTERLEAVED touches."""
    bias = layout if layout is INTERLEAVED else ROWS
    weights, biases = (tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias"))
    return Rule(f"{ours}.weight", weights, layout), Rule(f"{ours}.bias", biases, bias)


class HeadTable(NamedTuple):
    """A head as a family writes it: the name of the architecture, and the rules of the head's tensors."""

    architecture: str
    rules: tuple[Rule, ...] = ()
    prefix: str | None = None  # of the base model, where it is another one than under other heads


WEIGHTS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # what a weight may be stored as


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    heads: by our name of them. read: config.json → axes. write: axes → config.json (what it cannot say, it leaves
    out: `family_for` compares). ignored: patterns of tensors that hold nothing of their own (copies, constants).
    """

    model_type: str
    heads: dict[str, HeadTable]
    read: Callable[[dict[str, Any]], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    prefix: str
    backbone: tuple[Rule, ...]
    block: tuple[Rule, ...]
    encoder_block: tuple[Rule, ...] = ()
    ignored: tuple[str, ...] = ()

    def prefix_for(self, head: str) -> str:
        """What stands before the base model's names under this head."""
        given = self.heads[head].prefix
        return self.prefix if given is None else given

    def rules(self, config: ModelConfig, ours: set[str], prefix: str) -> Iterator[Rule]:
        """The rules that apply to a model with the parameters `ours`, their names filled in."""
        every = [(rule, 0) for rule in (*self.backbone, *self.heads[config.head].rules)]
        every += [(rule, i) for i in range(config.layers) for rule in self.block]
        every += [(rule, i) for i in range(config.encoding_layers) for rule in self.encoder_block]
        for rule, i in every:
            name = rule.ours.format(i=i)
            if name not in ours:
                continue
            experts = range(config.experts) if rule.layout is EXPERTS else (0,)
            theirs = tuple(part.format(i=i, x=x, p=prefix) for x in experts for part in rule.theirs)
            yield Rule(name, theirs, rule.layout)


def base_prefix(family: Family, head: str, theirs: dict[str, Tensor]) -> str:
    """What stands before the base model's names in this checkpoint, which may have been saved under another head than
    this, or under none: then nothing does."""
    known = [family.prefix_for(head), family.prefix, *(family.prefix_for(other) for other in family.heads)]
    return next((prefix for prefix in known if prefix and any(name.startswith(prefix) for name in theirs)), "")


def follows_the_weights(family: Family, config: ModelConfig, theirs: dict[str, Tensor]) -> ModelConfig:
    """The config, untied if the checkpoint has a projection that is not its embedding (as transformers reads it)."""
    named = {rule.ours: rule.theirs[0] for rule in (*family.heads[config.head].rules, *family.backbone)}
    prefix = base_prefix(family, config.head, theirs)
    head = theirs.get(named.get("head.weight", ""))
    table = theirs.get(named["backbone.embedding.weight"].format(p=prefix))
    if not config.tied or head is None or table is None or torch.equal(head, table):
        return config
    return config.model_copy(update={"tied": False})


def to_ours(
    family: Family, config: ModelConfig, shapes: dict[str, torch.Size], theirs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors from a checkpoint's. Raises FledgeError that names missing, left-over or ill-shaped tensors."""
    rules = list(family.rules(config, set(shapes), base_prefix(family, config.head, theirs)))
    wanted = {name for rule in rules for name in rule.theirs}
    ignored = [re.compile(pattern) for pattern in (r"rotary_emb\.inv_freq$", *family.ignored)]
    missing = sorted(wanted - set(theirs))
    extra = sorted(n for n in theirs if n not in wanted and not any(pattern.search(n) for pattern in ignored))
    if missing or extra:
        found = [
            f"{len(m)} {what} tensors (e.g. {m[0]})" for m, what in ((missing, "missing"), (extra, "unknown")) if m
        ]
        raise FledgeError(
            f"the checkpoint has {' and '.join(found)}", "its config.json and its weights do not belong together"
        )
    ours = {}
    for rule in rules:
        expected = rule.layout.split(
            torch.empty(shapes[rule.ours], device="meta"), rows_of(rule, config, shapes), config
        )
        for part, shape in zip(rule.theirs, (list(each.shape) for each in expected), strict=True):
            if list(theirs[part].shape) != shape:
                raise FledgeError(
                    f"{part} has shape {list(theirs[part].shape)}, by config.json it must be {shape}",
                    "its config.json and its weights do not belong together",
                )
            if theirs[part].dtype not in WEIGHTS:
                raise FledgeError(
                    f"{part} is {str(theirs[part].dtype).removeprefix('torch.')}: quantised weights cannot be read",
                    "give the checkpoint in bfloat16 or float32; merge adapters into that, not into 4 or 8 bits",
                )
        ours[rule.ours] = rule.layout.join([theirs[part] for part in rule.theirs], config).contiguous()
    return ours


def to_theirs(family: Family, config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors from ours: the rules inverted."""
    theirs: dict[str, Tensor] = {}
    shapes = {name: tensor.shape for name, tensor in ours.items()}
    for rule in family.rules(config, set(ours), family.prefix_for(config.head)):
        parts = rule.layout.split(ours[rule.ours], rows_of(rule, config, shapes), config)
        theirs |= {name: part.contiguous() for name, part in zip(rule.theirs, parts, strict=True)}
    return theirs


def rows_of(rule: Rule, config: ModelConfig, shapes: dict[str, torch.Size]) -> list[int]:
    """How many rows each part of a fused projection has: query, key, value; everything else in equal parts."""
    count = len(rule.theirs)
    if ".qkv." in rule.ours and count == 3:
        return [config.heads * config.head_size, *[config.kv_heads * config.head_size] * 2]
    return [shapes[rule.ours][0] // count] * count
