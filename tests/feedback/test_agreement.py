"""Agreement against figures that others published, and against counting by hand."""

import random

import pytest

pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")

from fledge.feedback.agreement import agreement, krippendorff_alpha, screened
from fledge.feedback.store import Said
from fledge.feedback.weights import weights_of

# Krippendorff 2011, section C to E: four observers, twelve units, gaps; his results with three decimals.
OBSERVERS = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}
UNITS = [{name: values[i] for name, values in OBSERVERS.items() if values[i] is not None} for i in range(12)]


@pytest.mark.parametrize(("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_krippendorffs(metric: str, published: float) -> None:
    assert krippendorff_alpha(UNITS, metric) == pytest.approx(published, abs=5e-4)


def test_alpha_of_perfection_of_chance_and_of_nothing() -> None:
    draw = random.Random(0)
    assert krippendorff_alpha([{"a": i % 3, "b": i % 3} for i in range(9)]) == 1
    noise = [{"a": draw.randrange(2), "b": draw.randrange(2)} for _ in range(4000)]
    assert krippendorff_alpha(noise) == pytest.approx(0, abs=0.05)
    assert krippendorff_alpha([{"a": 1}]) is None
    assert krippendorff_alpha([{"a": 1, "b": 1}]) is None


def ranking(person: str, ranks: list[int], task: int = 1, seconds: float = 10) -> Said:
    content = {"completions": [task * 10 + i for i in range(len(ranks))], "ranks": ranks}
    return Said(0, "ranking", task, task, (), person, "", content, seconds, "")


def test_agreement_counts_pairs_and_finds_the_careless() -> None:
    careful = [ranking(name, [0, 1, 2], task) for name in ("ann", "bob", "cid") for task in range(1, 9)]
    contrary = [ranking("dan", [2, 1, 0], task, seconds=1) for task in range(1, 9)]
    found = agreement([*careful, *contrary], weights_of([*careful, *contrary]))
    rows = {row["person"]: row for row in found["people"]}
    assert rows["ann"]["agreement"] == pytest.approx(2 / 3)
    assert rows["dan"]["agreement"] == 0
    assert rows["dan"]["weight"] == 0 < rows["ann"]["weight"]
    assert rows["dan"]["seconds"] == 1
    assert found["agreement"] == pytest.approx(1 / 2)
    assert found["pairs"] == 6 * 3 * 8
    between = {tuple(each["people"]): each["agreement"] for each in found["between"]}
    assert between["ann", "bob"] == 1
    assert between["ann", "dan"] == 0


def test_a_tie_against_a_preference_counts_half() -> None:
    assert agreement([ranking("ann", [0, 1]), ranking("bob", [0, 0])])["agreement"] == 0.5
    assert agreement([ranking("ann", [0, 0]), ranking("bob", [0, 0])])["agreement"] == 1


def test_known_answers_screen_people() -> None:
    found = screened([ranking("ann", [0, 1, 2]), ranking("bob", [0, 2, 1])], {1: [0, 1, 2]})
    assert found["ann"].value == 1
    assert found["bob"].value == pytest.approx(2 / 3)
