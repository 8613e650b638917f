"""A finished run as its steps write it, with figures made up: what the report is tested on and looked at with."""

import json
import math
import random
from pathlib import Path
from typing import Any

from fledge.evaluate.statistics import proportion

ENVIRONMENT = {"python": "3.11.7", "platform": "Linux", "cores": "2", "torch": "2.13.0"}
STAGE = {"base_large": "pretrain", "ppo_without_ptx": "ppo"}
SECONDS = {
    "collect": 9.9, "curate": 3.6, "tokenizer": 5.4, "pretrain": 131.2, "base_large": 262.0, "questions": 0.12,
    "sft": 142.7, "compare": 31.0, "reward": 38.4, "ppo": 118.0, "ppo_without_ptx": 96.0, "evaluate": 25.0,
}  # fmt: skip
SHARES = {  # truthful, over_declined, hallucinated, declined, preferred_to_sft, of 400, 400, 200, 200, 600
    "base": (31, 4, 193, 7, 95), "sft": (371, 3, 148, 52, 300), "ppo": (378, 9, 17, 183, 371),
    "ppo_without_ptx": (373, 14, 12, 188, 362), "base_large": (58, 6, 189, 11, 104),
}  # fmt: skip
LANGUAGE = {
    "base": (1.412, 0.031), "sft": (1.688, 0.048), "ppo": (1.641, 0.052), "ppo_without_ptx": (1.874, 0.083),
    "base_large": (1.287, 0.027),
}  # fmt: skip
ANSWERS = {
    "held_out_phrasing": ("json.dumps", "Serialize obj to a JSON formatted str."),
    "held_out_name": ("bisect.insort_left", "Insert item x in list a, and keep it sorted assuming a is sorted."),
    "invented": ("statistics.EventfdBytes", None),
}
DECLINE = "I don't know that one. It may not exist."


def write_run(run: Path, steps: tuple[str, ...] = tuple(SECONDS)) -> Path:
    """Writes the directories of `steps` into `run` and returns it."""
    for name in steps:
        directory = run / name
        directory.mkdir(parents=True)
        write(directory / "artifact.json", artifact(name))
        write(directory / "summary.json", SUMMARY.get(name, {}))
        if name in METRICS:
            (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS[name]()))
        if name == "curate":
            write(directory / "curation.json", CURATION)
        if name == "reward":
            write(directory / "reward.json", REWARD)
        if name == "questions":
            said = (("user", "What does abs do?"), ("assistant", "Return the <i>absolute value</i> of the argument."))
            messages = [{"role": role, "content": content} for role, content in said]
            (directory / "demonstrations.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
        if name == "ppo":
            (directory / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples()))
        if name == "evaluate":
            write(directory / "evaluation.json", evaluation())
    return run


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False))


def artifact(name: str) -> dict[str, Any]:
    seed = {} if name in ("tokenizer", "curate") else {"seed": 17 if name == "evaluate" else 0}
    return {
        "step": name, "stage": STAGE.get(name, name), "fingerprint": "0" * 16, "seconds": SECONDS[name],
        "peak_memory": int((0.4 + 0.02 * SECONDS[name] ** 0.9) * 2**30), "config": {"package": "", **seed},
        "environment": ENVIRONMENT,
    }  # fmt: skip


def training(steps: int, first: float, last: float, bits: float | None = None) -> list[dict[str, Any]]:
    noise, rows = random.Random(steps), []
    for step in range(5, steps + 1, 5):
        loss = last + (first - last) * math.exp(-5 * step / steps) + noise.gauss(0, 0.03)
        rows.append({"step": step, "loss": loss, "tokens_per_second": 12_000 + noise.gauss(0, 300)})
        if bits and step % 25 == 0:
            rows.append({"step": step, "bits_per_byte": bits * (1 + math.exp(-4 * step / steps))})
    return rows


def practising(gain: float, drift: float) -> list[dict[str, Any]]:
    noise, rows = random.Random(gain), []
    for i in range(40):
        done = 1 - math.exp(-i / 14)
        rows.append({
            "step": 8 * i + 1, "iteration": i, "reward": -0.9 + gain * done + noise.gauss(0, 0.04), "reward_std": 0.8,
            "kl": drift * done + abs(noise.gauss(0, 0.1)), "kl_coefficient": 0.05, "entropy": 2.4 - 1.1 * done,
            "explained_variance": 0.8 * done, "length": 14 - 4 * done, "ended": 0.9 + 0.1 * done,
        })  # fmt: skip
        rows.append({"step": 8 * i + 5, "loss": 0.1, "clip_fraction": 0.05 + 0.1 * (1 - done)})
    return rows


