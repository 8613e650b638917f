"""What the whole run is judged by: truth, invention, refusal, preference; bits per byte and calibration.

Every model answers the same held-out questions, sampled alike: documented names in phrasings never trained on, names
without a demonstration, invented names. Base models are asked by few-shot prompting (arXiv:2005.14165). The reference
labeller gives the verdicts; preference is measured against one model's answers to the same question, ties counting
half. Bits per byte and calibration on held-out documents show the alignment tax.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fledge.checkpoint.directory import load_model
from fledge.core.config import Config
from fledge.core.device import autocast, pick_device, pick_dtype
from fledge.core.errors import FledgeError
from fledge.core.files import read_jsonl, write_json
from fledge.core.log import Log
from fledge.core.nouns import messages_of
from fledge.evaluate.labeller import Verdict, prefer, verdict
from fledge.evaluate.language import evaluate_language
from fledge.evaluate.statistics import Estimate, proportion, win_rate
from fledge.generate.engine import Completion, Engine
from fledge.generate.sampling import Sampling
from fledge.stages.asking import ask, ask_base
from fledge.stages.examples import read_documents
from fledge.stages.preflight import check_contamination
from fledge.text.tokenizer import Tokenizer


class EvaluateConfig(Config):
    """`models` by name; those in `base` are prompted few-shot with the first rows of `shots`. `answers` by name: files
    of rows with `prompt` and `answer` to every question (answers.jsonl of `bestof`), judged as a model's would be."""

    models: dict[str, Path]
    answers: dict[str, Path] = {}
    questions: Path
    documents: Path | None = None
    base: list[str] = []
    shots: Path | None = None
    shot_count: int = 5
    against: str = "sft"
    aligned: str = "ppo"
    larger: str = "base_large"
    temperature: float = 1.0
    max_new_tokens: int = 48
    limit: int = 0
    evaluate_documents: int = 100
    samples: int = 24
    length: int = 256
    batch: int = 128
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 17


