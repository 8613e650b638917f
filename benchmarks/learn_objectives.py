"""Does every objective learn from real text? Held-out loss and accuracy before and after a short pretraining of each.

    python benchmarks/learn_objectives.py --data FOLDER [--objective mlm …] [--tokens N] [--out runs/objectives]

FOLDER holds `text/tinystories_sample.jsonl` and `translation/multi30k_{train,val}.{en,de}.gz`. One small model of each
shape, one vocabulary, the same number of tokens (--depth and --vocabulary choose others). What is done already is kept,
so it can be run piece by piece; the table and the picture are of all that is there.
"""

import argparse
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from fledge.core.config import make_config
from fledge.core.log import Log
from fledge.data.packing import Example, pack
from fledge.data.readers import read
from fledge.evaluate.objective import measure_objective
from fledge.model.config import ModelConfig
from fledge.objectives import next_token
from fledge.recipes.artifact import make
from fledge.stages.charts import Line, chart
from fledge.stages.objective import OBJECTIVES, plan_of
from fledge.stages.pretrain import PretrainConfig, read_texts
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer

DEPTH, LENGTH, VOCABULARY, HELDOUT, STEP = 2, 64, 1024, 48, 1024
RATES = {"decoder": 6e-3, "encoder": 2e-3, "encoder_decoder": 6e-3}  # post-norm encoders stay at unigrams at 6e-3


def prepare(data: Path, out: Path, vocabulary: int) -> None:
    """Stories, some of them held out, translations, and one vocabulary for all."""
    out.mkdir(parents=True, exist_ok=True)
    write_texts(read(data / "text" / "tinystories_sample.jsonl").rows, out)
    for part in ("train", "val"):
        for language in ("en", "de"):
            with gzip.open(data / "translation" / f"multi30k_{part}.{language}.gz", "rt", encoding="utf-8") as file:
                (out / f"{part}.{language}").write_text(file.read())
    texts = [json.loads(line)["text"] for line in (out / "documents.jsonl").read_text().splitlines()]
    texts += [(out / f"train.{language}").read_text() for language in ("en", "de")]
    Tokenizer.train(texts, vocabulary, special_tokens=SPECIAL + DENOISING).save(out / "tokenizer")


def write_texts(rows: list[dict[str, Any]], out: Path, every: int = 20) -> None:
    """documents.jsonl and, every so many of the rows, heldout.jsonl."""
    for name, part in (("heldout", rows[::every]), ("documents", [row for n, row in enumerate(rows) if n % every])):
        texts = ({"text": re.sub(r"\s+", " ", row["text"])} for row in part)
        (out / f"{name}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))


def config_of(name: str, out: Path, tokens: int, depth: int) -> PretrainConfig:
    """The settings of one objective."""
    values: dict[str, Any] = {
        "documents": out / "documents.jsonl", "heldout": out / "heldout.jsonl", "tokenizer": out / "tokenizer",
        "objective": name, "depth": depth, "context": LENGTH, "length": LENGTH, "tokens": tokens,
        "tokens_per_step": STEP, "tokens_per_microbatch": STEP, "evaluate_documents": HELDOUT, "compile": "never",
        "evaluate_every": max(1, tokens // STEP // 5), "optimizer": {"learning_rate": RATES[OBJECTIVES[name].shape]},
    }  # fmt: skip
    if OBJECTIVES[name].texts == "translations":
        values |= {"documents": out / "train.en", "translations": out / "train.de"}
        values |= {"heldout": out / "val.en", "heldout_translations": out / "val.de"}
    return make_config(PretrainConfig, values, "the benchmark")


def untrained(name: str, config: PretrainConfig) -> dict[str, float]:
    """Loss and accuracy of the model that training starts from, on the same held-out rows."""
    tokenizer = Tokenizer.load(config.tokenizer)
    plan = plan_of(name, "auto", config.corruption, config.length, tokenizer)
    quiet = Log(quiet=True)
    _, held = read_texts(plan, config.heldout, config.heldout_translations, tokenizer, quiet, config.evaluate_documents)
    torch.manual_seed(config.seed)
    common = plan.common
    shape = ModelConfig.sized(config.depth, tokenizer.vocab_size, LENGTH, common.shape, head=common.head)
    rows = pack(texts_of(held), LENGTH, split=True) if plan.plain else plan.heldout_rows(held)
    return measure_objective(plan.model(shape), rows, common.loss, 32)


def texts_of(sources: dict[str, list[Example]]) -> list[Example]:
    """The examples of all kinds."""
    return [example for examples in sources.values() for example in examples]


def bytes_per_token(config: PretrainConfig) -> float:
    """Of the held-out documents, marks counted as tokens: turns bits per byte into nats per token."""
    tokenizer = Tokenizer.load(config.tokenizer)
    assert config.heldout is not None
    texts = [json.loads(line)["text"] for line in config.heldout.read_text().splitlines()][:HELDOUT]
    return sum(len(t.encode()) for t in texts) / sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))


