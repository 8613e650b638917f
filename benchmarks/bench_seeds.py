"""Which seed grows where: encoder, decoder, encoder-decoder and LSTM, each at what it is for, by equal CPU time.

    python benchmarks/bench_seeds.py DATA WORK [NAME …] [--scale 0.5] [--quick] [--table]

Every entry is one `fledge finetune`, or a `fledge pretrain` that others begin from. The steps of a fine-tuning are what
fits into its seconds of CPU time on one thread, by the pace of a few steps measured before, so a busy machine changes
only how long one waits. DATA holds the sets that docs/finetune.md names. What is measured on is never read before, not
even without its labels; XQuAD is measured on only (its questions are learnt from Natural Questions' gold passages).
Results lie in WORK/NAME and are not made again; what was stopped goes on where it was. `--scale` multiplies budgets.
"""

import argparse
import gzip
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fledge.checkpoint.directory import load_model
from fledge.core.config import load_config
from fledge.core.device import pick_device, pick_dtype
from fledge.core.files import read_json, write_json, write_jsonl, write_text_atomic
from fledge.core.log import Log
from fledge.data.corruption.marks import Marks
from fledge.data.labelled import text_lines
from fledge.data.readers import read
from fledge.evaluate.statistics import mean, proportion
from fledge.stages.finetune import FinetuneConfig, finetune, prepare
from fledge.stages.pretrain import PretrainConfig, pretrain
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer
from fledge.train.loop import fit
from fledge.train.optimizers import build as build_optimizer

TRIAL, WARM = 12, 3  # steps that are timed, and those before them
ASKED, WINDOW = 600, 48  # held-out tokens that completion asks for, and the tokens around each
REVIEWS = 600  # film reviews among the texts of pretraining

POLARITY = ["task=classification", "train=WORK/polarity.train.jsonl", "evaluate=WORK/polarity.heldout.jsonl"]
NEWS = ["task=classification", "train=WORK/news.train.jsonl", "evaluate=WORK/news.heldout.jsonl"]
SICK = ["train=DATA/classification/sick_train.tsv", "evaluate=DATA/classification/sick_trial.tsv"]
ENTAILMENT = [*SICK, "task=classification", "columns.label=entailment_judgment"]
RELATEDNESS = [*SICK, "task=regression", "columns.label=relatedness_score"]
ANSWERS = ["task=answering", "train=WORK/questions.json", "evaluate=DATA/qa/xquad_a.en.json.gz"]
TRANSLATION = [
    "task=text_to_text", "train=DATA/translation/multi30k_train.en.gz",
    "train_targets=DATA/translation/multi30k_train.de.gz", "evaluate=WORK/val.en", "evaluate_targets=WORK/val.de",
    "length=96", "context=256", "max_new_tokens=40", "nbest=4",
]  # fmt: skip
GREEDY = ["beam.beams=1", "nbest=1"]
SCRATCH = ["tokenizer=WORK/english", "depth=2", "context=256", "optimizer.learning_rate=0.001"]
PARALLEL = ["tokenizer=WORK/parallel", "depth=2"]
MUON = ["optimizer.name=muon", "optimizer.learning_rate=0.006"]
LSTM = [*PARALLEL, "shape=lstm", "optimizer.learning_rate=0.004"]

# objective, learning rate of Muon, tokens: a post-norm encoder stays at unigrams at 6e-3 (LOG.md)
PRETRAINING: dict[str, tuple[str, float, int]] = {
    "encoder": ("mlm", 0.002, 2_000_000),
    "decoder": ("lm", 0.006, 2_000_000),
    "encoder_decoder": ("span_mask", 0.006, 2_000_000),
}
UNDERSTANDING = {
    "polarity": POLARITY, "news": NEWS, "entailment": ENTAILMENT, "relatedness": RELATEDNESS, "answers": ANSWERS,
}  # fmt: skip
ENTRIES: dict[str, tuple[float, list[str]]] = {}
for _task, _overrides in UNDERSTANDING.items():
    for _shape in ("encoder", "decoder"):
        _begun = [f"model=WORK/pretrain/{_shape}", "optimizer.learning_rate=0.001"]
        ENTRIES[f"{_task}/{_shape}-scratch"] = (40, [*_overrides, *SCRATCH, f"shape={_shape}"])
        ENTRIES[f"{_task}/{_shape}-pretrained"] = (40, [*_overrides, *_begun])
ENTRIES |= {
    "translate/transformer": (240, [*TRANSLATION, *PARALLEL, *MUON]),
    "translate/decoder": (240, [*TRANSLATION, *PARALLEL, *MUON, "shape=decoder", "axes.layers=5"]),
    "translate/lstm": (240, [*TRANSLATION, *LSTM, "axes={width: 196, layers: 1}"]),
    "translate/lstm-forwards": (240, [*TRANSLATION, *LSTM, "axes={width: 196, layers: 1, reverse: false}"]),
}
for _name in ("transformer", "decoder", "lstm"):
    ENTRIES[f"translate/{_name}-greedy"] = (0, [*TRANSLATION, *GREEDY, f"model=WORK/translate/{_name}"])


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