def evaluate(config: EvaluateConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes `evaluation.json` and prints the table."""
    rows = read_jsonl(config.questions)
    rows = rows[: config.limit or len(rows)]
    if not rows:
        raise FledgeError(f"{config.questions} holds no questions", "run the step that writes it again")
    lacking = [key for key in ("prompt", "kind", "truth", "split", "name") if key not in rows[0]]
    if lacking:
        raise FledgeError(
            f"{config.questions} has no column '{lacking[0]}'", "give the evaluation.jsonl of `questions`"
        )
    if config.shots:
        check_contamination(demonstrated(config.shots), [str(row["prompt"]) for row in rows], "questions")
    documents = read_documents(config.documents, log)[: config.evaluate_documents] if config.documents else []
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)

    said: dict[str, list[str]] = {}
    models: dict[str, dict[str, Any]] = {}
    reliability: dict[str, Any] = {}
    parameters: dict[str, int] = {}
    for name, path in config.models.items():
        tokenizer, model = Tokenizer.load(path), load_model(path, device=device)
        parameters[name] = model.config.parameters()
        said[name] = [c.text.strip() for c in answer(name, model, tokenizer, rows, config, log)]
        models[name] = {key: value.as_dict() for key, value in figures(rows, said[name]).items() if value.n}
        if documents:
            with autocast(device, dtype):
                measured = evaluate_language(model, tokenizer, documents, length=config.length)
            models[name]["bits_per_byte"] = measured.bits_per_byte.as_dict()
            models[name]["calibration_error"] = measured.calibration_error.as_dict()
            reliability[name] = measured.reliability

    for name, path in config.answers.items():
        said[name] = answers_given(path, rows)
        models[name] = {key: value.as_dict() for key, value in figures(rows, said[name]).items() if value.n}
    for name in said:
        if config.against in said:
            preferred = preference(rows, said[name], said[config.against])
            models[name][f"preferred_to_{config.against}"] = preferred.as_dict()
    result: dict[str, Any] = {
        "models": models,
        "parameters": parameters,
        "reliability": reliability,
        "samples": samples(rows, said, config.samples),
        "temperature": config.temperature,
        "seed": config.seed,
    }
    if config.aligned in said and config.larger in said:
        found = preference(rows, said[config.aligned], said[config.larger])
        result["preferred_to_base_large"] = found.as_dict()
    write_json(out / "evaluation.json", result)
    show(models, log)
    return {"models": models}


def answer(
    name: str, model: Any, tokenizer: Tokenizer, rows: list[dict[str, Any]], config: EvaluateConfig, log: Log
) -> list[Completion]:
    """One sampled answer to each question; the same seeds for every model."""
    dtype = pick_dtype(config.dtype, next(model.parameters()).device)
    engine = Engine(model, tokenizer, max_batch=config.batch, dtype=dtype)
    prompts = [messages_of(row["prompt"]) for row in rows]
    sampling = Sampling(temperature=config.temperature)
    if name not in config.base:
        return ask(engine, tokenizer, prompts, sampling, config.max_new_tokens, config.seed, log, name)
    shots = few_shots(config)
    return ask_base(engine, tokenizer, shots, prompts, sampling, config.max_new_tokens, config.seed, log, name)


def answers_given(path: Path, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The answer that a file gives to each question."""
    known = {str(row["prompt"]): row["answer"] for row in read_jsonl(path) if "prompt" in row and "answer" in row}
    missing = [row for row in rows if str(row["prompt"]) not in known]
    if missing:
        raise FledgeError(
            f"{path} answers {len(rows) - len(missing):,} of {len(rows):,} questions",
            "make it from the same questions: fledge bestof prompts=QUESTIONS",
        )
    return [str(known[str(row["prompt"])]).strip() for row in rows]


def few_shots(config: EvaluateConfig) -> list[tuple[str, str]]:
    """Questions and answers from the demonstrations: facts, the reverse and one honest decline."""
    if config.shots is None:
        raise FledgeError("base models are asked few-shot and there are no shots", "give shots=demonstrations.jsonl")
    singles = [row["messages"] for row in read_jsonl(config.shots)]
    pairs = [(m[-2]["content"], m[-1]["content"]) for m in singles if len(m) == 2]
    declines = [pair for pair in pairs if verdict(pair[1], None, "forward") == "declined"]
    facts = [pair for pair in pairs if verdict(pair[1], None, "forward") != "declined"]
    chosen = facts[:: max(1, len(facts) // config.shot_count)][: config.shot_count - 1]
    return [*chosen[:-1], *declines[:1], *chosen[-1:]]


def demonstrated(path: Path) -> list[str]:
    """Every prompt that a demonstration answers."""
    said = [row["messages"] for row in read_jsonl(path)]
    return [str(turns[:i]) for turns in said for i, turn in enumerate(turns) if turn["role"] == "assistant"]


def figures(rows: Sequence[dict[str, Any]], answers: Sequence[str]) -> dict[str, Estimate]:
    """Shares of verdicts by what was asked."""
    verdicts = [verdict(text, row["truth"], row["kind"]) for row, text in zip(rows, answers, strict=True)]

    def share(of: Verdict, split: Sequence[str], kind: str = "") -> Estimate:
        chosen = [v for v, r in zip(verdicts, rows, strict=True) if r["split"] in split and kind in ("", r["kind"])]
        return proportion(chosen.count(of), len(chosen))

    phrasing = ["held_out_phrasing"]
    return {
        "truthful": share("truthful", phrasing),
        "over_declined": share("declined", phrasing),
        "hallucinated": share("wrong", ["invented"]),
        "declined": share("declined", ["invented"]),
        "forward_truthful": share("truthful", phrasing, "forward"),
        "reverse_truthful": share("truthful", phrasing, "reverse"),
        "held_out_names_truthful": share("truthful", ["held_out_name"]),
        "held_out_names_declined": share("declined", ["held_out_name"]),
    }


def preference(rows: Sequence[dict[str, Any]], ours: Sequence[str], theirs: Sequence[str]) -> Estimate:
    """How often the labeller prefers `ours`, ties counting half."""
    return win_rate([prefer(a, b, r["truth"], r["kind"]) for r, a, b in zip(rows, ours, theirs, strict=True)])


def samples(rows: list[dict[str, Any]], said: dict[str, list[str]], count: int) -> list[dict[str, Any]]:
    """Some questions of each split with every model's answer and its verdict."""
    chosen: list[int] = []
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [i for i, row in enumerate(rows) if row["split"] == split]
        chosen += here[:: max(1, len(here) // max(1, count // 3))][: max(1, count // 3)]
    return [
        {
            **{key: rows[i][key] for key in ("prompt", "split", "truth", "kind", "name")},
            "answers": {name: texts[i] for name, texts in said.items()},
            "verdicts": {name: verdict(t[i], rows[i]["truth"], rows[i]["kind"]) for name, t in said.items()},
        }
        for i in chosen
    ]


def show(models: dict[str, dict[str, Any]], log: Log) -> None:
    """The table of the run: a line for each figure, a column for each model, so that it fits a narrow console."""
    plain = {"bits_per_byte", "calibration_error"}
    keys = dict.fromkeys(key for found in models.values() for key in found)
    table = []
    for key in keys:
        cells = [
            format(found[key]["value"], ".3f" if key in plain else ".1%") if key in found else ""
            for found in models.values()
        ]
        table.append([key.replace("_", " "), *cells])
    log.table("evaluation", ["", *models], table)