def learn(name: str, out: Path, tokens: int, depth: int) -> None:
    """Trains one objective, unless that was done, and writes its curve beside it."""
    record, config = out / f"{name}.json", config_of(name, out, tokens, depth)
    if record.exists():
        return
    before = untrained(name, config)
    summary = make("pretrain", config, out / name, f"{name} {tokens}", Log())
    curve = [(0, before["loss"])]
    after = {key.removeprefix("heldout_"): value for key, value in summary.items() if key.startswith("heldout_")}
    for line in (out / name / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "heldout_loss" in row:
            curve.append((row["step"] * STEP, row["heldout_loss"]))
        elif "bits_per_byte" in row:
            curve.append((row["step"] * STEP, row["bits_per_byte"] * math.log(2) * bytes_per_token(config)))
    if name == "lm":
        after = language_after(config, out / name)
    found = {
        "before": before,
        "after": after,
        "curve": curve,
        "seconds": summary["tokens"] / summary["tokens_per_second"],
    }
    record.write_text(json.dumps(found))


def language_after(config: PretrainConfig, directory: Path) -> dict[str, float]:
    """What the other objectives' summaries say, for a plain language model."""
    from fledge.checkpoint.directory import load_model

    tokenizer = Tokenizer.load(directory)
    plan = plan_of("lm", "auto", config.corruption, config.length, tokenizer)
    _, held = read_texts(plan, config.heldout, None, tokenizer, Log(quiet=True), HELDOUT)
    return measure_objective(load_model(directory), pack(texts_of(held), LENGTH, split=True), next_token, 32)


def table(found: dict[str, dict[str, Any]]) -> Table:
    """Before and after, one objective a line."""
    shown = Table(box=MARKDOWN)
    for column in ("objective", "loss before", "loss after", "accuracy before", "accuracy after", "and"):
        shown.add_column(column, justify="left" if column in ("objective", "and") else "right")
    for name, record in found.items():
        before, after = record["before"], record["after"]
        extra = [f"{k.replace('_', ' ')} {before[k]:.2f} → {after[k]:.2f}" for k in
                 ("pair_accuracy", "detection_accuracy", "replaced_found") if k in after]  # fmt: skip
        shown.add_row(
            name, f"{before['loss']:.2f}", f"{after['loss']:.2f}", f"{before['accuracy']:.1%}",
            f"{after['accuracy']:.1%}", "; ".join(extra),
        )  # fmt: skip
    return shown


CSS = """
svg { font: 12px system-ui, sans-serif; background: #ffffff } .rule { stroke: #e3e3ea } text { fill: #555562 }
.line { fill: none; stroke-width: 2.4 } .title { font-weight: 600; font-size: 15px }
"""
COLOURS = {"decoder": "#2a9d8f", "encoder": "#e9a23b", "encoder_decoder": "#7a6ff0"}


def picture(found: dict[str, dict[str, Any]]) -> str:
    """One small chart of the held-out loss for each objective."""
    css = CSS + "".join(
        f".c-{s} {{ stroke: {c} }} circle.c-{s} {{ fill: {c} }} .t-{s} {{ fill: {c} }}" for s, c in COLOURS.items()
    )
    across, parts = 3, []
    for n, (name, record) in enumerate(found.items()):
        shape = OBJECTIVES[name].shape
        line = Line(name, shape, [tuple(point) for point in record["curve"]], marks=True)
        x, y = 20 + (n % across) * 460, 20 + (n // across) * 300
        svg = str(chart(f"held-out loss of {name}", [line], x="tokens", y="held-out loss"))
        svg = svg.replace("<svg ", f'<svg x="{x}" y="{y + 26}" width="440" height="250" ', 1)
        parts.append(f'<text class="title t-{shape}" x="{x + 8}" y="{y + 16}">{name}</text>{svg}')
    height = 40 + math.ceil(len(found) / across) * 300
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1400 {height}" width="1400" height="{height}">'
        f"<style>{css}</style>{''.join(parts)}</svg>\n"
    )


def main() -> None:
    """Trains what is asked for and prints the table of all that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--objective", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--picture", type=Path, default=None)
    given = parser.parse_args()
    if not (given.out / "tokenizer").exists():
        prepare(given.data, given.out, given.vocabulary)
    for name in given.objective:
        learn(name, given.out, given.tokens, given.depth)
    records = {name: given.out / f"{name}.json" for name in OBJECTIVES}
    found = {name: json.loads(record.read_text()) for name, record in records.items() if record.exists()}
    Console().print(table(found))
    if given.picture:
        given.picture.write_text(picture(found))


if __name__ == "__main__":
    main()
