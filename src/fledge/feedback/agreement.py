"""How far people agree: Krippendorff's α, agreement per pair of people, on items with known answers, and how fast.

α is 1 for perfect agreement and 0 for what chance would give; any number of people, missing values allowed
(Krippendorff 2011, Computing Krippendorff's Alpha-Reliability). A ranking is taken apart into its pairs: each says
first, second or tie. Labellers of InstructGPT agreed on 73 % of the pairs (arXiv:2203.02155).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, Literal

from fledge.feedback.store import Said

Metric = Literal["nominal", "ordinal", "interval"]
Pair = tuple[int, int]  # two answers, the lower number first
INSTRUCT_GPT = 0.726  # of arXiv:2203.02155, section 3.4: training labellers, ± 1.5 %


def krippendorff_alpha(units: Iterable[Mapping[Any, float]], metric: Metric = "nominal") -> float | None:
    """α of `units`, each a mapping person → value. None where nothing can be compared or nothing varies."""
    coincidences: dict[tuple[float, float], float] = defaultdict(float)
    for unit in units:
        values = list(unit.values())
        if len(values) < 2:
            continue
        for i, a in enumerate(values):
            for k, b in enumerate(values):
                if i != k:
                    coincidences[a, b] += 1 / (len(values) - 1)
    marginals: dict[float, float] = defaultdict(float)
    for (a, _), weight in coincidences.items():
        marginals[a] += weight
    total = sum(marginals.values())
    distance = distance_of(metric, marginals)
    observed = sum(weight * distance(a, b) for (a, b), weight in coincidences.items())
    expected = sum(marginals[a] * marginals[b] * distance(a, b) for a in marginals for b in marginals)
    if not expected:
        return None
    return 1 - (total - 1) * observed / expected


def distance_of(metric: Metric, marginals: Mapping[float, float]) -> Callable[[float, float], float]:
    """The squared difference between two values."""
    if metric == "nominal":
        return lambda a, b: float(a != b)
    if metric == "interval":
        return lambda a, b: (a - b) ** 2

    def ordinal(a: float, b: float) -> float:
        low, high = min(a, b), max(a, b)
        between = sum(weight for value, weight in marginals.items() if low <= value <= high)
        return (between - (marginals[a] + marginals[b]) / 2) ** 2

    return ordinal


def pairs_of(ranking: Said) -> dict[Pair, int]:
    """What a ranking says of each pair of answers (the lower number first): -1 the first, 1 the second, 0 a tie."""
    ranks = dict(zip(ranking.content["completions"], ranking.content["ranks"]))
    return {(a, b): (ranks[a] > ranks[b]) - (ranks[a] < ranks[b]) for a, b in combinations(sorted(ranks), 2)}


def pair_units(rankings: Sequence[Said]) -> dict[Pair, dict[str, int]]:
    """Every pair of answers with what each person says of it."""
    units: dict[Pair, dict[str, int]] = defaultdict(dict)
    for ranking in rankings:
        for pair, verdict in pairs_of(ranking).items():
            units[pair][ranking.person] = verdict
    return dict(units)


@dataclass(frozen=True)
class Share:
    """`right` of `of`; a tie on one side counts half."""

    right: float
    of: int

    @property
    def value(self) -> float | None:
        return self.right / self.of if self.of else None


def agreed(a: int, b: int) -> float:
    """1 for the same verdict, 0 for opposite ones, a half if only one is a tie."""
    return 1 - abs(a - b) / 2


def agreement(rankings: Sequence[Said], weights: Mapping[str, float] | None = None) -> dict[str, Any]:
    """α, pairwise agreement overall, between each two people, and of each person with the rest, with speed; and the
    person's weight, if `weights` knows it (`feedback.weights`)."""
    units = pair_units(rankings)
    between: dict[tuple[str, str], list[float]] = defaultdict(list)
    for unit in units.values():
        for a, b in combinations(sorted(unit), 2):
            between[a, b].append(agreed(unit[a], unit[b]))
    people = sorted({ranking.person for ranking in rankings})
    everything = [value for values in between.values() for value in values]
    return {
        "alpha": krippendorff_alpha(units.values(), "ordinal"),
        "agreement": sum(everything) / len(everything) if everything else None,
        "pairs": len(everything),
        "instruct_gpt": INSTRUCT_GPT,
        "between": [
            {"people": list(pair), "agreement": sum(values) / len(values), "pairs": len(values)}
            for pair, values in sorted(between.items())
        ],
        "people": [
            person_row(person, rankings, between) | {"weight": (weights or {}).get(person)} for person in people
        ],
    }


def person_row(person: str, rankings: Sequence[Said], between: Mapping[tuple[str, str], list[float]]) -> dict[str, Any]:
    """One person: how much they did, how fast, and how far the others agree."""
    mine = [ranking for ranking in rankings if ranking.person == person]
    values = [value for pair, found in between.items() if person in pair for value in found]
    share = sum(values) / len(values) if values else None
    times = [ranking.seconds for ranking in mine if ranking.seconds > 0]
    return {
        "person": person,
        "rankings": len(mine),
        "seconds": median(times) if times else None,
        "agreement": share,
        "pairs": len(values),
    }


def screened(rankings: Sequence[Said], known: Mapping[int, Sequence[float]]) -> dict[str, Share]:
    """Per person the share of pairs right on tasks with known ranks (`known`: task → the rank of each answer in the
    order of the task's answers, sorted by their number)."""
    right: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for ranking in rankings:
        if ranking.task_id is None or ranking.task_id not in known:
            continue
        truth = dict(zip(sorted(ranking.content["completions"]), known[ranking.task_id]))
        for (a, b), verdict in pairs_of(ranking).items():
            right[ranking.person] += agreed(verdict, (truth[a] > truth[b]) - (truth[a] < truth[b]))
            count[ranking.person] += 1
    return {person: Share(right[person], count[person]) for person in sorted(count)}
