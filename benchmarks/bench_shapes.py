"""Training speed of every shape: fledge through `fit` against `transformers` on the very same model.

fledge makes a model and writes it as a Hugging Face directory; `transformers` loads that. Both take the same steps on
the same random tokens: forward, loss, backward, gradient norm clipped to 1, fused AdamW, the loss read; no dropout. Of
an encoder 15 % of the tokens are predicted. `transformers` computes every logit; fledge those that are asked for, and
its documents do not see each other. An encoder-decoder reads as many tokens as it writes; both count.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from fledge.checkpoint.directory import save_model
from fledge.checkpoint.families import family_for
from fledge.core.device import autocast
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.objectives.language import next_token
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer
from measure import Contender, arguments, interleaved, show, speedup, spread, tokens_per_second, warn_if_busy

RATE, MASKED, MASK = 1e-3, 0.15, 3
GPT = {"positions": "learned", "norm": "layer", "qk_norm": False, "gated": False, "activation": "gelu_tanh"}
BIASES = {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}
Batch = dict[str, Tensor]


def shapes(depth: int, vocabulary: int, length: int) -> dict[str, ModelConfig]:
    """What is measured."""

    def sized(shape: Any = "decoder", **axes: Any) -> ModelConfig:
        return ModelConfig.sized(depth, vocabulary, length, shape, **axes)

    return {
        "decoder (Qwen3)": sized(),
        "decoder (LLaMA)": sized(qk_norm=False),
        "decoder (GPT-2)": sized(**GPT, **BIASES, hidden=256 * depth),
        "decoder (BLOOM)": sized(
            **(GPT | {"positions": "alibi"}), **BIASES, hidden=256 * depth, embedding_norm=True, norm_eps=1e-5
        ),
        "experts (Mixtral)": sized(qk_norm=False, experts=4, top_k=2, hidden=64 * depth),
        "encoder (BERT)": sized("encoder"),
        "encoder-decoder (T5)": sized("encoder_decoder"),
    }


def batches(config: ModelConfig, rows: int, length: int) -> Iterator[Batch]:
    """Random tokens as both sides take them."""
    draw = torch.Generator().manual_seed(0)
    steps = torch.arange(length).expand(rows, length)
    ones = torch.ones(rows, length, dtype=torch.int32)
    while True:
        ids = torch.randint(4, config.vocab_size, (rows, length), generator=draw)
        batch = {"ids": ids, "positions": steps, "documents": ones}
        if config.shape == "encoder":
            hidden = torch.rand(rows, length, generator=draw) < MASKED
            batch |= {"ids": ids.masked_fill(hidden, MASK), "targets": ids.masked_fill(~hidden, -100)}
        elif config.shape == "encoder_decoder":
            before = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
            source = torch.randint(4, config.vocab_size, (rows, length), generator=draw)
            batch |= {"ids": before, "targets": ids, "source_ids": source, "source_documents": ones}
        else:
            batch["targets"] = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
        yield batch


def theirs_step(config: ModelConfig, given: Iterator[Batch], dtype: torch.dtype, directory: Path) -> Contender:
    """One step of the loop that everybody writes, with the model's own loss."""
    architecture = family_for(config).heads[config.head].architecture
    model = getattr(transformers, architecture).from_pretrained(directory).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), fused=True)
    device = torch.device("cpu")
    inputs: Callable[[Batch], dict[str, Any]]
    if config.shape == "encoder":
        inputs = lambda batch: {"input_ids": batch["ids"], "labels": batch["targets"]}  # noqa: E731
    elif config.shape == "encoder_decoder":
        inputs = lambda batch: {  # noqa: E731
            "input_ids": batch["source_ids"],
            "decoder_input_ids": batch["ids"],
            "labels": batch["targets"],
        }
    else:
        inputs = lambda batch: {"input_ids": batch["ids"], "labels": batch["ids"], "use_cache": False}  # noqa: E731

    def step() -> None:
        with autocast(device, dtype):
            value = model(**inputs(next(given))).loss
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value.item()

    return step


def measure(name: str, config: ModelConfig, rows: int, length: int, dtype: torch.dtype, rounds: int) -> tuple[str, ...]:
    """The line of one shape in one precision."""
    torch.manual_seed(0)
    model = build(config)
    with tempfile.TemporaryDirectory() as directory:
        save_model(model, Path(directory))
        theirs = theirs_step(config, batches(config, rows, length), dtype, Path(directory))
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=RATE))
    steps = fit(
        model, ([batch] for batch in batches(config, rows, length)), next_token, optimizer, steps=10**9, dtype=dtype
    )
    seconds = interleaved({"fledge": lambda: next(steps), "transformers": theirs}, rounds)
    tokens = rows * length * (2 if config.shape == "encoder_decoder" else 1)
    millions = f"{config.parameters() / 1e6:.1f} M"
    if config.experts:
        millions += f" ({config.active_parameters() / 1e6:.1f} M active)"
    return (
        name,
        millions,
        str(dtype).removeprefix("torch."),
        tokens_per_second(tokens, seconds["fledge"]),
        tokens_per_second(tokens, seconds["transformers"]),
        f"{speedup(seconds['fledge'], seconds['transformers']):.2f}×",
        f"{spread(seconds['fledge'])} / {spread(seconds['transformers'])}",
    )


def main() -> None:
    """Every shape, two precisions."""
    quick, rounds = arguments(__doc__, rounds=7)
    warn_if_busy()
    depth, vocabulary, rows, length = (1, 256, 2, 32) if quick else (4, 4096, 16, 256)
    lines = [
        measure(name, config, rows, length, dtype, rounds)
        for name, config in shapes(depth, vocabulary, length).items()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    columns = ("shape", "parameters", "precision", "fledge tokens/s", "transformers tokens/s", "ratio", "spread")
    show(f"Training by shape, {rows} rows of {length} tokens, eager, AdamW, median of {rounds} rounds", columns, lines)


if __name__ == "__main__":
    main()
