"""Where the parameters and the work of a Transformer sit: embeddings, attention, feed-forward, norms, output head.

Of a model that exists they are counted; of a shape that is only described (GPT-3's, arXiv:2005.14165, table 2.1) they
are computed in closed form, no weight is ever made. FLOPs are those of a forward pass, per token: two for each weight
that multiplies and the attention products, causal attention counted whole (arXiv:2204.02311, appendix B). Of a mixture
of experts a token goes through the chosen ones only: `active` counts those, and FLOPs follow it. Of an encoder-decoder
they are those of a source and a target token together.
"""

from typing import cast

from pydantic import Field
from torch import nn

from fledge.core.config import Config, make_config
from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig

PARTS = ("embeddings", "attention", "feed-forward", "norms", "output head")
Anatomy = dict[str, dict[str, float]]  # part → {"parameters", "active", "flops"}
HEADS = ("head", "score", "transform", "transform_norm", "pair", "bias")  # what stands on a backbone


class Shape(Config):
    """A decoder by its axes. Zeros are derived: heads of 64, as many key-value heads as heads, head size width/heads,
    a plain feed-forward of 4·width. `learned_positions` are `context` further rows of the embedding. With `experts`
    every feed-forward is so many of them, of which a token goes through `top_k`."""

    layers: int = Field(gt=0)
    width: int = Field(gt=0)
    heads: int = Field(0, ge=0)
    kv_heads: int = Field(0, ge=0)
    head_size: int = Field(0, ge=0)
    hidden: int = Field(0, ge=0)
    vocab_size: int = Field(50257, gt=0)
    context: int = Field(2048, gt=0)
    gated: bool = False
    biases: bool = True
    learned_positions: bool = True
    tied: bool = True
    experts: int = Field(0, ge=0)
    top_k: int = Field(2, gt=0)


def gpt(layers: int, width: int, heads: int, context: int = 2048) -> Shape:
    """A shape of the GPT-2 and GPT-3 papers."""
    return Shape(layers=layers, width=width, heads=heads, context=context)


SHAPES = {
    "gpt2-124m": gpt(12, 768, 12, context=1024),
    "gpt2-1.5b": gpt(48, 1600, 25, context=1024),
    "gpt3-125m": gpt(12, 768, 12),
    "gpt3-350m": gpt(24, 1024, 16),
    "gpt3-760m": gpt(24, 1536, 16),
    "gpt3-1.3b": gpt(24, 2048, 16),  # the table has 24 heads and, for 13b, a width of 5140: misprints, by their sizes
    "gpt3-2.7b": gpt(32, 2560, 32),
    "gpt3-6.7b": gpt(32, 4096, 32),
    "gpt3-13b": gpt(40, 5120, 40),
    "gpt3-175b": gpt(96, 12288, 96),
    "llama-7b": Shape(
        layers=32, width=4096, heads=32, hidden=11008, vocab_size=32000, gated=True, biases=False,
        learned_positions=False, tied=False,
    ),
    "llama3-8b": Shape(
        layers=32, width=4096, heads=32, kv_heads=8, hidden=14336, vocab_size=128256, context=8192, gated=True,
        biases=False, learned_positions=False, tied=False,
    ),
    "mixtral-8x7b": Shape(
        layers=32, width=4096, heads=32, kv_heads=8, hidden=14336, vocab_size=32000, context=32768, gated=True,
        biases=False, learned_positions=False, tied=False, experts=8,
    ),
}  # fmt: skip


def named_shape(text: str) -> Shape:
    """A shape by its name in SHAPES, or written as axes: `layers=12,width=768`. Raises FledgeError for neither."""
    if text in SHAPES:
        return SHAPES[text]
    if "=" not in text:
        raise FledgeError(f"there is no shape '{text}'", f"known: {', '.join(SHAPES)}; or write layers=12,width=768")
    return make_config(Shape, dict(part.split("=", 1) for part in text.split(",") if "=" in part), where=f"'{text}'")


def anatomy_of_shape(shape: Shape, length: int = 0) -> Anatomy:
    """The parts of a shape, with attention over `length` tokens (0: its context)."""
    width, layers = shape.width, shape.layers
    heads = shape.heads or max(1, width // 64)
    size = shape.head_size or width // heads
    inner, keys = heads * size, (shape.kv_heads or heads) * size
    hidden = shape.hidden or 4 * width
    projections, ways = width * (2 * inner + 2 * keys), 3 if shape.gated else 2
    biases = shape.biases
    head = shape.vocab_size * width
    router = layers * shape.experts * width
    feed, chosen = layers * ways * width * hidden, min(shape.top_k, shape.experts) or 1
    fixed = router + layers * biases * ((ways - 1) * hidden + width)
    attended = layers * (projections + biases * (inner + 2 * keys + width))
    table = {
        "embeddings": (head + shape.learned_positions * shape.context * width, 0),
        "attention": (attended, layers * (2 * projections + 4 * inner * (length or shape.context))),
        "feed-forward": (feed * (shape.experts or 1) + fixed, 2 * (feed * chosen + router)),
        "norms": ((2 * layers + 1) * width * (1 + biases), 0),
        "output head": (0 if shape.tied else head, 2 * head),
    }
    active = {part: weights for part, (weights, _) in table.items()} | {"feed-forward": feed * chosen + fixed}
    return {
        part: {"parameters": weights, "active": active[part], "flops": flops}
        for part, (weights, flops) in table.items()
    }


def anatomy_of_model(model: nn.Module, length: int) -> Anatomy:
    """The parts of a model, counted: shared weights once, where they first stand; attention over `length` tokens."""
    config = cast(ModelConfig, model.config)
    table: Anatomy = {part: {"parameters": 0, "active": 0, "flops": 0} for part in PARTS}
    for name, parameter in model.named_parameters():
        part, size = table[part_of(name)], parameter.numel()
        expert = config.experts and parameter.ndim == 3  # [X,·,·]: one matrix for each
        active = size * min(config.top_k, config.experts) // config.experts if expert else size
        part["parameters"] += size
        part["active"] += active
        if parameter.ndim > 1 and "embedding" not in name and not name.endswith("distances"):
            part["flops"] += 2 * active
    spans = config.encoding_layers + config.layers * (2 if config.encoding_layers else 1)  # cross-attention is one
    table["attention"]["flops"] += 4 * spans * config.heads * config.head_size * length
    if config.head in ("language", "masked", "pretraining") and config.tied:
        table["output head"]["flops"] += 2 * config.vocab_size * config.out_width
    return table


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by the names of the modules it stands in."""
    pieces = name.split(".")
    if pieces[0] in HEADS:
        return "output head"
    for piece in reversed(pieces):
        if "norm" in piece:
            return "norms"
        if "attention" in piece or piece in ("cross", "distances"):
            return "attention"
        if "feedforward" in piece:
            return "feed-forward"
    return "embeddings"


def total(table: Anatomy, what: str) -> float:
    """The sum over the parts of `parameters`, `active` or `flops`."""
    return sum(part[what] for part in table.values())
