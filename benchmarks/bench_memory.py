"""Peak memory of one training step over packed documents by the length of the row: mask by pieces, whole mask, none.

Each figure is of a process of its own: the most it held beyond what it held before the step. Pieces and plain causal
attention grow with the length, the whole mask with its square.
"""

import subprocess
import sys
from itertools import pairwise

import torch

from fledge.core.device import peak_memory, reset_peak_memory
from fledge.model import attention
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.objectives.language import next_token
from measure import arguments, show

WAYS = {"whole mask": 2**62, "by pieces": 0, "plain causal": 2**62}


def step(way: str, length: int) -> None:
    """Prints the bytes that one step of a small model on one row of `length` tokens needs."""
    attention.DENSE_UP_TO = {False: WAYS[way], True: WAYS[way]}
    attention.PIECE = 2**20
    torch.manual_seed(0)
    model = build(ModelConfig.sized(2, 256, length, positions="rotary"))
    ids = torch.randint(0, 256, (1, length))
    documents = None if way == "plain causal" else (torch.arange(length)[None] // 300 + 1)
    reset_peak_memory()
    before = peak_memory()
    next_token(model(ids, documents=documents), {"targets": ids}).sum.backward()
    print(peak_memory() - before)


def main() -> None:
    """All lengths, each doubled."""
    quick, _ = arguments(__doc__, rounds=1)
    lengths = (256, 512) if quick else (2048, 4096, 8192)
    lines = []
    for way in WAYS:
        sizes = []
        for length in lengths:
            program = f"import bench_memory; bench_memory.step({way!r}, {length})"
            found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            sizes.append(int(found.stdout))
        growth = (f"{b / a:.1f}×" for a, b in pairwise(sizes))
        lines.append((way, *(f"{size / 2**20:,.0f}" for size in sizes), ", ".join(growth)))
    columns = ("attention", *(f"{length:,} tokens, MiB" for length in lengths), "growth by doubling")
    show("Peak memory of a training step on one packed row", columns, lines)


if __name__ == "__main__":
    main()
