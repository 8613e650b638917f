"""Training speed: fledge through `fit`, `transformers` and a minimal GPT loop, with the machine's matmul peak.

Everyone takes the same steps: forward, cross-entropy, backward, gradient norm clipped to 1, fused AdamW, the loss read.
fledge does more in them: its rows are packed documents that do not see each other, and its stream packs them within
the measured time. `fledge` and `qwen3` are the same function, `llama` is it without QK-norm; the minimal loop is a
GPT-2-shaped model in plain PyTorch. Utilisation counts 6 FLOPs per weight and token and the whole of attention (PaLM's
convention), against the fastest matmul found here in that precision.

Shapes: B rows, T tokens a row, E width, V vocabulary.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from fledge.core.device import autocast
from fledge.data.packing import Example
from fledge.data.stream import Stream
from fledge.model.config import ModelConfig
from fledge.model.heads import build, count
from fledge.objectives.language import next_token
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer
from measure import (
    Contender,
    arguments,
    fastest,
    interleaved,
    median,
    show,
    speedup,
    spread,
    tokens_per_second,
    warn_if_busy,
)

RATE = 1e-3


class GPT(nn.Module):
    """The minimal model: learned positions, LayerNorm, GELU, tied head. ids [B,T] → logits [B,T,V]."""

    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.heads = shape.heads
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.places = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(self.block(shape.width) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, 0, 0.02)

    @staticmethod
    def block(width: int) -> nn.ModuleDict:
        linear = {
            "qkv": (width, 3 * width),
            "out": (width, width),
            "up": (width, 4 * width),
            "down": (4 * width, width),
        }
        norms = {name: nn.LayerNorm(width) for name in ("first", "second")}
        return nn.ModuleDict({name: nn.Linear(*sizes, bias=False) for name, sizes in linear.items()} | norms)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            qkv = block["qkv"](block["first"](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(*qkv, is_causal=True)
            x = x + block["out"](y.transpose(1, 2).flatten(2))
            x = x + block["down"](F.gelu(block["up"](block["second"](x)), approximate="tanh"))
        return F.linear(self.norm(x), self.embedding.weight)


def documents(shape: ModelConfig, tokens: int) -> list[Example]:
    """Random documents of 20 to 1,000 tokens."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(20, 1000, size=tokens // 500)
    ids = [draw.integers(0, shape.vocab_size, size=size, dtype=np.int32) for size in sizes]
    return [Example(i, np.ones(len(i), dtype=bool)) for i in ids]


def fledge_step(shape: ModelConfig, rows: int, length: int, dtype: torch.dtype, compiled: bool) -> Contender:
    """One step of `fit` on packed documents."""
    model = build(shape)
    stream = Stream({"text": documents(shape, 200_000)}, {"text": 1.0}, length, rows, 1, 0, split=True)
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=RATE))
    runs = torch.compile(model, dynamic=False) if compiled else model
    steps = fit(runs, stream, next_token, optimizer, steps=10**9, dtype=dtype)
    return lambda: next(steps)


