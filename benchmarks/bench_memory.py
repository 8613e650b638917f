"""Peak memory of training: by shape, beside what preflight says before anything is built, and by the length of the row.

Each figure is of a process of its own: the most it held beyond what it held before. A mask by pieces and plain causal
attention grow with the length, a whole mask with its square.
"""

import ast
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise, product, repeat
from pathlib import Path
from typing import Any

import torch

from fledge.core.device import peak_memory, pick_dtype, reset_peak_memory
from fledge.core.log import Log
from fledge.model import attention
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.transformer import set_checkpointing
from fledge.objectives.language import IGNORED, next_token
from fledge.stages.preflight import check_memory
from fledge.stages.session import TrainConfig
from fledge.train.loop import fit
from fledge.train.optimizers import build as build_optimizer
from measure import arguments, show

PLAIN = {"positions": "learned", "norm": "layer", "gated": False, "activation": "gelu_tanh", "qk_norm": False}
SHAPES: dict[str, dict[str, Any]] = {
    "decoder": {},
    "… twice as deep": {"depth": 6, "rows": 8},
    "… in rows of 1,024": {"length": 1024, "rows": 4},
    "… a quarter of the keys": {"depth": 4, "axes": {"kv_heads": 1}},
    "GPT-2": {"axes": PLAIN | {"hidden": 768}},
    "ALiBi": {"axes": {"positions": "alibi"}},
    "experts": {"axes": {"experts": 4, "top_k": 2}},
    "encoder": {"shape": "encoder"},
    "encoder-decoder": {"shape": "encoder_decoder"},
}
WAYS = {"whole mask": 2**62, "by pieces": 0, "plain causal": 2**62}


def step(way: str, length: int) -> int:
    """The bytes that one step of a small model on one row of `length` tokens needs."""
    attention.DENSE_UP_TO = {False: WAYS[way], True: WAYS[way]}
    attention.PIECE = 2**20
    torch.manual_seed(0)
    model = build(ModelConfig.sized(2, 256, length, positions="rotary"))
    ids = torch.randint(0, 256, (1, length))
    documents = None if way == "plain causal" else (torch.arange(length)[None] // 300 + 1)
    reset_peak_memory()
    before = peak_memory()
    next_token(model(ids, documents=documents), {"targets": ids}).sum.backward()
    return peak_memory() - before


def train(
    dtype: str, checkpointing: bool, depth: int = 3, rows: int = 16, length: int = 256, shape: Any = "decoder",
    axes: dict[str, Any] | None = None,
) -> tuple[int, int]:  # fmt: skip
    """(most bytes held beyond those before, preflight's estimate) of three steps on a CPU."""
    torch.manual_seed(0)
    config = TrainConfig(
        length=length,
        tokens_per_microbatch=rows * length,
        dtype=dtype,
        device="cpu",
        gradient_checkpointing=checkpointing,
    )
    axis = ModelConfig.sized(depth, 4096, max(length, 512), shape, **(axes or {}))
    estimate = check_memory(axis, config, Log(quiet=True))
    ids = torch.randint(0, axis.vocab_size, (rows, length))
    documents = torch.ones(rows, length, dtype=torch.int32)
    documents[:, length // 2 :] = 2
    batch = {"ids": ids, "documents": documents, "targets": ids}
    if shape == "encoder":
        batch["targets"] = torch.where(torch.rand(ids.shape) < 0.15, ids, IGNORED)
    if shape == "encoder_decoder":
        batch |= {"source_ids": ids, "source_documents": documents}
    reset_peak_memory()
    before = peak_memory()
    model = build(axis)
    set_checkpointing(model, checkpointing)
    optimizer = build_optimizer(model, config.optimizer)
    for _ in fit(model, repeat([batch]), next_token, optimizer, steps=3, dtype=pick_dtype(dtype, torch.device("cpu"))):
        pass
    return peak_memory() - before, estimate


def measured(call: str) -> Any:
    """What a call of this module gives in a process of its own."""
    program = f"import bench_memory; print(bench_memory.{call})"
    here = Path(__file__).parent
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=here)
    return ast.literal_eval(found.stdout)


def estimates(names: Sequence[str]) -> None:
    """Measured and estimated, by shape."""
    lines = []
    for name in names:
        for dtype, checkpointing in product(("float32", "bfloat16"), (False, True)):
            held, estimate = measured(f"train({dtype!r}, {checkpointing}, **{SHAPES[name]!r})")
            how = f"{dtype}{', checkpointed' * checkpointing}"
            lines.append((name, how, f"{held >> 20:,}", f"{estimate >> 20:,}", f"{estimate / held:.2f}×"))
    columns = ("shape", "how", "measured, MiB", "estimated, MiB", "of it")
    show("Peak memory of training, and what preflight says", columns, lines)


def main() -> None:
    """All lengths, each doubled; all shapes."""
    quick, _ = arguments(__doc__, rounds=1)
    estimates(list(SHAPES)[:1] if quick else list(SHAPES))
    lengths = (256, 512) if quick else (2048, 4096, 8192)
    lines = []
    for way in WAYS:
        sizes = []
        for length in lengths:
            sizes.append(measured(f"step({way!r}, {length})"))
        growth = (f"{b / a:.1f}×" for a, b in pairwise(sizes))
        lines.append((way, *(f"{size / 2**20:,.0f}" for size in sizes), ", ".join(growth)))
    columns = ("attention", *(f"{length:,} tokens, MiB" for length in lengths), "growth by doubling")
    show("Peak memory of a training step on one packed row", columns, lines)


if __name__ == "__main__":
    main()
