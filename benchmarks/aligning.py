"""One set of comparisons, six ways to learn from it; and what happens when one way is followed too far.

    python benchmarks/aligning.py table RUN WORK [--quick]    # PPO, GRPO, DPO, IPO, best-of-n, rejection sampling
    python benchmarks/aligning.py curve RUN WORK [--quick]    # proxy and gold reward against KL (arXiv:2210.10760)
    python benchmarks/aligning.py draw WORK

RUN is a finished `fledge raise pydoc` (collect … ppo); nothing is written there. All start from its SFT model;
seconds are those that each way takes from the comparisons to a finished model, on this machine as it was. The
reference labeller, which knows the documentation, is the gold: an answer is worth 1 if it is true, or an honest
decline of an invented name; 0 if it declines what it was taught; -1 if it is wrong. WORK keeps every step.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fledge.core.files import read_json, read_jsonl, write_json, write_jsonl
from fledge.core.log import Log
from fledge.core.nouns import messages_of
from fledge.evaluate.labeller import verdict
from fledge.evaluate.statistics import best_of, mean
from fledge.objectives.policy import best_of_n_kl
from measure import show
from steps import FIGURES, distance, made

N, MOST, NEW = 16, 64, 40
NS = [1, 2, 4, 8, 16, 32, 64]
BETAS = (0.1, 0.5)
PENALTIES = (0.04, 0.2)
LONGER = 6  # times the steps, so that it takes about the seconds of a reward model and PPO
SIZES = {"tokens_per_step": 4096, "tokens_per_microbatch": 4096}
ADAM = {"name": "adamw", "weight_decay": 0.0}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["table", "curve", "draw"])
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN WORK")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--part", default="", help="of the curve: one reward model's share of the comparisons")
    given = parser.parse_args()
    work, log = given.paths[-1], Log()
    if given.what == "table":
        tell(table(given.paths[0], work, given.quick, log))
    elif given.what == "curve":
        curve(given.paths[0], work, given.part, given.quick, log)
    if given.what != "table":
        draw(work, work if given.quick else FIGURES)


def gold(text: str, row: dict[str, Any]) -> float:
    """What the reference labeller gives an answer."""
    found = verdict(text, row["truth"], row["kind"])
    if found == "truthful":
        return 1.0
    if found == "wrong":
        return -1.0
    return 0.0 if row["real"] else 1.0


def table(run: Path, work: Path, quick: bool, log: Log) -> dict[str, Any]:
    """Every way's model or answers, judged alike on questions that were never trained on."""
    sft, reward, prompts = run / "sft", run / "reward", run / "questions" / "prompts.jsonl"
    questions, epochs = run / "questions" / "evaluation.jsonl", 0.1 if quick else 2
    limit, n = (24, 2) if quick else (0, N)
    direct = {
        "model": sft, "comparisons": run / "compare" / "comparisons.jsonl", "epochs": epochs / 2,
        "prompts_per_step": 16,
        "optimizer": ADAM | {"learning_rate": 5e-5}, **SIZES,
    }  # fmt: skip
    dpo = {f"dpo, β {beta:g}": made("dpo", work / f"dpo_{beta:g}", log, **direct, beta=beta) for beta in BETAS}
    dpo["ipo, β 0.1"] = made("dpo", work / "ipo", log, **direct, beta=0.1, loss="ipo")
    longer = direct | {"epochs": LONGER * epochs / 2}
    dpo[f"ipo, {LONGER} × as long"] = made("dpo", work / "ipo_longer", log, **longer, beta=0.1, loss="ipo")
    sampled = made(
        "bestof", work / "sampled", log, policy=sft, reward=reward, prompts=prompts, n=n, max_new_tokens=NEW, above=0.0,
        limit=limit,
    )  # fmt: skip
    learnt = made(
        "sft", work / "rejection", log, model=sft, demonstrations=sampled / "demonstrations.jsonl", epochs=epochs,
        optimizer=ADAM | {"learning_rate": 2e-4}, **SIZES,
    )  # fmt: skip
    best = made(
        "bestof", work / "best", log, policy=sft, reward=reward, prompts=questions, n=n, max_new_tokens=NEW, limit=limit
    )
    grpo = {f"grpo, β {beta:g}": grouped(run, work / f"grpo_{beta:g}", beta, quick, log) for beta in PENALTIES}
    models = {"sft": sft, "ppo": run / "ppo", **grpo, **dpo, "rejection": learnt}
    found: dict[str, Any] = {}
    for seed in (17,) if quick else (17, 18):
        measured = made(
            "evaluate", work / f"evaluate_{seed}", log, models=models, questions=questions, seed=seed, limit=limit,
            max_new_tokens=NEW, answers={"best-of-n": best / "answers.jsonl"}, documents=run / "curate/heldout.parquet",
        )  # fmt: skip
        for name, figures in read_json(measured / "evaluation.json")["models"].items():
            for key, value in figures.items():
                found.setdefault(name, {}).setdefault(key, []).append(value["value"])
    asked = [messages_of(row["prompt"]) for row in read_jsonl(questions)][: limit or 10_000]
    trained = {"ppo": [run / "reward", run / "ppo"], **{name: [path] for name, path in dpo.items()}}
    trained |= {name: [run / "reward", path] for name, path in grpo.items()}
    trained |= {"rejection": [run / "reward", sampled, learnt], "best-of-n": [run / "reward"]}
    for name, figures in found.items():
        figures["seconds"] = sum(read_json(path / "artifact.json")["seconds"] for path in trained.get(name, []))
        if name in models and name != "sft":
            figures["kl"] = distance(models[name], sft, asked, NEW, log).as_dict()
    found["best-of-n"]["kl"] = {"value": best_of_n_kl(n)}
    write_json(work / "table.json", found)
    return found


