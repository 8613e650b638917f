"""Trained at 256 bytes, read at up to 1,024: which positions hold, and what rotary scaling saves (arXiv:2108.12409).

    python benchmarks/lengths.py train TEXT --positions alibi     # one model; its figures go into docs/figures
    python benchmarks/lengths.py draw                             # the picture of all that are there

TEXT is a text file or a .tar.gz of them; a twentieth of each is held out. Tokens are bytes: a model of them cannot do
without knowing what stands just before, so positions matter from the first steps on. Every model has the same size,
data and steps, only its positions differ. Bits per byte (log₂ of the perplexity) are of the same held-out text, cut
into windows of each length. A model with learned positions has 1,024 rows in its table, of which training touches 256.
"""

import argparse
import json
import math
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fledge.core.device import autocast
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.positions import ntk_base
from fledge.objectives.language import next_token
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer
from fledge.train.schedules import warmup_stable_decay

TRAINED, LENGTHS, ROWS = 256, (64, 128, 256, 384, 512, 768, 1024), 4
LONGEST = 100_000  # characters of one text
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
CPU = torch.device("cpu")


def texts(path: Path) -> tuple[list[str], list[str]]:
    """What is trained on and what is held out: the last twentieth of the beginning of each file."""
    if path.suffix == ".gz":
        with tarfile.open(path) as archive:
            found = [archive.extractfile(member) for member in archive.getmembers() if member.isfile()]
            whole = [file.read().decode("utf-8", "replace") for file in found if file]
    else:
        whole = [path.read_text(encoding="utf-8", errors="replace")]
    whole = [text[:LONGEST] for text in whole]
    return [t[: len(t) * 19 // 20] for t in whole], [t[len(t) * 19 // 20 :] for t in whole]


def windows(ids: Tensor, length: int, documents: int = 1) -> dict[str, Tensor]:
    """Token ids [N·length + 1] as rows of `length` with their targets."""
    rows = (len(ids) - 1) // length
    shape = (rows, length)
    return {
        "ids": ids[: rows * length].view(shape),
        "targets": ids[1 : rows * length + 1].view(shape),
        "positions": torch.arange(length).expand(shape),
        "documents": torch.full(shape, documents, dtype=torch.int32),
    }


def batches(ids: Tensor) -> Iterator[list[dict[str, Tensor]]]:
    """Random windows of the training length, the same for every model."""
    draw = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(0, len(ids) - TRAINED - 1, (ROWS,), generator=draw)
        piece = torch.stack([ids[s : s + TRAINED + 1] for s in starts.tolist()])
        rows = windows(torch.zeros(ROWS * TRAINED + 1, dtype=torch.int64), TRAINED)
        yield [rows | {"ids": piece[:, :-1], "targets": piece[:, 1:]}]


@torch.no_grad()
def bits_per_byte(model: torch.nn.Module, ids: Tensor, length: int, dtype: torch.dtype) -> float:
    """Of windows of `length`, each read from nothing."""
    rows = windows(ids, length)
    total = count = 0.0
    step = max(1, 4096 // length)
    for start in range(0, len(rows["ids"]), step):
        part = {name: column[start : start + step] for name, column in rows.items()}
        with autocast(CPU, dtype):
            found = next_token(model(part["ids"]), part)
        total, count = total + found.sum.item(), count + found.count.item()
    return total / count / math.log(2)


def scaled(model: Any, factor: float) -> dict[str, ModelConfig]:
    """The trained rotary model with its positions stretched."""
    config: ModelConfig = model.config
    known = {"factor": factor, "original_max_position_embeddings": TRAINED}
    return {
        "rotary": config,
        "rotary, linear": config.model_copy(update={"rope_scaling": {"rope_type": "linear", "factor": factor}}),
        "rotary, NTK": config.model_copy(update={"rope_base": ntk_base(config.rope_base, factor, config.rotary_size)}),
        "rotary, YaRN": config.model_copy(update={"rope_scaling": {"rope_type": "yarn", **known}}),
    }


def train(text: Path, positions: str, steps: int, width: int, layers: int) -> None:
    """One model, its perplexities by length, written beside the others'."""
    torch.manual_seed(0)
    learnt, held_out = texts(text)
    ids = torch.tensor(list("".join(learnt).encode()))
    held = torch.tensor(list("".join(held_out).encode()))[: 1 + 32 * max(LENGTHS)]
    config = ModelConfig(
        vocab_size=256, width=width, layers=layers, heads=width // 32, kv_heads=width // 32,
        head_size=32, hidden=width * 8 // 3, context=max(LENGTHS), positions=positions,
    )  # fmt: skip
    model: Any = build(config)
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.01))
    began, dtype = time.perf_counter(), torch.bfloat16
    rate = partial(warmup_stable_decay, steps=steps)
    for step in fit(model, batches(ids), next_token, optimizer, rate, steps=steps, dtype=dtype):
        if step.every(50):
            print(
                f"{positions} {step.number + 1}/{steps}: loss {step.loss:.3f}, {step.tokens_per_second:,.0f} tokens/s"
            )
    model.eval()
    figures: dict[str, Any] = {"seconds": time.perf_counter() - began, "parameters": config.parameters()}
    figures |= {"trained_tokens": steps * ROWS * TRAINED, "held_out_tokens": len(held), "bits_per_byte": {}}
    variants = scaled(model, max(LENGTHS) / TRAINED) if positions == "rotary" else {positions: config}
    for name, variant in variants.items():
        model.backbone.config = variant
        model.backbone.make_tables()
        found = {length: bits_per_byte(model, held, length, dtype) for length in LENGTHS}
        figures["bits_per_byte"][name] = found
        print(name, {length: round(value, 2) for length, value in found.items()})
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"lengths-{positions}.json").write_text(json.dumps(figures, indent=1) + "\n")


def draw() -> None:
    """docs/figures/lengths.svg of all the figures there are."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "fledge"
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    styles = {"alibi": ("#0b6e4f", "-"), "learned": ("#c0392b", "-"), "sinusoidal": ("#b9770e", "-")}
    styles |= {"none": ("#7f8c8d", "-"), "rotary": ("#1f4e9c", "-"), "rotary, linear": ("#1f4e9c", ":")}
    styles |= {"rotary, NTK": ("#1f4e9c", "--"), "rotary, YaRN": ("#1f4e9c", "-.")}
    for path in sorted(FIGURES.glob("lengths-*.json")):
        for name, found in json.loads(path.read_text())["bits_per_byte"].items():
            colour, line = styles[name]
            x, y = [int(length) for length in found], list(found.values())
            axes.plot(x, y, line, color=colour, marker="o", markersize=3.5, label=name)
    axes.axvline(TRAINED, color="#999999", linewidth=0.8)
    axes.annotate("trained at 256", (TRAINED, 0.88), xycoords=("data", "axes fraction"), xytext=(4, 0),
                  textcoords="offset points", va="top", color="#555555", fontsize=9)  # fmt: skip
    axes.set(xlabel="bytes in the window", ylabel="bits per byte of held-out text")
    axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, fontsize=9, loc="center right", bbox_to_anchor=(1.0, 0.54))
    figure.savefig(FIGURES / "lengths.svg", metadata={"Date": None})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["train", "draw"])
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--positions", default="alibi", choices=["alibi", "learned", "sinusoidal", "rotary", "none"])
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    given = parser.parse_args()
    if given.what == "train" and given.text:
        train(given.text, given.positions, given.steps, given.width, given.layers)
    else:
        draw()


if __name__ == "__main__":
    main()
