"""People who do not exist, for trying out the whole way from judgement to model over HTTP, against a real server.

Each is named "simulated …", in the store as everywhere else, has a reliability (how often they say what they think, and
not something at random) and a taste (what they think), and works through the same routes as the labelling page. They
know the truth by the reference labeller (`evaluate/labeller.py`). No time is spent thinking: speed says nothing.
"""

import random
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from fledge.data.python.phrasings import DECLINE
from fledge.evaluate.labeller import rank, verdict

Taste = Literal["plain", "brief", "bold", "humble", "contrary"]
Row = dict[str, Any]
PATIENCE = 120.0  # seconds for an answer: the machine may be busy


@dataclass(frozen=True)
class Simulated:
    """Somebody made up. With probability `reliability` they say what they think, else anything.

    Tastes: plain, as the reference labeller; brief, of equal answers the shorter; bold, a decline is no better than an
    error; humble, a decline is as good as the truth; contrary, the worst first.
    """

    name: str
    reliability: float
    taste: Taste = "plain"

    def ranks(self, answers: Sequence[str], truth: str | None, kind: str, draw: random.Random) -> list[int]:
        """Their ranks of answers to one question, 0 the best."""
        if draw.random() >= self.reliability:
            return draw.sample(range(len(answers)), len(answers))
        exact = rank(answers, truth, kind)
        said = [verdict(answer, truth, kind) for answer in answers]
        scores: list[tuple[float, int]] = [(place, 0) for place in exact]
        if self.taste == "brief":
            scores = [(place, len(answer)) for place, answer in zip(exact, answers)]
        elif self.taste in ("bold", "humble") and truth is not None:
            alike = {"bold": ("declined", "wrong"), "humble": ("declined", "truthful")}[self.taste]
            worst = max(place for place, v in zip(exact, said) if v in alike) if set(said) & set(alike) else 0
            scores = [(worst if v in alike else place, 0) for place, v in zip(exact, said)]
        elif self.taste == "contrary":
            scores = [(-place, 0) for place in exact]
        places = sorted(set(scores))
        return [places.index(score) for score in scores]

    def answer(self, truth: str | None, others: Sequence[str], draw: random.Random) -> str:
        """Their demonstration: the truth, an honest decline for what does not exist, or something made up."""
        if self.taste == "contrary" or draw.random() >= self.reliability:
            return draw.choice(others)
        return DECLINE if truth is None else truth


PEOPLE = (
    Simulated("simulated ann, careful", 0.97),
    Simulated("simulated bob, careful, likes it brief", 0.95, "brief"),
    Simulated("simulated cid, likes bold answers", 0.92, "bold"),
    Simulated("simulated eve, often tired", 0.75),
    Simulated("simulated dan, careless", 0.0),
    Simulated("simulated fox, adversarial", 0.95, "contrary"),
)


@contextmanager
def serving(models: Sequence[str], keys: Path, store: str, runs: Path, threads: int = 1) -> Iterator[str]:
    """A real `fledge serve` in a process of its own; yields its address."""
    command = [sys.executable, "-m", "fledge", "serve", *models, "--port", "0", "--keys", str(keys)]
    command += ["--set", f"feedback={store}", "--set", f"runs={runs}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            found = re.search(r"API\s+(http://\S+?)/v1", line)
            if found:
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[1]
                return
        raise RuntimeError(f"the server did not start:\n{said}")
    finally:
        process.terminate()
        process.wait(30)


class Client:
    """One person's connection to the server, with their own key; a request that is cut off is sent again as it was."""

    def __init__(self, address: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=address, headers=headers, timeout=PATIENCE)
        agreed = self.http.post("/app/feedback/consent", json={"given": True})
        if agreed.status_code not in (200, 404, 405):
            agreed.raise_for_status()

    def get(self, path: str, **parameters: Any) -> Any:
        return self.patiently(lambda: self.http.get(path, params=parameters))

    def post(self, path: str, body: Any) -> Any:
        return self.patiently(lambda: self.http.post(path, json=body))

    def patiently(self, send: Callable[[], httpx.Response]) -> Any:
        """What is answered, asked for again if the connection breaks or the server is busy."""
        for attempt in range(5):
            try:
                return checked(send()).json()
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                busy = isinstance(error, httpx.TransportError) or error.response.status_code in (429, 503)
                if not busy or attempt == 4:
                    raise
        raise AssertionError

    def chat(self, prompt: Sequence[Mapping[str, str]], model: str, seed: int, count: int = 1) -> list[str]:
        """Sampled answers to a conversation."""
        body = {
            "model": model,
            "messages": list(prompt),
            "n": count,
            "seed": seed,
            "max_tokens": 48,
            "temperature": 1.0,
        }
        return [choice["message"]["content"].strip() for choice in self.post("/v1/chat/completions", body)["choices"]]


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer, unless it is an error: then that is raised with what the server says."""
    if answer.is_error:
        said = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}"
        raise httpx.HTTPStatusError(said, request=answer.request, response=answer)
    return answer


def judge_all(client: Client, kind: str, judged: Callable[[Row], tuple[str, Row]], most: int = 1 << 30) -> int:
    """Takes tasks of a kind until there are none, or `most`; returns how many were judged."""
    for done in range(most):
        given = client.get("/app/label/next", kind=kind)
        if given["task"] is None:
            return done
        what, content = judged(given)
        client.post(
            "/app/label/said",
            {"task": given["task"], "kind": what, "content": content, "seconds": 1.0, "token": uuid.uuid4().hex},
        )
    return most


def work(client: Client, person: Simulated, known: Mapping[str, Row], seed: int) -> dict[str, int]:
    """All that a person does in a round: write answers, rank answers. `known`: the truth, by the question's words."""
    draw = random.Random(f"{seed}:{person.name}")
    facts = sorted({row["truth"] for row in known.values() if row["truth"]})

    def demonstrated(given: Row) -> tuple[str, Row]:
        return "demonstration", {"answer": person.answer(known[given["prompt"][-1]["content"]]["truth"], facts, draw)}

    def ranked(given: Row) -> tuple[str, Row]:
        row = known[given["prompt"][-1]["content"]]
        ranks = person.ranks([answer["text"] for answer in given["answers"]], row["truth"], row["kind"], draw)
        return "ranking", {"completions": [answer["id"] for answer in given["answers"]], "ranks": ranks}

    return {
        "demonstrations": judge_all(client, "demonstrate", demonstrated),
        "rankings": judge_all(client, "rank", ranked),
    }


def at_once(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Runs each job in a thread; returns what they return, or raises what the first failing one raised."""
    results: list[Any] = [None] * len(jobs)
    failures: list[BaseException] = []

    def run(i: int) -> None:
        try:
            results[i] = jobs[i]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
