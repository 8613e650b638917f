"""What pretraining is worth: the topic of news, learnt from scratch and after it, with equal fine-tuning.

    python benchmarks/transfer.py --data FOLDER [--objective mlm] [--tokens N] [--out runs/transfer]

FOLDER holds `classification/ag_news_train10k.jsonl.gz`: 8,000 texts are read without their labels, of some of them the
labels are learnt, the other 2,000 are measured on and never seen before. The same model, vocabulary, examples, order
and steps; only the weights that fine-tuning begins with differ. Accuracy over several seeds.
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
from fledge.core.files import write_jsonl
from fledge.core.log import Log
from fledge.data.readers import read
from fledge.recipes.artifact import make
from fledge.stages import load_stage
from fledge.stages.objective import OBJECTIVES
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer
from learn_objectives import write_texts

DEPTH, LENGTH, VOCABULARY, MEASURED = 2, 128, 1024, 2000


def prepare(data: Path, out: Path) -> None:
    """The texts without their labels, both parts with them, and a vocabulary."""
    out.mkdir(parents=True, exist_ok=True)
    rows = read(data / "classification" / "ag_news_train10k.jsonl.gz").rows
    labelled = [{"text": row["text"], "label": row["label"]} for row in rows]
    known, unseen = labelled[:-MEASURED], labelled[-MEASURED:]
    write_jsonl(out / "known.jsonl", known)
    write_jsonl(out / "unseen.jsonl", unseen)
    write_texts(known, out)
    texts = [row["text"] for row in known]
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
    """Held-out accuracy after fine-tuning on `limit` texts."""
    values = {
        "task": "classification", "train": given.out / "known.jsonl", "evaluate": given.out / "unseen.jsonl",
        "limit": limit, "epochs": 3, "length": LENGTH, "tokens_per_step": 1024, "tokens_per_microbatch": 1024,
        "seed": seed, "compile": "never", "optimizer": {"name": "adamw", "learning_rate": 1e-3}, **begin,
    }  # fmt: skip
    summary = run("finetune", given.out / f"{name}_{limit}_{seed}", values)
    return float(summary["metrics"]["accuracy"]["value"])


def main() -> None:
    """Pretrains once, fine-tunes both ways, prints one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--objective", default="mlm", choices=[n for n, o in OBJECTIVES.items() if o.texts == "any"])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--limits", type=int, nargs="*", default=[500])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if not (given.out / "tokenizer").exists():
        prepare(given.data, given.out)
    summary = run(
        "pretrain", given.out / f"pretrained-{given.objective}",
        {
            "documents": given.out / "documents.jsonl", "heldout": given.out / "heldout.jsonl",
            "tokenizer": given.out / "tokenizer", "objective": given.objective, "depth": DEPTH, "context": LENGTH,
            "length": LENGTH, "tokens": given.tokens, "tokens_per_step": 1024, "tokens_per_microbatch": 1024,
            "compile": "never", "evaluate_every": 0, "evaluate_documents": 12, "optimizer": {"learning_rate": 2e-3},
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
    for column in ("labelled texts", *begins):
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