def grouped(run: Path, out: Path, beta: float, quick: bool, log: Log) -> Path:
    """GRPO with what the run's PPO was given, but for the critic."""
    given = dict(read_json(run / "ppo" / "artifact.json")["config"])
    for name in ("value_clip", "value_coefficient"):
        given.pop(name)
    own = ("gamma", "lam", "critic_warmup")  # the critic's
    rollouts = {name: value for name, value in given["rollouts"].items() if name not in own}
    given["rollouts"] = rollouts | {"kl_coefficient": beta} | ({"answers_per_iteration": 64} if quick else {})
    given["optimizer"] = given["optimizer"] | {"factors": {}}
    return made("grpo", out, log, **given | ({"iterations": 2} if quick else {}))


def tell(found: dict[str, Any]) -> None:
    """The table, in points of 100 and nats; figures are means over the samplings."""
    columns = ["truthful", "over_declined", "hallucinated", "declined", "preferred_to_sft", "bits_per_byte"]
    rows = []
    for name, figures in found.items():
        cells = [
            "" if key not in figures
            else f"{np.mean(figures[key]):.3f}" if key == "bits_per_byte"
            else f"{100 * np.mean(figures[key]):.1f}"
            for key in columns
        ]  # fmt: skip
        kl = f"{figures['kl']['value']:.2f}" if "kl" in figures else "0"
        rows.append([name, *cells, kl, f"{figures['seconds']:.0f}" if figures["seconds"] else ""])
    show("one set of comparisons", ["", *(c.replace("_", " ") for c in columns), "KL", "seconds"], rows)