def plain_step(
    model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor], batches: Iterator[Tensor], dtype: torch.dtype
) -> Contender:
    """One step of the loop that everybody writes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), fused=True)
    device = torch.device("cpu")

    def step() -> None:
        with autocast(device, dtype):
            value = loss(model, next(batches))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value.item()

    return step


def transformers_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """The model's own loss."""
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def gpt_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Next-token cross-entropy on the full logits."""
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def transformers_model(family: str, shape: ModelConfig) -> nn.Module:
    """The same shape in `transformers`."""
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[family]
    return model(
        config(
            vocab_size=shape.vocab_size,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_size,
            intermediate_size=shape.hidden,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
        )
    )


def contenders(shape: ModelConfig, rows: int, length: int, dtype: torch.dtype) -> dict[str, Contender]:
    """Everyone, eager and compiled."""

    def batches(extra: int) -> Iterator[Tensor]:
        draw = torch.Generator().manual_seed(0)
        while True:
            yield torch.randint(0, shape.vocab_size, (rows, length + extra), generator=draw)

    found: dict[str, Contender] = {}
    for how in ("eager", "compiled"):
        found[f"fledge, {how}"] = fledge_step(shape, rows, length, dtype, how == "compiled")
        for family in ("qwen3", "llama"):
            model = transformers_model(family, shape)
            runs = torch.compile(model, dynamic=False) if how == "compiled" else model
            found[f"transformers {family}, {how}"] = plain_step(runs, transformers_loss, batches(0), dtype)
        gpt = GPT(shape)
        runs = torch.compile(gpt, dynamic=False) if how == "compiled" else gpt
        found[f"minimal GPT, {how}"] = plain_step(runs, gpt_loss, batches(1), dtype)
    return found


def matmuls(shape: ModelConfig, tokens: int, large: int, dtype: torch.dtype) -> dict[str, tuple[Contender, float]]:
    """Matrix products and their FLOPs: one large square, and those of a training step with nothing between them."""
    projected = (shape.heads + 2 * shape.kv_heads) * shape.head_size
    inner, width = shape.heads * shape.head_size, shape.width
    layer = [(width, projected), (inner, width), (width, 2 * shape.hidden), (shape.hidden, width)]
    pairs = [
        (torch.randn(tokens, i, dtype=dtype), torch.randn(o, i, dtype=dtype), torch.randn(tokens, o, dtype=dtype))
        for i, o in [*layer, (width, shape.vocab_size)]
    ]
    times = [*[shape.layers] * len(layer), 1]
    a, b = torch.randn(large, large, dtype=dtype), torch.randn(large, large, dtype=dtype)

    def square() -> None:
        for _ in range(4):
            F.linear(a, b)

    def step() -> None:
        for (x, weight, gradient), n in zip(pairs, times):
            for _ in range(n):
                F.linear(x, weight), gradient @ weight, gradient.T @ x

    weights = sum(weight.numel() * n for (_, weight, _), n in zip(pairs, times))
    return {
        f"matmul {large}×{large}": (square, 4 * 2.0 * large**3),
        "matmuls of the step": (step, 6.0 * tokens * weights),
    }


def measure(
    shape: ModelConfig, rows: int, length: int, dtype: torch.dtype, large: int, rounds: int
) -> list[tuple[str, ...]]:
    """The lines of the table for one size and precision."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    tokens = rows * length
    products = matmuls(shape, tokens, large, dtype)
    runs = contenders(shape, rows, length, dtype)
    seconds = interleaved({**{name: run for name, (run, _) in products.items()}, **runs}, rounds)
    rates = {name: flops / median(seconds[name]) for name, (_, flops) in products.items()}
    peak = max(rates.values())
    model, precision = f"{count(build(shape)) / 1e6:.1f} M", str(dtype).removeprefix("torch.")
    lines = [
        (model, precision, name, "", f"{rate / peak:.0%}", f"{rate / 1e9:,.0f}", "", spread(seconds[name]))
        for name, rate in rates.items()
    ]
    flops = shape.flops_per_token(length) * tokens
    best = seconds[fastest(seconds, "transformers")]
    for name in runs:
        rate = flops / median(seconds[name])
        lines.append(
            (
                model,
                precision,
                name,
                tokens_per_second(tokens, seconds[name]),
                f"{rate / peak:.0%}",
                f"{rate / 1e9:,.0f}",
                f"{speedup(seconds[name], best):.2f}×",
                spread(seconds[name]),
            )
        )
    return lines


def main() -> None:
    """Two sizes, two precisions."""
    quick, rounds = arguments(__doc__, rounds=5)
    warn_if_busy()
    rows, length, vocabulary, large = (2, 32, 256, 256) if quick else (16, 256, 4096, 2048)
    big = ModelConfig.sized(6, vocabulary, length)  # 12.2 M parameters
    small = big.model_copy(update={"width": 128, "layers": 4, "heads": 2, "kv_heads": 2, "hidden": 320})  # 1.3 M
    tiny = small.model_copy(update={"layers": 1})
    columns = ("model", "precision", "what", "tokens/s", "of peak", "GFLOP/s", "× best transformers", "spread")
    title = f"Training, {rows} rows of {length} tokens, AdamW, median of {rounds} rounds"
    for shape in [tiny] if quick else [small, big]:
        for dtype in [torch.bfloat16] if quick else [torch.bfloat16, torch.float32]:
            show(title, columns, measure(shape, rows, length, dtype, large, rounds))


if __name__ == "__main__":
    main()
