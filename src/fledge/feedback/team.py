"""What an admin sees of a team: how far the work is, day by day; who may judge; each one's pace and drift.

Drift is a labeller's agreement with the others over time: their rankings in the order they were given, in blocks of
equal size, each with the share of pairs that the median other judged alike. It is called drift if it falls clearly
beside most of the others one by one: a colleague who drifts pulls down one line only. Between two people alone it
cannot be told who moved.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from statistics import fmean, median, pvariance
from typing import Any

from sqlalchemy import select

from fledge.feedback.agreement import agreed, pair_units, pairs_of
from fledge.feedback.people import standing
from fledge.feedback.queue import taken
from fledge.feedback.store import Said, Store
from fledge.feedback.tables import Person, Task

BLOCKS = 8  # points of a line of drift
LEAST = 3  # rankings of a block
CLEAR = 2.0  # standard errors by which the later half must lie below the earlier one to be called drift
KINDS = ("ranking", "demonstration", "rating", "skip")


def team(store: Store) -> dict[str, Any]:
    """Progress, days and people, from all that was said, also by those who do not count."""
    said = store.judgements(KINDS, counted=False)
    with store.session() as session:
        known = set(session.scalars(select(Task.id).where(Task.known.is_not(None))))
        roles = {row.name: row.role for row in session.execute(select(Person.name, Person.role).order_by(Person.id))}
    real = [each for each in said if each.task_id not in known]
    units = pair_units([each for each in real if each.kind == "ranking"])
    people = []
    for name, role in roles.items():
        mine = [each for each in real if each.person == name]
        where = standing(store, name)
        if not mine and not where.agreed and where.test in ("none", "open"):
            continue
        people.append(person_row(name, role, mine, units) | {"agreed": where.agreed, "test": where.test,
                                                             "share": where.share})  # fmt: skip
    return {"progress": progress(store), "days": days(real), "suggestions": suggestions(real), "people": people}


def progress(store: Store) -> dict[str, dict[str, int]]:
    """Per kind of task: how many there are, and how many judgements are wanted and there."""
    query = select(Task.kind, Task.wanted, taken()).where(Task.known.is_(None))
    found: dict[str, dict[str, int]] = {}
    with store.session() as session:
        for kind, wanted, there in session.execute(query):
            row = found.setdefault(kind, {"tasks": 0, "wanted": 0, "there": 0})
            row["tasks"] += 1
            row["wanted"] += wanted
            row["there"] += min(wanted, there)
    return found


def days(said: Sequence[Said]) -> list[dict[str, Any]]:
    """How many judgements of each kind came on each day (UTC), days with none between them too."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for each in said:
        counts[each.created[:10]][each.kind] += 1
    return [{"day": day} | {kind: counts[day][kind] for kind in KINDS} for day in sorted(counts)]


def suggestions(said: Sequence[Said]) -> dict[str, Any]:
    """Demonstrations that began with a model's suggestion, and the median share of it that was kept."""
    written = [each.content for each in said if each.kind == "demonstration"]
    shares = [float(content["kept"]) for content in written if content.get("suggestion")]
    return {"demonstrations": len(written), "suggested": len(shares), "kept": median(shares) if shares else None}


def person_row(
    name: str, role: str, mine: Sequence[Said], units: dict[tuple[int, int], dict[str, int]]
) -> dict[str, Any]:
    """One person: how much of what, how fast over time, and their drift."""
    counts = Counter(each.kind for each in mine)
    times = [each.seconds for each in mine if each.seconds > 0]
    beside = [shares for each in mine if each.kind == "ranking" and (shares := shares_of(each, units))]
    others = {other for shares in beside for other in shares}
    falls = [fallen([shares[other] for shares in beside if other in shares]) for other in others]
    tellable = [fell for fell in falls if fell is not None]
    return {
        "person": name,
        "role": role,
        **{kind: counts[kind] for kind in KINDS},
        "seconds": median(times) if times else None,
        "pace": [[end, median(block)] for end, block in blocks(times)],
        "drift": [[end, fmean(block)] for end, block in blocks([median(shares.values()) for shares in beside])],
        "falling": sum(tellable) * 2 > len(tellable),
    }


def shares_of(ranking: Said, units: dict[tuple[int, int], dict[str, int]]) -> dict[str, float]:
    """How far each other person who judged the same pairs agrees with a ranking."""
    found: dict[str, list[float]] = defaultdict(list)
    for pair, verdict in pairs_of(ranking).items():
        for person, other in units[pair].items():
            if person != ranking.person:
                found[person].append(agreed(verdict, other))
    return {person: fmean(values) for person, values in found.items()}


def blocks(values: Sequence[float]) -> list[tuple[int, Sequence[float]]]:
    """Successive blocks of equal size (the last may be longer), each with the number of values up to its end."""
    count = max(1, min(BLOCKS, len(values) // LEAST))
    size = len(values) // count
    cuts = [i * size for i in range(count)] + [len(values)]
    return [(end, values[start:end]) for start, end in pairwise(cuts) if end > start]


def fallen(shares: Sequence[float]) -> bool | None:
    """Whether the later half lies clearly below the earlier one; None where there is too little to tell."""
    half = len(shares) // 2
    if half < 2 * LEAST:
        return None
    early, late = shares[:half], shares[half:]
    error = sqrt(pvariance(early) / len(early) + pvariance(late) / len(late))
    return fmean(early) - fmean(late) > max(CLEAR * error, 1e-9)