def curve(run: Path, work: Path, part: str, quick: bool, log: Log) -> None:
    """Proxy and gold reward of PPO's iterations without a KL penalty, and of best-of-n, under reward models that saw
    different shares of the comparisons."""
    rows = {str(row["prompt"]): row for row in read_jsonl(run / "questions" / "prompts.jsonl")}
    comparisons = read_jsonl(run / "compare" / "comparisons.jsonl")
    for share in [float(part)] if part else [1.0, 0.05]:
        reward = run / "reward"
        if share < 1:
            work.mkdir(parents=True, exist_ok=True)
            few = work / f"comparisons_{share:g}.jsonl"
            if not few.is_file():
                order = np.random.default_rng(0).permutation(len(comparisons))[: int(share * len(comparisons))]
                write_jsonl(few, [comparisons[i] for i in order])
            reward = made(
                "reward", work / f"reward_{share:g}", log, model=run / "sft", comparisons=few, epochs=8,
                prompts_per_step=16, demonstrations=run / "questions" / "demonstrations.jsonl", heldout=0.0,
                optimizer={"learning_rate": 2e-3}, **SIZES,
            )  # fmt: skip
        answers = 64 if quick else 256
        policy = made(
            "ppo", work / f"ppo_{share:g}", log, policy=run / "sft", reward=reward,
            prompts=run / "questions" / "prompts.jsonl", iterations=2 if quick else 24, max_new_tokens=NEW, batch=256,
            samples=answers, sample_every=1, optimizer=ADAM | {"learning_rate": 4e-4, "factors": {"critic": 5.0}},
            tokens_per_step=8192, tokens_per_microbatch=4096,
            rollouts={"answers_per_iteration": answers, "epochs": 1, "minibatches": 4, "kl_coefficient": 0.0},
        )  # fmt: skip
        samples = made(
            "bestof", work / f"samples_{share:g}", log, policy=run / "sft", reward=reward, n=4 if quick else MOST,
            prompts=run / "questions" / "prompts.jsonl", limit=20 if quick else 200, max_new_tokens=NEW,
        )  # fmt: skip
        points = {"ppo": of_ppo(policy, rows), "best-of-n": of_samples(read_jsonl(samples / "samples.jsonl"))}
        write_json(work / f"curve_{share:g}.json", points)
        for name, found in points.items():
            cells = [[f"{p['kl']:.2f}", f"{p['proxy']:+.2f}", f"{p['gold']:+.3f}"] for p in found]
            show(f"{name}, {share:.0%} of the comparisons", ["KL", "proxy", "gold"], cells[:: max(1, len(cells) // 10)])


def of_ppo(policy: Path, rows: dict[str, dict[str, Any]]) -> list[dict[str, float]]:
    """KL, proxy and gold of each iteration's answers, which were sampled before it trained on them."""
    by_text = {user_text(row["prompt"]): row for row in rows.values()}
    iterations: dict[int, list[dict[str, Any]]] = {}
    for answer in read_jsonl(policy / "samples.jsonl"):
        iterations.setdefault(answer["iteration"], []).append(answer)
    numbers = {row["iteration"]: row for row in read_jsonl(policy / "metrics.jsonl") if "iteration" in row}
    return [
        {
            "kl": max(0.0, numbers[i]["kl"]),
            "proxy": float(np.mean([a["reward"] for a in found])),
            "gold": float(np.mean([gold(a["answer"].strip(), by_text[asked_text(a["prompt"])]) for a in found])),
        }
        for i, found in sorted(iterations.items())
    ]


def user_text(prompt: list[dict[str, str]]) -> str:
    """What tells prompts apart: all that was said."""
    return "\n".join(message["content"].strip() for message in prompt)


def asked_text(rendered: str) -> str:
    """The same of a prompt in the chat template."""
    turns = rendered.split("<|im_start|>")[1:-1]
    return "\n".join(turn.split("\n", 1)[1].split("<|im_end|>")[0].strip() for turn in turns)


def of_samples(samples: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """KL, proxy and gold of best-of-n for each n, over all choices of n among the sampled answers."""
    worth = [[gold(text.strip(), row) for text in row["completions"]] for row in samples]
    scores = [row["rewards"] for row in samples]
    most = len(scores[0])
    return [
        {
            "n": n,
            "kl": best_of_n_kl(n),
            "proxy": mean([best_of(n, s, s) for s in scores]).value,
            "gold": mean([best_of(n, s, w) for s, w in zip(scores, worth, strict=True)]).value,
        }
        for n in NS
        if n <= most
    ]


def draw(work: Path, where: Path) -> None:
    """overoptimisation.svg: gold and proxy reward against the square root of KL; one panel for each reward model."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "fledge"
    files = sorted(work.glob("curve_*.json"), key=lambda path: -float(path.stem.split("_")[1]))
    figure, panels = plt.subplots(1, len(files), figsize=(4.8 * len(files), 4.2), layout="constrained", squeeze=False)
    colours = {"ppo": "#0b6e4f", "best-of-n": "#1f4e9c"}
    kept = {}
    for axes, file in zip(panels[0], files, strict=True):
        points, share = json.loads(file.read_text()), float(file.stem.split("_")[1])
        kept[f"{share:g}"] = points
        proxy = axes.twinx()
        for name, unordered in points.items():
            found = sorted(unordered, key=lambda point: point["kl"])  # an iteration may come nearer again
            x = [math.sqrt(p["kl"]) for p in found]
            label = "PPO" if name == "ppo" else name
            axes.plot(
                x, [p["gold"] for p in found], color=colours[name], marker="o", markersize=3, label=f"{label}, gold"
            )
            proxy.plot(x, [p["proxy"] for p in found], ":", color=colours[name], label=f"{label}, proxy")
        axes.set(xlabel="√KL from the SFT model (√nats per answer)", ylabel="gold reward (labeller)",
                 title=f"reward model taught by {share:.0%} of the comparisons")  # fmt: skip
        proxy.set_ylabel("proxy reward (reward model), dotted")
        axes.title.set_fontsize(10)
        axes.spines["top"].set_visible(False)
        proxy.spines["top"].set_visible(False)
    lines = [*axes.get_lines(), *proxy.get_lines()]
    labels = [str(line.get_label()) for line in lines]
    figure.legend(lines, labels, frameon=False, fontsize=9, ncols=4, loc="outside lower center")
    figure.savefig(where / "overoptimisation.svg", metadata={"Date": None})
    (where / "overoptimisation.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
