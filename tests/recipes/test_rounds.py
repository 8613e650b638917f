"""`fledge raise round`: from a store to a model that is better or stays; never trained on what it is judged by."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[feedback]'")

from fledge.core.errors import FledgeError
from fledge.core.files import checksum, read_json, read_jsonl
from fledge.core.log import Log
from fledge.feedback import queue
from fledge.feedback.store import Store
from fledge.generate.assistant import find_model
from fledge.recipes.rounds import round_overrides
from fledge.recipes.runner import plan, read_recipe, run_recipe

SMALL = [
    "sft.length=64", "sft.tokens_per_step=512", "sft.tokens_per_microbatch=512", "reward.length=64",
    "reward.tokens_per_step=512", "reward.tokens_per_microbatch=512", "reward.prompts_per_step=2", "reward.heldout=0.3",
    "ppo.length=64", "ppo.max_new_tokens=8", "ppo.iterations=1", "ppo.rollouts.answers_per_iteration=8",
    "ppo.rollouts.minibatches=1", "ppo.tokens_per_step=512", "ppo.tokens_per_microbatch=512",
    "promote.max_new_tokens=8",
]  # fmt: skip


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    path = tmp_path / "frozen.jsonl"
    rows = [
        {"prompt": asked(f"Where does the {animal} sleep?"), "kind": "forward", "truth": "At home.", "name": animal}
        | {"real": True, "split": "held_out_phrasing"}
        for animal in ("zebra", "lion", "otter", "heron")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def where(tmp_path: Path) -> str:
    return str(tmp_path / "feedback.db")


def demonstrated(store: Store, count: int, first: int = 0, who: str = "ann") -> None:
    for i in range(first, first + count):
        queue.add_task(store, "demonstrate", asked(f"Where is animal {i}?"))
        given = queue.next_task(store, who, ["demonstrate"])
        assert given
        queue.submit(store, who, given.task, "demonstration", {"answer": "At home."})


def ranked(store: Store, count: int, first: int = 0) -> None:
    for i in range(first, first + count):
        answers = [{"text": text} for text in ("At home.", "At sea.", "Who knows?")]
        queue.add_task(store, "rank", asked(f"And animal {i}?"), answers, wanted=3)
        for who, order in (("ann", 1), ("bob", 1), ("dan", -1)):
            given = queue.next_task(store, who, ["rank"])
            assert given
            numbers = [number for number, _ in given.answers]
            ranks = [sorted(numbers, key=lambda number: order * number).index(number) for number in numbers]
            queue.submit(store, who, given.task, "ranking", {"completions": numbers, "ranks": ranks})


def planned(run: Path, where: str, model: Path, frozen: Path, *more: str) -> list[Any]:
    given = [f"store={where}", f"model={model}", f"evaluation={frozen}", *more]
    recipe = read_recipe("round")
    return plan(recipe, run, "smoke", [*SMALL, *given, *round_overrides(read_recipe("round"), run, given)])


def test_the_steps_follow_from_what_was_said(tmp_path: Path, where: str, tiny: Path, frozen: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(FledgeError, match="there is no feedback store"):
        planned(run, where, tiny / "base", frozen)
    store = Store.open(where)
    with pytest.raises(FledgeError, match="nothing to train on that is new"):
        planned(run, where, tiny / "base", frozen)
    with pytest.raises(FledgeError, match="a round needs 'evaluation'"):
        planned(run, where, tiny / "base", Path(), "evaluation=")
    ranked(store, 2)
    steps = {step.name: step for step in planned(run, where, tiny / "base", frozen)}
    assert list(steps) == ["gather", "reward", "ppo", "promote", "report"]
    assert steps["ppo"].config.policy == steps["reward"].config.model == tiny / "base"
    demonstrated(store, 2)
    steps = {step.name: step for step in planned(run, where, tiny / "base", frozen)}
    assert list(steps) == ["gather", "sft", "reward", "ppo", "promote", "report"]
    assert steps["ppo"].config.policy == steps["reward"].config.model == run / "sft"
    only = Store.open(where + "2")
    demonstrated(only, 2)
    steps = {step.name: step for step in planned(run, where + "2", tiny / "base", frozen)}
    assert list(steps) == ["gather", "sft", "promote", "report"]
    assert steps["promote"].config.candidates == {"sft": run / "sft"}


def test_two_rounds_the_second_goes_on_from_the_first(tmp_path: Path, where: str, tiny: Path, frozen: Path) -> None:
    store = Store.open(where)
    demonstrated(store, 8)
    demonstrated(store, 2, first=90, who="dan")  # who will turn out not to be trusted
    ranked(store, 6)
    store.rate("eve", asked("Write to eve@example.org, where is she?"), "No idea.", -1, correction="Ask her.")
    one, two = tmp_path / "one", tmp_path / "two"
    teach = ["sft.epochs=60", "sft.optimizer.learning_rate=0.01"]  # so that "At home." is learnt by heart
    run_recipe(planned(one, where, tiny / "base", frozen, *teach), one, Log(quiet=True))
    gathered = read_json(one / "gather" / "gathered.json")
    assert gathered["counts"] == {
        "demonstrations": 9, "replayed": 0, "not_trusted": 2,
        "comparisons": 19, "all_comparisons": 19, "of_weight": 13, "prompts": 1,
    }  # fmt: skip
    weights = {row["labeller"]: row["weight"] for row in read_jsonl(one / "gather" / "comparisons.jsonl")}
    assert weights["dan"] == 0 < weights["eve"] < weights["ann"]
    (chat,) = read_jsonl(one / "gather" / "prompts.jsonl")
    assert chat["prompt"][0]["content"] == "Write to [e-mail], where is she?"

    promotion = read_json(one / "promote" / "promotion.json")
    start, first = promotion["rounds"]
    assert start["figures"]["truthful"]["value"] == 0
    assert find_model(one) == one / "promote"
    for name, told in promotion["tests"].items():
        assert told["wins"] + told["losses"] <= 4, name
        assert told["p"] >= 0.5**4  # four questions cannot do better
    assert first["promoted"] is None  # and so nothing is promoted at 0.025: four wins of four are not enough
    assert checksum(one / "promote" / "model.safetensors") == checksum(tiny / "base" / "model.safetensors")
    assert promotion["used"] == 0  # what the standing model has not learnt is still new

    easier = [*teach, "promote.significance=0.2"]
    again = tmp_path / "again"
    run_recipe(planned(again, where, tiny / "base", frozen, *easier), again, Log(quiet=True))
    promotion = read_json(again / "promote" / "promotion.json")
    assert promotion["rounds"][1]["promoted"] in ("sft", "ppo")
    assert promotion["rounds"][1]["preferred"]["value"] == 1
    best = promotion["rounds"][1]["promoted"]
    assert checksum(again / "promote" / "model.safetensors") == checksum(again / best / "model.safetensors")
    page = (again / "report" / "report.html").read_text()
    assert "Round by round" in page
    assert "dan ranked weighs next to nothing" in page

    with pytest.raises(FledgeError, match="nothing new"):
        run_recipe(planned(two, where, again, frozen), two, Log(quiet=True))
    demonstrated(store, 3, first=20)
    run_recipe(planned(two, where, again, frozen), two, Log(quiet=True))
    gathered = read_json(two / "gather" / "gathered.json")
    assert gathered["counts"]["demonstrations"] == gathered["counts"]["replayed"] == 3
    rounds = read_json(two / "promote" / "promotion.json")["rounds"]
    assert [each["round"] for each in rounds] == [0, 1, 2]
    assert rounds[:2] == promotion["rounds"]

    other = tmp_path / "other.jsonl"
    other.write_text("".join(frozen.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(FledgeError, match="is not the set that the rounds before were judged by"):
        run_recipe(planned(tmp_path / "three", where, two, other), tmp_path / "three", Log(quiet=True))


def test_what_is_judged_by_is_never_trained_on(tmp_path: Path, where: str, tiny: Path, frozen: Path) -> None:
    store, run = Store.open(where), tmp_path / "run"
    demonstrated(store, 2)
    store.rate("eve", asked("where does THE zebra, sleep"), "No idea.", -1)
    with pytest.raises(FledgeError, match="1 questions of the evaluation are in the training data too"):
        run_recipe(planned(run, where, tiny / "base", frozen), run, Log(quiet=True))
    talk = [*asked("Hello!"), {"role": "assistant", "content": "Hi."}, *asked("And you?")]
    store.rate("eve", talk, "Fine.", 1)
    steps = planned(run, where, tiny / "base", frozen, "gather.drop_overlap=true")
    run_recipe(steps[:1], run, Log(quiet=True))
    assert [row["prompt"] for row in read_jsonl(run / "gather" / "prompts.jsonl")] == [talk]


def test_without_the_truth_a_reward_model_judges(tmp_path: Path, where: str, tiny: Path, frozen: Path) -> None:
    store, run = Store.open(where), tmp_path / "run"
    demonstrated(store, 3)
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in read_jsonl(frozen)))
    with pytest.raises(FledgeError, match="nobody can judge"):
        run_recipe(planned(run, where, tiny / "base", bare), run, Log(quiet=True))
    run_recipe(planned(run, where, tiny / "base", bare, f"promote.judge={tiny / 'reward'}"), run, Log(quiet=True))
    start, first = read_json(run / "promote" / "promotion.json")["rounds"]
    assert start["figures"]["score"]["n"] == first["figures"]["score"]["n"] == 4
    from fledge.checkpoint.directory import load_model
    from fledge.core.nouns import messages_of
    from fledge.evaluate.scoring import score_sequences
    from fledge.stages.examples import answer_ids
    from fledge.text.tokenizer import Tokenizer

    model, tokenizer = load_model(tiny / "reward"), Tokenizer.load(tiny / "reward")
    rows = read_jsonl(run / "promote" / "answers.jsonl")

    def scored(name: str) -> list[float]:
        ids = [answer_ids(tokenizer, messages_of(row["prompt"]), row[name]) for row in rows]
        return score_sequences(model, ids, 128).tolist()

    assert sum(scored("start")) / 4 - 0.25 == pytest.approx(start["figures"]["score"]["value"], abs=1e-5)  # reward_mean
    outcomes = [
        0.5 if row["sft"] == row["previous"] else float(a > b)
        for row, a, b in zip(rows, scored("sft"), scored("previous"), strict=True)
    ]
    assert first["preferred"]["value"] == pytest.approx(sum(outcomes) / 4)