def run(name: str, seconds: float, overrides: list[str], data: Path, work: Path) -> None:
    """One fine-tuning, unless it is there already."""
    out = work / name
    if (out / "result.json").is_file():
        return
    given = [text.replace("DATA", str(data)).replace("WORK", str(work)) for text in overrides]
    base = ["device=cpu", "compile=never", "tokens_per_step=1024", "tokens_per_microbatch=1024"]
    config = load_config(FinetuneConfig, None, [*base, *given])
    if not (out / "plan.json").is_file():
        step, steps = pace(config) if seconds else (1.0, 1)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "plan.json", {"epochs": seconds / step / steps, "seconds": seconds})
    plan = read_json(out / "plan.json")
    config = config.model_copy(update={"epochs": plan["epochs"]})
    write_json(out / "result.json", finetune(config, out, Log(out)) | plan)


def pretrained(kind: str, work: Path, scale: float) -> None:
    """A model of one shape that has read the texts, and what it completes, unless they are there already."""
    objective, rate, tokens = PRETRAINING[kind]
    out = work / "pretrain" / kind
    overrides = [f"documents={work / 'documents.jsonl'}", f"heldout={work / 'heldout.jsonl'}"]
    overrides += [f"tokenizer={work / 'english'}", f"objective={objective}", f"tokens={round(tokens * scale)}"]
    overrides += ["device=cpu", "compile=never", "depth=2", "context=256", "length=128", "evaluate_every=0"]
    overrides += ["tokens_per_step=1024", "tokens_per_microbatch=1024", f"optimizer.learning_rate={rate}"]
    if not (out / "result.json").is_file():
        out.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        summary = pretrain(load_config(PretrainConfig, None, overrides), out, Log(out))
        write_json(out / "result.json", summary | {"objective": objective, "seconds": time.process_time() - began})
    if not (out / "completion.json").is_file():
        write_json(out / "completion.json", completion(kind, out, work / "heldout.jsonl"))


def questions(kind: str, tokenizer: Tokenizer, windows: Tensor) -> Iterator[tuple[str, dict[str, Tensor], int]]:
    """How a shape is asked for the middle token of windows [N,WINDOW]: with what stands before it ("next"), and with
    what stands on both sides ("hidden"; a decoder cannot be): inputs, and where the answer's logits are."""
    marks, middle = Marks.of(tokenizer), WINDOW // 2
    left, right = windows[:, :middle], windows[:, middle + 1 :]

    def mark(token: int | None) -> Tensor:
        return torch.full((len(windows), 1), token, dtype=torch.int64)

    for asked, after in (("next", right[:, :0]), ("hidden", right)):
        if kind == "encoder":
            ids = torch.cat([mark(marks.cls), left, mark(marks.mask), after, mark(marks.sep)], 1)
            yield asked, {"ids": ids, "token_types": torch.zeros_like(ids)}, middle + 1
        elif kind == "encoder_decoder":
            gap = mark(int(marks.sentinels[0]))
            source = torch.cat([left, gap, after, mark(marks.end)], 1)
            yield asked, {"ids": torch.cat([mark(marks.start), gap], 1), "source_ids": source}, 1
        elif asked == "next":
            yield asked, {"ids": torch.cat([mark(marks.end), left], 1)}, middle


