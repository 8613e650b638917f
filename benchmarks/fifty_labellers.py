"""Fifty simulated labellers at once, for two minutes, against a real server: no judgement lost, none kept twice.

    python benchmarks/fifty_labellers.py [--seconds 120] [--people 50] [--store postgresql+psycopg://…]

Each takes a task and ranks its answers; of what they send a fifth is cut off by a client that gives up and sends it
again, a tenth is simply sent twice, and a twentieth of the tasks is left open and asked for again. Then the store must
hold exactly what was acknowledged: each judgement once, with the ranks that were sent, no task judged by more people
than were wanted, nobody twice on one. Prints judgements per second and how long a request took; exits with 1 if
anything is wrong.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console

from fledge.feedback.store import Store
from fledge.serve.keys import Keys
from simulated_people import Client, at_once, serving

WANTED, BATCH = 3, 150  # people for each task; tasks that are added at a time
CUT, TWICE, LEFT = 0.2, 0.1, 0.05
Sent = dict[str, Any]


def label(client: Client, number: int, until: float, counts: Counter[str], times: list[float]) -> list[Sent]:
    """One labeller until the time is up: everything that the server said it had kept."""
    draw, kept = random.Random(number), list[Sent]()
    while time.monotonic() < until:
        began = time.monotonic()
        given = client.get("/app/label/next", kind="rank")
        times.append(time.monotonic() - began)
        if given["task"] is None:
            time.sleep(0.2)
            continue
        if draw.random() < LEFT:  # the tab is closed and opened again
            counts["left and taken up again"] += client.get("/app/label/next", kind="rank")["task"] == given["task"]
        ids = [answer["id"] for answer in given["answers"]]
        content = {"completions": ids, "ranks": draw.sample(range(len(ids)), len(ids))}
        body = {"task": given["task"], "kind": "ranking", "content": content, "token": uuid.uuid4().hex}
        if draw.random() < CUT:
            try:
                client.http.post("/app/label/said", json=body, timeout=draw.choice((0.001, 0.01, 0.05)))
            except httpx.TransportError:
                counts["cut off and sent again"] += 1
        began = time.monotonic()
        found = client.post("/app/label/said", body)["id"]
        times.append(time.monotonic() - began)
        if draw.random() < TWICE:
            counts["sent twice"] += 1
            assert client.post("/app/label/said", body)["id"] == found, "sent twice, kept twice"
        kept.append({"id": found, "task": given["task"], "ranks": dict(zip(ids, content["ranks"]))})
    return kept


def add(admin: Client, number: int, count: int) -> int:
    """Adds so many tasks."""
    rows = [
        {"prompt": f"Question {number}.{i}?", "completions": [f"answer {k} to {number}.{i}" for k in range(3)]}
        for i in range(count)
    ]
    admin.post("/app/label/tasks", {"rows": rows, "wanted": WANTED})
    return count


def supply(admin: Client, until: float) -> int:
    """Adds tasks for as long as people may run out of them; returns how many."""
    added = 0
    for number in itertools.count(1):
        while admin.get("/app/label/next", kind="demonstrate")["progress"]["left"] > BATCH:
            if time.monotonic() >= until:
                return added
            time.sleep(0.5)
        added += add(admin, number, BATCH)
    raise AssertionError


def wrong(store: Store, people: Sequence[str], kept: Sequence[Sequence[Sent]]) -> list[str]:
    """What the store holds that was not said, or does not hold that was; nothing if all is well."""
    said = {each.id: each for each in store.judgements(["ranking"], latest=False) if each.person in people}
    acknowledged = {sent["id"]: (person, sent) for person, mine in zip(people, kept) for sent in mine}
    found = [f"{len(said) - len(acknowledged):+} judgements in the store"] if len(said) != len(acknowledged) else []
    found += ["a number was given out twice"] if sum(map(len, kept)) != len(acknowledged) else []
    for number, (person, sent) in acknowledged.items():
        each = said.get(number)
        if each is None:
            found.append(f"judgement {number} is lost")
        elif (each.person, each.task_id) != (person, sent["task"]):
            found.append(f"judgement {number} is somebody else's, or of something else")
        elif dict(zip(each.content["completions"], each.content["ranks"])) != sent["ranks"]:
            found.append(f"judgement {number} says something else")
    places = Counter((each.task_id, each.person) for each in said.values())
    found += [f"task {task} was judged twice by {who}" for (task, who), count in places.items() if count > 1]
    crowded = Counter(each.task_id for each in said.values())
    return found + [f"task {task} was judged by {count}" for task, count in crowded.items() if count > WANTED]


def crowd(
    model: Path, where: str, folder: Path, people: int, seconds: float, first: int = 300
) -> tuple[dict[str, Any], list[str]]:
    """Lets so many people label for so long, with `first` tasks to begin with; returns figures, and what is wrong."""
    keys = Keys(folder / "keys.json")
    names = [f"simulated labeller {i + 1}" for i in range(people)]
    secrets = {name: keys.add(name, "labeller") for name in names} | {"admin": keys.add("admin", "admin")}
    counts, times = Counter[str](), list[float]()
    with serving([f"model={model}"], folder / "keys.json", where, folder) as address:
        clients = [Client(address, secrets[name]) for name in names]
        admin = Client(address, secrets["admin"])
        begun = add(admin, 0, first)
        until = time.monotonic() + seconds
        jobs = [partial(label, client, i, until, counts, times) for i, client in enumerate(clients)]
        *kept, added = at_once([*jobs, partial(supply, admin, until)])
    judged = sum(map(len, kept))
    times.sort()
    figures = {
        "people": people, "seconds": seconds, "tasks": begun + added,
        "judgements": judged, "per second": judged / seconds,
        "median ms": 1000 * statistics.median(times), "p95 ms": 1000 * times[int(0.95 * len(times))],
        "longest ms": 1000 * times[-1], **dict(sorted(counts.items())),
    }  # fmt: skip
    return figures, wrong(Store.open(where), names, kept)


def main() -> None:
    """Two minutes with a random model that nobody asks."""
    from soak_serve import model_in

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--store", help="a database URL; a SQLite file by default")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        where = given.store or str(Path(folder) / "feedback.db")
        figures, found = crowd(model_in(Path(folder) / "model"), where, Path(folder), given.people, given.seconds)
    for name, value in figures.items():
        Console().print(f"{name:>24}  {value:,.1f}" if isinstance(value, float) else f"{name:>24}  {value:,}")
    for line in found[:20]:
        print(line, file=sys.stderr)
    print("nothing lost, nothing twice" if not found else f"{len(found)} things are wrong")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
