"""How far each person can be relied on, from whom they agree with: the weight of their comparisons in training.

Dawid and Skene's model with one number a person (1979, Applied Statistics 28:20-28; the "one-coin" form): every pair
of answers has a better one that nobody knows, and person j names it with probability p_j. Both are found together by
expectation-maximisation, so that agreeing with reliable people counts for more than agreeing with careless ones. Items
with known answers are taken as known. A person of whom little has been seen is drawn to p = 3/4 by a prior worth four
pairs, three of them right.

The weight is 2p - 1: what is left of a comparison's signal when a share 1 - p of such comparisons is turned round
(Natarajan et al. 2013, Learning with Noisy Labels, lemma 1). Guessing weighs nothing; who says the opposite of the
others weighs nothing either, and is never read backwards. Left out: difficulty of items, drift, ties (they favour no
answer, and say nothing here), and that the pairs of one ranking hang together.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import select

from fledge.feedback.agreement import Pair, pair_units
from fledge.feedback.store import Said, Store
from fledge.feedback.tables import Task

PRIOR = (3.0, 1.0)  # pairs right and wrong that are imagined before any is seen
ROUNDS, STILL = 1000, 1e-9  # of expectation-maximisation; the change at which it has settled


def weights(store: Store) -> dict[str, float]:
    """Everybody who ranked, and the weight of what they say: 0 to 1."""
    found = reliability(pair_units(store.judgements(["ranking"])), known_pairs(store))
    return {person: weight(chance) for person, chance in found.items()}


def weight(chance: float) -> float:
    """The weight of somebody who is right with that probability."""
    return round(max(0.0, 2 * chance - 1), 4)


UNMEASURED = weight(PRIOR[0] / sum(PRIOR))  # of people who have ranked nothing


def weights_of(rankings: Sequence[Said], known: Mapping[Pair, int] | None = None) -> dict[str, float]:
    """The weight of each person in some rankings."""
    return {person: weight(chance) for person, chance in reliability(pair_units(rankings), known or {}).items()}


def reliability(units: Mapping[Pair, Mapping[str, int]], known: Mapping[Pair, int] | None = None) -> dict[str, float]:
    """The probability with which each person names the better answer of a pair.

    units: pair → {person: -1 the first is better, 1 the second, 0 a tie}; known: pair → the right verdict, for some.
    Starts from p = 3/4 for all: the crowd is taken to be right more often than not.
    """
    spoken = {pair: {who: v for who, v in said.items() if v} for pair, said in units.items()}
    people = sorted({person for said in units.values() for person in said})
    truth = known or {}
    chance = dict.fromkeys(people, PRIOR[0] / sum(PRIOR))
    for _ in range(ROUNDS):
        right, count = defaultdict[str, float](float), defaultdict[str, int](int)
        for pair, said in spoken.items():
            second = float(truth[pair] > 0) if truth.get(pair) else second_is_better(said, chance)
            for person, verdict in said.items():
                right[person] += second if verdict > 0 else 1 - second
                count[person] += 1
        before, chance = chance, {p: (PRIOR[0] + right[p]) / (sum(PRIOR) + count[p]) for p in people}
        if all(abs(chance[p] - before[p]) < STILL for p in people):
            break
    return chance


def second_is_better(said: Mapping[str, int], chance: Mapping[str, float]) -> float:
    """The probability that the second answer of a pair is better, from what people say of it."""
    evidence = sum(verdict * math.log(chance[who] / (1 - chance[who])) for who, verdict in said.items())
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, evidence))))


def known_pairs(store: Store) -> dict[Pair, int]:
    """The right verdict on each pair of answers of items whose right ranks are known."""
    with store.session() as session:
        rows = session.execute(select(Task.completions, Task.known).where(Task.known.is_not(None)))
        items = [(sorted(ids), ranks) for ids, ranks in rows if ranks is not None]
    return {
        (a, b): (ranks[i] > ranks[k]) - (ranks[i] < ranks[k])
        for ids, ranks in items
        for i, a in enumerate(ids)
        for k, b in enumerate(ids)
        if i < k
    }
