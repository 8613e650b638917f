"""Weights of people against a maximum found by brute force, and against the people who were made up."""

import random
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")

from fledge.core.log import Log
from fledge.data.columns import to_comparisons
from fledge.feedback import queue
from fledge.feedback.exporting import Filter, export
from fledge.feedback.store import Store
from fledge.feedback.weights import UNMEASURED, reliability, weight, weights

CHANCES = {"ann": 0.95, "bob": 0.9, "cid": 0.75, "careless": 0.5, "contrary": 0.1}
Units = dict[tuple[int, int], dict[str, int]]


def crowd(pairs: int, seed: int = 0, seen: float = 0.6) -> tuple[Units, dict[tuple[int, int], int]]:
    """Pairs judged by people who are right with their CHANCES; each sees a share of the pairs. And the truth."""
    draw = random.Random(seed)
    truth = {(i, i + 1): draw.choice((-1, 1)) for i in range(pairs)}
    units = {
        pair: {
            who: right if draw.random() < chance else -right for who, chance in CHANCES.items() if draw.random() < seen
        }
        for pair, right in truth.items()
    }
    return units, truth


def test_the_truth_about_people_is_found() -> None:
    units, _ = crowd(4000)
    found = reliability(units)
    assert {who: round(found[who], 1) for who in found} == {
        who: round(chance + 1e-9, 1) for who, chance in CHANCES.items()
    }
    assert max(abs(found[who] - chance) for who, chance in CHANCES.items()) < 0.04
    assert [weight(found[who]) for who in ("contrary", "careless")] == pytest.approx([0, 0], abs=0.06)
    assert weight(found["ann"]) > weight(found["bob"]) > weight(found["cid"]) > 0.4


def test_it_is_the_maximum_of_the_posterior() -> None:
    units, _ = crowd(60, seed=3)
    people = sorted(CHANCES)

    def posterior(logits: np.ndarray) -> float:
        p = dict(zip(people, 1 / (1 + np.exp(-logits))))
        total = sum(3 * np.log(chance) + np.log(1 - chance) for chance in p.values())
        for said in units.values():
            sides = [
                np.prod([p[who] if verdict == side else 1 - p[who] for who, verdict in said.items()])
                for side in (-1, 1)
            ]
            total += np.log(0.5 * sum(sides))
        return -total

    best = minimize(posterior, np.full(len(people), 1.1), method="BFGS")
    expected = dict(zip(people, 1 / (1 + np.exp(-best.x))))
    assert reliability(units) == pytest.approx(expected, abs=1e-4)


def test_weights_beat_counting_heads() -> None:
    """Three who are careless or contrary against two who are not: weighted votes find more of the truth."""
    draw = random.Random(5)
    chances = {"ann": 0.95, "bob": 0.95, "one": 0.5, "two": 0.5, "dan": 0.3}
    truth = {(i, i + 1): draw.choice((-1, 1)) for i in range(400)}
    units = {
        pair: {who: right if draw.random() < chance else -right for who, chance in chances.items()}
        for pair, right in truth.items()
    }
    trust = {who: weight(chance) for who, chance in reliability(units).items()}

    def share(trusted: dict[str, float]) -> float:
        sums = {pair: sum(trusted[who] * verdict for who, verdict in said.items()) for pair, said in units.items()}
        return sum((value > 0) == (truth[pair] > 0) for pair, value in sums.items()) / len(truth)

    assert share(trust) > share(dict.fromkeys(chances, 1.0)) + 0.05


def test_items_with_known_answers_tell_who_is_right() -> None:
    units: Units = {(i, i + 1): {"ann": -1, "bob": 1} for i in range(20)}  # nobody else: who is right cannot be known
    assert reliability(units) == pytest.approx({"ann": 0.5 + 1 / 24, "bob": 0.5 + 1 / 24}, abs=1e-6)
    found = reliability(units, {(i, i + 1): 1 for i in range(5)})
    assert found["bob"] > 0.85 > 0.15 > found["ann"]


def test_little_evidence_moves_little_and_ties_say_nothing() -> None:
    assert reliability({(1, 2): {"ann": 1}}) == {"ann": pytest.approx(0.75)}
    assert reliability({(i, 99): {"ann": 0, "bob": 1} for i in range(9)})["ann"] == pytest.approx(0.75)
    once = reliability({(1, 2): {"ann": 1, "bob": 1, "dan": -1}})
    often = reliability({(i, 99): {"ann": 1, "bob": 1, "dan": -1} for i in range(30)})
    assert 0.75 > once["dan"] > often["dan"]


def test_a_careless_persons_weight_falls_in_the_store_and_reaches_training(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "feedback.db")
    fallen = []
    for round_ in range(3):
        for i in range(6):
            asked = [{"role": "user", "content": f"Question {round_}.{i}?"}]
            queue.add_task(store, "rank", asked, [{"text": text} for text in "abc"], wanted=3)
        for who, order in (("ann", "abc"), ("bob", "abc"), ("dan", "cba")):
            while given := queue.next_task(store, who):
                ranks = [order.index(text) for _, text in given.answers]
                content = {"completions": [number for number, _ in given.answers], "ranks": ranks}
                queue.submit(store, who, given.task, "ranking", content)
        fallen.append(weights(store))
    assert UNMEASURED > fallen[0]["dan"] >= fallen[1]["dan"] == fallen[2]["dan"] == 0
    assert fallen[0]["ann"] < fallen[1]["ann"] < fallen[2]["ann"]
    rows = export(store, "rankings")
    assert {row["labeller"]: row["weight"] for row in rows} == fallen[2]
    comparisons, dropped = to_comparisons(rows)
    assert not dropped
    assert sorted({comparison.weight for comparison in comparisons}) == sorted(set(fallen[2].values()))
    assert {row["labeller"] for row in export(store, "pairs", Filter(weight=0.5))} == {"ann", "bob"}
    from fledge.stages.reward import weighty

    assert len(weighty(comparisons, Log(quiet=True))) == 36
