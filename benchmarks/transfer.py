"""What pretraining is worth: the sentiment of sentences, learnt from scratch and after it, with equal fine-tuning.

    python benchmarks/transfer.py --data FOLDER [--objective mlm] [--tokens N] [--out runs/transfer]

FOLDER holds `classification/movie_reviews_train.jsonl.gz` (whose texts are read without their labels) and
`classification/sentence_polarity_train.jsonl.gz`. The same model, vocabulary, examples, order and steps; only the
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
from fledge.data.readers import read
from fledge.recipes.artifact import make
from fledge.stages import load_stage
from fledge.stages.objective import OBJECTIVES
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer
from learn_objectives import write_texts

DEPTH, LENGTH, VOCABULARY = 2, 64, 4096


def prepare(data: Path, out: Path) -> None:
    """The reviews without their labels, and a vocabulary of them."""
    out.mkdir(parents=True, exist_ok=True)
    write_texts(read(data / "classification" / "movie_reviews_train.jsonl.gz").rows, out)
    texts = [json.loads(line)["text"] for line in (out / "documents.jsonl").read_text().splitlines()]
    Tokenizer.train(texts, VOCABULARY, special_tokens=SPECIAL + DENOISING).save(out / "tokenizer")


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
    parser.add_argument("--objective", default="lm", choices=[n for n, o in OBJECTIVES.items() if o.texts == "any"])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--limits", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if not (given.out / "tokenizer").exists():
        prepare(given.data, given.out)
    summary = run(
        "pretrain", given.out / f"pretrained-{given.objective}",
        {
            "documents": given.out / "documents.jsonl", "heldout": given.out / "heldout.jsonl",
            "tokenizer": given.out / "tokenizer", "objective": given.objective, "depth": DEPTH, "context": LENGTH,
            "length": LENGTH, "tokens": given.tokens, "tokens_per_step": 2048, "tokens_per_microbatch": 2048,
            "compile": "never", "evaluate_every": 0, "evaluate_documents": 12, "optimizer": {"learning_rate": 4e-3},
        },
    )  # fmt: skip
    scratch = {
        "tokenizer": given.out / "tokenizer",
        "shape": OBJECTIVES[given.objective].shape,
        "depth": DEPTH,
        "context": LENGTH,
    }
    begins = {
        "from scratch": scratch,
        f"after {given.objective}": {"model": given.out / f"pretrained-{given.objective}"},
    }
    measured = ", ".join(f"{k} {summary[k]:.2f}" for k in ("bits_per_byte", "heldout_loss") if k in summary)
    shown = Table(box=MARKDOWN, title=f"{given.objective}: {measured} after {given.tokens:,} tokens")
    for column in ("sentences to learn from", *begins):
        shown.add_column(column, justify="right")
    for limit in given.limits:
        cells = []
        for name, begin in begins.items():
            found = [
                finetuned(given, begin, f"{begin.get('shape', 'model')}-{name.replace(' ', '-')}", limit, seed)
                for seed in range(given.seeds)
            ]
            cells.append(f"{statistics.mean(found):.1%} ({min(found):.1%} – {max(found):.1%})")
        shown.add_row(f"{limit:,}", *cells)
    Console().print(shown)


if __name__ == "__main__":
    main()