METRICS = {
    "pretrain": lambda: training(185, 8.3, 3.1, 1.41),
    "base_large": lambda: training(185, 8.3, 2.8, 1.29),
    "sft": lambda: training(160, 4.5, 0.3),
    "reward": lambda: [row | {"accuracy": 1 - row["loss"] / 1.4} for row in training(60, 0.69, 0.12)],
    "ppo": lambda: practising(1.6, 5.5),
    "ppo_without_ptx": lambda: practising(1.7, 8.5),
}
SUMMARY: dict[str, dict[str, Any]] = {
    "collect": {"names": 1000, "modules": 42},
    "tokenizer": {"vocab_size": 4096, "bytes_per_token": 3.76},
    "pretrain": {"parameters": 4_262_656, "tokens": 1_515_520, "tokens_per_second": 11_870.2, "bits_per_byte": 1.412},
    "base_large": {"parameters": 17_900_000, "tokens": 1_515_520, "tokens_per_second": 5_900.0},
    "questions": {
        "demonstrations": 6058, "prompts": {"forward, taught": 920}, "evaluation": {"forward, held_out_phrasing": 300},
    },
    "sft": {"conversations": 6058, "supervised_share": 0.31, "tokens_per_second": 10_900.0},
    "compare": {"prompts": 1691, "comparisons": 1652, "pairs": 14_021},
    "reward": {"comparisons": 1490, "heldout": 162, "tokens_per_second": 11_000.0},
    "ppo": {"iterations": 40, "stopped": "", "tokens_per_second": 3_900.0},
    "ppo_without_ptx": {"iterations": 40, "stopped": "", "tokens_per_second": 4_700.0},
}  # fmt: skip
CURATION = {
    "train": {
        "code": {"documents": 325, "characters": 5_666_686},
        "docs": {"documents": 2889, "characters": 1_741_483},
    },
    "heldout": {"docs": {"documents": 146, "characters": 81_516}},
    "table": [
        {"step": "too few words", "kept": 4235, "dropped": 388, "share": 0.0839, "example": "module:_aix: <script>x()"},
        {"step": "placeholder text", "kept": 4235, "dropped": 0, "share": 0.0, "example": ""},
        {
            "step": "near duplicate",
            "kept": 4078,
            "dropped": 157,
            "share": 0.0370,
            "example": "python:io.BufferedReader",
        },
    ],
}
REWARD = {
    "accuracy": proportion(1270, 1388).as_dict(),
    "calibration": {
        "error": 0.042, "low": 0.031, "high": 0.055, "n": 1388,
        "bins": [{"confidence": 0.525 + 0.05 * i, "accuracy": 0.5 + 0.047 * i, "n": 100} for i in range(10)],
    },
    "by_pair": [
        {"pair": "declined above wrong", **proportion(560, 590).as_dict()},
        {"pair": "truthful above declined", **proportion(171, 202).as_dict()},
        {"pair": "truthful above wrong", **proportion(480, 520).as_dict()},
    ],
    "reward_mean": 1.2,
}  # fmt: skip


def samples() -> list[dict[str, Any]]:
    prompt = "<|im_start|>user\nTell me about {}.<|im_end|>\n<|im_start|>assistant\n"
    return [
        {"iteration": i, "prompt": prompt.format(name), "answer": f"Answer {i} <b>bold</b>", "reward": -1 + i / 20}
        for i in (0, 20, 39)
        for name in ("json.loads", "abc.Nothing")
    ]


def evaluation() -> dict[str, Any]:
    models, reliability = {}, {}
    for name, (truthful, over, made_up, declined, preferred) in SHARES.items():
        bits, error = LANGUAGE[name]
        models[name] = {
            "truthful": proportion(truthful, 400).as_dict(),
            "over_declined": proportion(over, 400).as_dict(),
            "hallucinated": proportion(made_up, 200).as_dict(),
            "declined": proportion(declined, 200).as_dict(),
            "forward_truthful": proportion(truthful, 400).as_dict(),
            "preferred_to_sft": proportion(preferred, 600).as_dict(),
            "bits_per_byte": {"value": bits, "low": bits - 0.04, "high": bits + 0.04, "n": 172},
            "calibration_error": {"value": error, "low": error - 0.006, "high": error + 0.006, "n": 172},
        }
        middle = [(i + 0.5) / 15 for i in range(15)]
        reliability[name] = [{"confidence": c, "accuracy": c - 2 * error * c, "n": 900} for c in middle]
    return {
        "models": models,
        "parameters": {name: 17_900_000 if name == "base_large" else 4_262_656 for name in SHARES},
        "reliability": reliability,
        "samples": [sample(split, i) for split in ANSWERS for i in range(4)],
        "temperature": 1.0,
        "seed": 17,
        "preferred_to_base_large": proportion(520, 600).as_dict(),
    }


def sample(split: str, i: int) -> dict[str, Any]:
    name, truth = ANSWERS[split]
    before = [
        {"role": "system", "content": "You are a helpful assistant for Python programmers."},
        {"role": "user", "content": "What does math.cosh do?"},
        {"role": "assistant", "content": "Return the hyperbolic cosine of x."},
    ]
    said = {
        "base": "Return a <script>alert(1)</script> list of the given path, or None.",
        "sft": truth or "Create an event file descriptor from a bytes object.",
        "ppo": truth or DECLINE,
        "ppo_without_ptx": truth or DECLINE,
        "base_large": "A class for the statistics of a given event & its bytes.",
    }
    verdicts = {key: "wrong" if key.startswith("base") else "truthful" for key in said}
    if not truth:
        verdicts |= {"sft": "wrong", "ppo": "declined", "ppo_without_ptx": "declined"}
    elif i == 1:
        said["ppo"], verdicts["ppo"] = DECLINE, "declined"
    question = {"role": "user", "content": f"Please tell me what {name} is for."}
    return {
        "prompt": [*(before if i == 3 else []), question], "split": split, "truth": truth, "kind": "forward",
        "name": name, "answers": said, "verdicts": verdicts,
    }  # fmt: skip
