"""What pretraining is worth: the sentiment of sentences, learnt from scratch and after MLM, with equal fine-tuning.

    python benchmarks/transfer.py --data FOLDER [--tokens N] [--out runs/transfer]

FOLDER holds `classification/movie_reviews_train.jsonl.gz` (whose texts are read without their labels) and
`classification/sentence_polarity_train.jsonl.gz`. The same encoder, vocabulary, examples, order and steps; only the
weights that fine-tuning begins with differ. Accuracy on held-out sentences, over several seeds (each another split).
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from fledge.core.config import make_config
from fledge.core.log import Log
from fledge.recipes.artifact import make
from fledge.stages import load_stage
from learn_objectives import prepare

DEPTH, LENGTH = 2, 64


def run(stage: str, out: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Runs a stage into a directory, unless it is there, and returns its summary."""
    record = out.with_suffix(".json")
    if not record.exists():
        config = make_config(load_stage(stage).config, values, "the benchmark")
        record.write_text(json.dumps(make(stage, config, out, out.name, Log())))
    found: dict[str, Any] = json.loads(record.read_text())
    return found


def finetuned(given: argparse.Namespace, begin: dict[str, Any], name: str, limit: int, seed: int) -> float:
    """Held-out accuracy after fine-tuning on `limit` sentences."""
    values = {
        "task": "classification", "train": given.data / "classification" / "sentence_polarity_train.jsonl.gz",
        "heldout": 0.2, "limit": limit, "epochs": 3, "length": LENGTH, "tokens_per_step": 2048, "seed": seed,
        "tokens_per_microbatch": 2048, "compile": "never", **begin,
    }  # fmt: skip
    summary = run("finetune", given.out / f"{name}_{limit}_{seed}", values)
    return float(summary["metrics"]["accuracy"]["value"])


def main() -> None:
    """Pretrains once, fine-tunes both ways, prints one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--limits", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if not (given.out / "tokenizer").exists():
        prepare(given.data, given.out)
    summary = run(
        "pretrain", given.out / "pretrained",
        {
            "documents": given.out / "documents.jsonl", "heldout": given.out / "heldout.jsonl",
            "tokenizer": given.out / "tokenizer", "objective": "mlm", "depth": DEPTH, "context": LENGTH,
            "length": LENGTH, "tokens": given.tokens, "tokens_per_step": 2048, "tokens_per_microbatch": 2048,
            "compile": "never", "evaluate_every": 0, "evaluate_documents": 12, "optimizer": {"learning_rate": 4e-3},
        },
    )  # fmt: skip
    scratch = {"tokenizer": given.out / "tokenizer", "shape": "encoder", "depth": DEPTH, "context": LENGTH}
    begins = {"from scratch": scratch, "after MLM": {"model": given.out / "pretrained"}}
    shown = Table(box=MARKDOWN, title=f"MLM: held-out loss {summary['heldout_loss']:.2f} after {given.tokens:,} tokens")
    for column in ("sentences to learn from", *begins):
        shown.add_column(column, justify="right")
    for limit in given.limits:
        cells = []
        for name, begin in begins.items():
            found = [finetuned(given, begin, name.replace(" ", "-"), limit, seed) for seed in range(given.seeds)]
            cells.append(f"{statistics.mean(found):.1%} ({min(found):.1%} – {max(found):.1%})")
        shown.add_row(f"{limit:,}", *cells)
    Console().print(shown)


if __name__ == "__main__":
    main()