@torch.no_grad()
def completion(kind: str, directory: Path, heldout: Path) -> dict[str, Any]:
    """Nats and accuracy of held-out tokens from their left context alone, and from both sides."""
    tokenizer, model = Tokenizer.load(directory), load_model(directory).eval()
    rows = [json.loads(line)["text"] for line in heldout.read_text().splitlines()]
    pieces = [ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW) for ids in tokenizer.encode_batch(rows)]
    every = np.concatenate(pieces)
    chosen = np.random.default_rng(0).permutation(len(every))[:ASKED]
    windows = torch.from_numpy(every[chosen].astype(np.int64))
    truth, found = windows[:, WINDOW // 2], {}
    for asked, given, place in questions(kind, tokenizer, windows):
        logs = model(**given).logits()[:, place].float().log_softmax(-1)
        nats = -logs.gather(1, truth[:, None])[:, 0]
        right = int((logs.argmax(-1) == truth).sum())
        found[asked] = {"nats": mean(nats.numpy()).as_dict(), "accuracy": proportion(right, len(truth)).as_dict()}
    return found


def texts(data: Path, work: Path) -> None:
    """What is learnt from and what is measured on, apart, and the vocabularies."""
    work.mkdir(parents=True, exist_ok=True)
    prose = [row["text"] for row in read(data / "classification/movie_reviews_train.jsonl.gz").rows[:REVIEWS]]
    prose += text_lines(data / "text" / "wikipedia_30_articles.txt.gz")
    for task, file in (("polarity", "sentence_polarity_train"), ("news", "ag_news_train10k")):
        rows = [{"text": r["text"], "label": r["label"]} for r in read(data / f"classification/{file}.jsonl.gz").rows]
        write_jsonl(work / f"{task}.heldout.jsonl", rows[::10])
        measured = {row["text"] for row in rows[::10]}
        learnt = [row for row in rows if row["text"] not in measured]
        write_jsonl(work / f"{task}.train.jsonl", learnt)
        prose += [row["text"] for row in learnt]
    prose += text_lines(data / "translation" / "multi30k_train.en.gz")
    prose = [text for text in dict.fromkeys(prose) if text.strip()]
    held = set(prose[::50])
    write_jsonl(work / "documents.jsonl", [{"text": text} for text in prose if text not in held])
    write_jsonl(work / "heldout.jsonl", [{"text": text} for text in prose[::50]])
    write_json(work / "questions.json", {"data": list(spans_of_passages(data / "qa" / "nq_open_oracle_a.jsonl.gz"))})
    for side in ("en", "de"):
        lines = text_lines(data / "translation" / f"multi30k_val.{side}.gz")
        write_text_atomic(work / f"val.{side}", "\n".join(lines[:300]) + "\n")
    both = [line for side in ("en", "de") for line in text_lines(data / f"translation/multi30k_train.{side}.gz")]
    for name, size, known in (("english", 1024, [t for t in prose if t not in held]), ("parallel", 4096, both)):
        Tokenizer.train(known, size, special_tokens=SPECIAL + DENOISING).save(work / name)


def spans_of_passages(path: Path) -> Iterator[dict[str, Any]]:
    """Natural Questions with their gold passages, as SQuAD writes questions; those whose answer stands there."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            context = row["ctxs"][0]["text"]
            found = [{"text": a, "answer_start": context.find(a)} for a in row["answers"] if a in context]
            if found:
                yield {"context": context, "question": row["question"], "answers": found}


def figure(found: dict[str, float], digits: int) -> str:
    """A value with its interval."""
    if math.isnan(found["low"]):
        return f"{found['value']:.{digits}f}"
    return f"{found['value']:.{digits}f} ({found['low']:.{digits}f} – {found['high']:.{digits}f})"


def show(work: Path) -> None:
    """The tables of all that is there."""
    completed, done = Table(box=MARKDOWN), Table(box=MARKDOWN)
    for column in ("pretrained", "objective", "weights", "CPU s", "from the left: nats", "right %", "from both sides"):
        completed.add_column(column)
    for kind in PRETRAINING:
        out = work / "pretrain" / kind
        if (out / "completion.json").is_file():
            result, found = read_json(out / "result.json"), read_json(out / "completion.json")
            said = [f"{figure(f['nats'], 2)}; {100 * f['accuracy']['value']:.1f} %" for f in found.values()]
            left = said[0].split("; ")
            size = f"{result['parameters'] / 1e6:.2f} M"
            completed.add_row(kind, result["objective"], size, f"{result['seconds']:.0f}", *left, *said[1:])
    for column in ("entry", "weights", "CPU s", "epochs", "figures"):
        done.add_column(column)
    for name in ENTRIES:
        if (work / name / "result.json").is_file():
            result = read_json(work / name / "result.json")
            figures = ", ".join(f"{key} {figure(m, 3)}" for key, m in result["metrics"].items())
            size = f"{result['parameters'] / 1e6:.2f} M"
            done.add_row(name, size, f"{result['seconds']:.0f}", f"{result['epochs']:.2f}", figures)
    console = Console(width=200)
    console.print(completed)
    console.print(done)


def main() -> None:
    """The entries asked for (default: all), then the tables of what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", help="entries, by the beginning of their names")
    parser.add_argument("--quick", action="store_true", help="a few seconds each: does it run at all")
    parser.add_argument("--scale", type=float, default=1.0, help="what all budgets are multiplied with")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    given = parser.parse_args()
    scale = 0.02 if given.quick else given.scale
    torch.set_num_threads(1)
    if not (given.work / "parallel").is_dir():
        texts(given.data, given.work)

    def wanted(name: str) -> bool:
        return not given.table and (not given.names or any(name.startswith(n) for n in given.names))

    for kind in PRETRAINING:
        if wanted(f"pretrain/{kind}"):
            pretrained(kind, given.work, scale)
    for name, (seconds, overrides) in ENTRIES.items():
        if wanted(name):
            run(name, seconds * scale, overrides, given.data, given.work)
    show(given.work)


if __name__ == "__main__":
    main()
