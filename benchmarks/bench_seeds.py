"""Which seed grows where: encoder, decoder, encoder-decoder and LSTM on labelled tasks, each given the same CPU time.

    python benchmarks/bench_seeds.py DATA WORK [NAME …] [--scale 0.1] [--quick]

Every entry is one `fledge finetune`, or a `fledge pretrain` that others begin from. Its number of steps is what fits
into its seconds of CPU time on one thread, by the pace of a few steps measured before, so a busy machine changes only
how long one waits. DATA holds the sets docs/finetune.md names. Results lie in WORK/NAME and are not made again; what
was stopped goes on where it was. `--scale` multiplies all budgets.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from fledge.core.config import load_config
from fledge.core.device import pick_device, pick_dtype
from fledge.core.files import read_json, write_json, write_jsonl, write_text_atomic
from fledge.core.log import Log
from fledge.data.labelled import text_lines
from fledge.data.readers import read
from fledge.stages.finetune import FinetuneConfig, finetune, prepare
from fledge.stages.pretrain import PretrainConfig, pretrain
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer
from fledge.train.loop import fit
from fledge.train.optimizers import build as build_optimizer

TRIAL, WARM = 12, 3  # steps that are timed, and those before them

POLARITY = ["task=classification", "train=DATA/classification/sentence_polarity_train.jsonl.gz"]
NEWS = ["task=classification", "train=DATA/classification/ag_news_train10k.jsonl.gz"]
SICK = ["train=DATA/classification/sick_train.tsv", "evaluate=DATA/classification/sick_trial.tsv"]
ENTAILMENT = [*SICK, "task=classification", "columns.label=entailment_judgment"]
RELATEDNESS = [*SICK, "task=regression", "columns.label=relatedness_score"]
ANSWERS = ["task=answering", "train=DATA/qa/xquad_a.en.json.gz", "heldout=0.25"]
TRANSLATION = [
    "task=text_to_text", "train=DATA/translation/multi30k_train.en.gz",
    "train_targets=DATA/translation/multi30k_train.de.gz", "evaluate=WORK/val.en", "evaluate_targets=WORK/val.de",
    "length=96", "context=256", "max_new_tokens=40", "nbest=4",
]  # fmt: skip
SCRATCH = ["tokenizer=WORK/english", "depth=2", "context=256", "optimizer.learning_rate=0.001"]
PARALLEL = ["tokenizer=WORK/parallel", "depth=2"]
MUON = ["optimizer.name=muon", "optimizer.learning_rate=0.006"]
LSTM = [*PARALLEL, "shape=lstm", "optimizer.learning_rate=0.004"]


def begun(kind: str) -> list[str]:
    """Beginning from a pretrained model."""
    return [f"model=WORK/pretrain/{kind}", "optimizer.learning_rate=0.001"]


PRETRAINING = {"pretrain/encoder": "mlm", "pretrain/decoder": "lm"}
ENTRIES: dict[str, tuple[float, list[str]]] = {
    "translate/transformer": (240, [*TRANSLATION, *PARALLEL, *MUON]),
    "translate/lstm": (240, [*TRANSLATION, *LSTM, "axes={width: 180, layers: 1}"]),
    "translate/lstm-forwards": (240, [*TRANSLATION, *LSTM, "axes={width: 180, layers: 1, reverse: false}"]),
    "translate/decoder": (240, [*TRANSLATION, *PARALLEL, *MUON, "shape=decoder", "axes.layers=5"]),
}
for _task, _overrides, _seconds in (
    ("polarity", POLARITY, 30), ("entailment", ENTAILMENT, 30), ("news", NEWS, 30),
    ("relatedness", RELATEDNESS, 30), ("answers", ANSWERS, 30),
):  # fmt: skip
    for _shape in ("encoder", "decoder"):
        ENTRIES[f"{_task}/{_shape}-scratch"] = (_seconds, [*_overrides, *SCRATCH, f"shape={_shape}"])
        ENTRIES[f"{_task}/{_shape}-pretrained"] = (_seconds, [*_overrides, *begun(_shape)])


def pace(config: FinetuneConfig) -> tuple[float, int]:
    """CPU seconds of a step, and the steps of an epoch."""
    torch.manual_seed(0)
    job = prepare(config, Log(quiet=True))
    device = pick_device(config.device)
    optimizer = build_optimizer(job.model, config.optimizer)
    marks = []
    stepping = fit(job.model, job.stream, job.task.loss, optimizer, steps=TRIAL, dtype=pick_dtype(config.dtype, device))
    for _ in stepping:
        marks.append(time.process_time())
    return (marks[-1] - marks[WARM - 1]) / (len(marks) - WARM), job.stream.steps_per_epoch


def run(name: str, seconds: float, overrides: list[str], data: Path, work: Path) -> dict[str, Any]:
    """One entry, unless it is there already."""
    out = work / name
    if (out / "result.json").is_file():
        return read_json(out / "result.json")
    given = [text.replace("DATA", str(data)).replace("WORK", str(work)) for text in overrides]
    base = ["device=cpu", "compile=never", "tokens_per_step=2048", "tokens_per_microbatch=2048"]
    config = load_config(FinetuneConfig, None, [*base, *given])
    if not (out / "plan.json").is_file():
        step, steps = pace(config)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "plan.json", {"epochs": seconds / step / steps, "seconds": seconds})
    plan = read_json(out / "plan.json")
    config = config.model_copy(update={"epochs": plan["epochs"]})
    result = finetune(config, out, Log(out)) | plan
    write_json(out / "result.json", result)
    return result


def pretrained(name: str, objective: str, data: Path, work: Path, tokens: int) -> None:
    """A model that has seen so many tokens of reviews and encyclopaedia, unless it is there already."""
    if (work / name / "config.json").is_file():
        return
    overrides = [f"documents={work / 'documents.jsonl'}", f"tokenizer={work / 'english'}", f"objective={objective}"]
    overrides += ["device=cpu", "compile=never", "depth=2", "context=256", "length=128", f"tokens={tokens}"]
    overrides += ["tokens_per_step=4096", "tokens_per_microbatch=4096", "optimizer.learning_rate=0.006"]
    (work / name).mkdir(parents=True, exist_ok=True)
    pretrain(load_config(PretrainConfig, None, overrides), work / name, Log(work / name))


def vocabularies(data: Path, work: Path) -> None:
    """A vocabulary of the English texts, one of both sides of the translations, and the files made for the purpose."""
    if not (work / "val.en").is_file():
        for side in ("en", "de"):
            lines = text_lines(data / "translation" / f"multi30k_val.{side}.gz")
            write_text_atomic(work / f"val.{side}", "\n".join(lines[:300]) + "\n")
    if not (work / "documents.jsonl").is_file():
        rows = read(data / "classification" / "movie_reviews_train.jsonl.gz").rows
        texts = [row["text"] for row in rows] + text_lines(data / "text" / "wikipedia_30_articles.txt.gz")
        write_jsonl(work / "documents.jsonl", [{"text": text} for text in texts if text.strip()])
    if not (work / "english").is_dir():
        files = ("sentence_polarity_train", "ag_news_train10k")
        texts = [row["text"] for file in files for row in read(data / "classification" / f"{file}.jsonl.gz").rows]
        texts += text_lines(data / "translation" / "multi30k_train.en.gz")
        Tokenizer.train(texts, 4096, special_tokens=SPECIAL + DENOISING).save(work / "english")
    if not (work / "parallel").is_dir():
        texts = [line for side in ("en", "de") for line in text_lines(data / f"translation/multi30k_train.{side}.gz")]
        Tokenizer.train(texts, 4096, special_tokens=SPECIAL + DENOISING).save(work / "parallel")


def main() -> None:
    """The entries asked for (default: all), then the table of what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", help="entries, by the beginning of their names")
    parser.add_argument("--quick", action="store_true", help="a few seconds each: does it run at all")
    parser.add_argument("--scale", type=float, default=1.0, help="what all budgets are multiplied with")
    given = parser.parse_args()
    scale = 0.02 if given.quick else given.scale
    torch.set_num_threads(1)
    vocabularies(given.data, given.work)
    for name, objective in PRETRAINING.items():
        if not given.names or any(name == n or name.startswith(n + "/") for n in given.names):
            pretrained(name, objective, given.data, given.work, round(1_500_000 * scale))
    for name, (seconds, overrides) in ENTRIES.items():
        if not given.names or any(name == n or name.startswith(n + "/") for n in given.names):
            run(name, seconds * scale, overrides, given.data, given.work)
    rows = []
    for name in ENTRIES:
        path = given.work / name / "result.json"
        if path.is_file():
            result = read_json(path)
            figures = "  ".join(
                f"{key} {m['value']:.3g} [{m['low']:.3g}, {m['high']:.3g}]" for key, m in result["metrics"].items()
            )
            size = f"{result['parameters'] / 1e6:.2f} M"
            rows.append([name, size, f"{result['seconds']:.0f}", f"{result['epochs']:.2f}", figures])
    Log().table("labelled tasks", ["entry", "weights", "CPU s", "epochs", "figures"], rows)


if __name__ == "__main__":
    main()
