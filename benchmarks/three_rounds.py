"""Three rounds with simulated people: they chat with a model, write answers, rank answers; it learns; again.

    python benchmarks/three_rounds.py [--out runs/three-rounds] [--from runs/pydoc] [--smoke]

A small model knows a quarter of some names of the Python documentation. In each round a real server (`fledge serve`, a
process of its own) serves the model so far; made-up users ask it about names that it has not been taught and about
names that do not exist, and rate the answers; made-up labellers of different reliability and taste, one of them
careless and one adversarial (`simulated_people.py`), answer and rank over HTTP; then `fledge raise round` makes the
next model, or keeps the last. All that is said lies in a feedback store, under names that begin with "simulated".

What is done already is kept: the same command goes on where it was stopped. Without `--from` it collects and pretrains
first. Prints a table; the report of the last round and `rounds.svg` in the output folder show the same.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from fledge.core.files import read_json, read_jsonl, write_jsonl, write_text_atomic
from fledge.core.log import Log
from fledge.data.python import phrasings
from fledge.data.python.inventions import invent
from fledge.data.python.names import Name
from fledge.data.python.questions import Question, forward, invented, reverse
from fledge.evaluate.labeller import prefer
from fledge.feedback.privacy import masked
from fledge.recipes.rounds import round_overrides
from fledge.recipes.runner import plan, read_recipe, run_recipe
from fledge.serve.keys import Keys
from fledge.stages.report_rounds import charts, curves
from simulated_people import PEOPLE, Client, at_once, serving, work

MODEL = "assistant"
CSS = """
svg { font: 12px system-ui, sans-serif; background: #ffffff } .rule { stroke: #e3e3ea } text { fill: #555562 }
.line { fill: none; stroke-width: 2 } .title { font-size: 15px; font-weight: 600; fill: #23211c }
"""
COLOURS = {
    "base": "#7b7f87",
    "large": "#3f6299",
    "sft": "#b8690f",
    "ppo": "#17786a",
    "plain": "#8250b5",
    "other": "#a4477c",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """`names` are taught at the start and in each round; demonstrations and rankings are asked for each name."""

    names: int = 20
    forward: int = 9
    reverse: int = 2
    chats: int = 2  # phrasings in which users ask about each name
    invented: int = 8  # names that do not exist, asked about in each round
    declines: int = 12  # demonstrations of an honest decline in each round; two at the start
    asked: int = 2  # phrasings in which the evaluation asks for each name
    evaluated: int = 80  # … in the evaluation
    rounds: int = 3
    wanted: int = 3  # people who rank each answer
    pretraining: tuple[str, ...] = ("names=120", "collect.code_megabytes=2", "pretrain.tokens=600000")
    settings: tuple[str, ...] = (
        "sft.epochs=6", "sft.tokens_per_step=2048", "sft.tokens_per_microbatch=2048", "reward.epochs=8",
        "reward.prompts_per_step=8", "reward.tokens_per_step=2048", "reward.tokens_per_microbatch=2048",
        "ppo.iterations=5", "ppo.rollouts.answers_per_iteration=128", "ppo.batch=128",
        "ppo.optimizer.learning_rate=0.0001", "ppo.rollouts.kl_coefficient=0.1", "promote.temperature=0.3",
        "gather.replay=9",
    )  # fmt: skip


SMOKE = Scale(
    names=4, forward=3, reverse=1, chats=1, invented=2, declines=2, asked=1, evaluated=4, rounds=2,
    pretraining=(
        "names=30", "collect.code_megabytes=0.2", "tokenizer.vocab_size=512", "pretrain.depth=1",
        "pretrain.tokens=8192", "pretrain.tokens_per_step=2048", "pretrain.tokens_per_microbatch=2048",
    ),
    settings=(
        "sft.epochs=1", "sft.tokens_per_step=1024", "reward.epochs=1", "reward.prompts_per_step=4",
        "reward.tokens_per_step=1024", "ppo.iterations=1", "ppo.rollouts.answers_per_iteration=8",
        "ppo.rollouts.minibatches=1", "ppo.max_new_tokens=12", "promote.max_new_tokens=12",
    ),
)  # fmt: skip


class World:
    """What is true, and what is asked: names in chunks, of which the model is taught one at the start and one a round.

    demonstrations, chats: for the start and each round, what is to be demonstrated and what users ask; evaluation: in
    phrasings and about inventions that nobody else uses. facts: what the documentation says; known: question → truth.
    """

    def __init__(self, collected: Path, scale: Scale, seed: int = 0) -> None:
        draw = random.Random(seed)
        every = [Name(**row) for row in read_jsonl(collected / "names.jsonl")]
        existing = set((collected / "all_names.txt").read_text(encoding="utf-8").split())
        parts = scale.rounds + 1
        chosen = draw.sample(sorted(every, key=lambda name: name.name), scale.names * parts)
        made_up = invent(every, existing, "prompts", (scale.invented + scale.declines) * parts, seed)
        self.demonstrations: list[list[Question]] = []
        self.chats: list[list[Question]] = []
        for i in range(parts):
            names, nothing = chosen[i::parts], made_up[i::parts]
            shown = [forward(n, p) for n in names for p in draw.sample(phrasings.TAUGHT_FORWARD, scale.forward)]
            shown += [reverse(n, p) for n in names for p in draw.sample(phrasings.TAUGHT_REVERSE, scale.reverse)]
            shown += [invented(n, draw.choice(phrasings.TAUGHT_FORWARD)) for n in nothing[: scale.declines if i else 2]]
            asked = [forward(n, p) for n in names for p in draw.sample(phrasings.PROMPTED_FORWARD, scale.chats)]
            asked += [invented(n, draw.choice(phrasings.PROMPTED_FORWARD)) for n in nothing[scale.declines :]]
            self.demonstrations.append(shown)
            self.chats.append(asked)
        split, words = "held_out_phrasing", phrasings.HELD_OUT_FORWARD
        self.evaluation = [
            forward(n, words[(i + k) % len(words)], split) for k in range(scale.asked) for i, n in enumerate(chosen)
        ]
        self.evaluation += [
            reverse(n, phrasings.HELD_OUT_REVERSE[i % 2], split)
            for i, n in enumerate(n for k, n in enumerate(chosen) if k // parts % 2)
        ]
        nothing = invent(every, existing, "evaluation", scale.evaluated, seed)
        self.evaluation += [invented(n, words[i % len(words)]) for i, n in enumerate(nothing)]
        self.facts = sorted(name.summary for name in chosen)
        self.known = {
            words: {"truth": q.truth, "kind": q.kind}
            for questions in [*self.demonstrations, *self.chats]
            for q in questions
            for words in (q.prompt[-1].content, masked(q.prompt[-1].content))
        }


def begin(out: Path, given: Path | None, scale: Scale, log: Log) -> tuple[Path, Path]:
    """A collected Python and a pretrained model: of a run that is given, or made here."""
    if given is None:
        recipe = read_recipe("pydoc")
        late = [name for name in recipe["steps"] if name not in ("collect", "curate", "tokenizer", "pretrain")]
        steps = plan(recipe, out / "start", "", [*scale.pretraining, *(f"{name}.skip=true" for name in late)])
        run_recipe(steps, out / "start", log)
        given = out / "start"
    return given / "collect", given / "pretrain"


def first_model(out: Path, pretrained: Path, questions: Sequence[Question], scale: Scale, log: Log) -> Path:
    """The model of the start: taught the first chunk, by demonstrations that are all true."""
    path = out / "first.jsonl"
    if not path.is_file():
        turn = [
            {"messages": [*(m.as_dict() for m in q.prompt), {"role": "assistant", "content": q.answer}]}
            for q in questions
        ]
        write_jsonl(path, turn)
    values = {
        "model": str(pretrained),
        "demonstrations": str(path),
        "epochs": 6,
        "tokens_per_step": 2048,
        "tokens_per_microbatch": 2048,
    }
    override = [setting for setting in scale.settings if setting.startswith("sft.")]
    run_recipe(plan({"steps": {"sft": values}}, out / "first", "", override), out / "first", log)
    return out / "first" / "sft"


def ask(user: Client, admin: Client, number: int, world: World, wanted: int) -> None:
    """Users chat with the model and rate it; an admin makes tasks of what they asked."""
    draw, tasks = random.Random(number), []
    for i, question in enumerate(world.chats[number]):
        prompt = [turn.as_dict() for turn in question.prompt]
        answers = user.chat(prompt, MODEL, seed=1000 * number + i, count=2)
        good = prefer(answers[0], phrasings.DECLINE, question.truth, question.kind) >= (
            0.5 if question.truth is None else 1
        )
        rating = {"prompt": prompt, "answer": answers[0], "rating": 1 if good else -1, "model": MODEL}
        user.post("/app/feedback/ratings", rating)
        more = (question.answer, phrasings.DECLINE, draw.choice(world.facts))
        different = list(dict.fromkeys(text for text in [*answers, *more] if text))
        tasks.append(
            {
                "prompt": prompt,
                "completions": [{"text": text, "model": MODEL if text in answers else "written"} for text in different],
            }
        )
    admin.post("/app/label/tasks/chats", {})
    admin.post("/app/label/tasks", {"rows": tasks, "wanted": wanted})
    rows = [{"prompt": [turn.as_dict() for turn in question.prompt]} for question in world.demonstrations[number]]
    admin.post("/app/label/tasks", {"rows": rows, "wanted": 1})


def people_speak(out: Path, number: int, model: Path, world: World, wanted: int) -> Row:
    """One round of what people do, over HTTP, with a server of its own."""
    keys, store = Keys(out / "keys.json"), str(out / "feedback.db")
    secrets = read_json(out / "secrets.json") if (out / "secrets.json").is_file() else {}
    for name, role in [
        ("simulated user", "user"),
        ("admin", "admin"),
        *((person.name, "labeller") for person in PEOPLE),
    ]:
        if name not in secrets:
            secrets[name] = keys.add(name, role)
    write_text_atomic(out / "secrets.json", json.dumps(secrets))
    with serving([f"{MODEL}={model}"], out / "keys.json", store, out) as address:
        asked = out / f"asked-{number}"  # the tasks are there already
        if not asked.is_file():
            ask(Client(address, secrets["simulated user"]), Client(address, secrets["admin"]), number, world, wanted)
            asked.touch()
        clients = [(Client(address, secrets[person.name]), person) for person in PEOPLE]
        done = at_once([partial(work, client, person, world.known, number) for client, person in clients])
    return {"chats": len(world.chats[number]), **{person.name: each for person, each in zip(PEOPLE, done)}}


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """The three rounds; returns what promotion.json says of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/three-rounds"))
    parser.add_argument("--from", dest="given", type=Path, help="a run with collect and pretrain")
    parser.add_argument("--smoke", action="store_true", help="does it run at all")
    parser.add_argument("--rounds", type=int, help="stop after so many")
    given = parser.parse_args(arguments)
    scale, out, console = SMOKE if given.smoke else Scale(), given.out, Console(stderr=True)
    log = Log(console=console)
    collected, pretrained = begin(out, given.given, scale, log)
    world = World(collected, scale)
    frozen = out / "frozen.jsonl"
    if not frozen.is_file():
        write_jsonl(frozen, (question.as_dict() for question in world.evaluation))
    model = first_model(out, pretrained, world.demonstrations[0], scale, log)
    for number in range(1, (given.rounds or scale.rounds) + 1):
        run, said = out / f"round-{number}", out / f"said-{number}.json"
        if not said.is_file():
            write_text_atomic(said, json.dumps(people_speak(out, number, model, world, scale.wanted)))
        overrides = [f"store={out / 'feedback.db'}", f"model={model}", f"evaluation={frozen}", *scale.settings]
        recipe = read_recipe("round")
        # Tuned anew on all demonstrations so far: a small model that goes on from the last one forgets as it learns.
        overrides += [f"gather.earlier={out / 'first.jsonl'}", f"sft.model={pretrained}"]
        run_recipe(plan(recipe, run, "", [*overrides, *round_overrides(recipe, run, overrides)]), run, log)
        model = run / "promote"
    rounds: list[Row] = read_json(model / "promotion.json")["rounds"]
    show(rounds, out, console)
    return rounds


def show(rounds: Sequence[Row], out: Path, console: Console) -> None:
    """The rounds as a table, people's weights as another, and the charts as files."""
    table = Table(box=MARKDOWN, title="Rounds with simulated people")
    columns = [
        "round",
        "new demonstrations",
        "new rankings",
        "candidate",
        "preferred to the one before (95 %)",
        "p",
        "promoted",
        "truthful",
        "made up",
        "preferred to the start",
    ]
    for column in columns:
        table.add_column(column)
    for each in rounds:
        figures = {
            key: each["figures"].get(key, {"value": float("nan")})["value"] for key in ("truthful", "hallucinated")
        }
        told = [f"{figures['truthful']:.1%}", f"{figures['hallucinated']:.1%}"]
        if not each["round"]:
            table.add_row("start", "", "", "", "", "", "", *told, "")
            continue
        won, start = each["preferred"], each["against_start"]
        said = [str(each["round"]), *(str(each["counts"][key]) for key in ("demonstrations", "comparisons"))]
        better = f"{won['value']:.1%} ({won['low']:.1%}-{won['high']:.1%})"
        test = [each["candidate"], better, f"{each['p']:.1g}", each["promoted"] or "no"]
        table.add_row(*said, *test, *told, f"{start['value']:.1%}")
    console.print(table)
    people = Table(box=MARKDOWN, title="Weights of the people, round by round")
    for column in ("person", *(f"round {each['round']}" for each in rounds[1:]), "agreement", "rankings"):
        people.add_column(column)
    for person in rounds[-1]["people"]:
        found = [next((p for p in each["people"] if p["person"] == person["person"]), None) for each in rounds[1:]]
        shares = ["–" if p is None or p["weight"] is None else f"{p['weight']:.2f}" for p in found]
        people.add_row(person["person"], *shares, f"{person['agreement'] or 0:.1%}", str(person["rankings"]))
    console.print(people)
    write_text_atomic(out / "rounds.svg", drawing(rounds))


def drawing(rounds: Sequence[Row]) -> str:
    """The charts of the report as one picture that stands alone."""
    css = CSS + "".join(f".c-{c} {{ stroke: {v} }} circle.c-{c}, .t-{c} {{ fill: {v} }}" for c, v in COLOURS.items())
    parts, pictures = [], charts(list(rounds))
    for i, (picture, (caption, _, lines)) in enumerate(zip(pictures, curves(list(rounds)), strict=True)):
        x = 20 + i * 460
        parts.append(f'<text class="title" x="{x + 8}" y="36">{caption}</text>')
        parts.append(str(picture.svg).replace("<svg ", f'<svg x="{x}" y="46" width="440" height="250" ', 1))
        for k, line in enumerate(lines if len(lines) > 1 else []):
            parts.append(f'<text class="t-{line.colour}" x="{x + 46}" y="{316 + 17 * k}">● {line.name}</text>')
    size = 'viewBox="0 0 1400 425" width="1400" height="425"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{css}</style>{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    main()
