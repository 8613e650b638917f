"""Active choice: what to ask people first, namely where reward models are least sure which answer is better.

For a pair of answers the models' mean probability that the first is preferred, σ(r₁ − r₂) as they were trained
(Bradley-Terry), has an entropy: 1 bit where it is a coin's toss, whether because each model finds them alike or because
the models disagree; 0 where all are certain. A set of answers is as unsure as the mean of its pairs. One model knows
only that rewards are close; several also show where more comparisons would teach something (query by committee).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import exp, log2
from typing import Any

from sqlalchemy import select

from fledge.core.errors import FledgeError
from fledge.feedback.queue import MOST_ANSWERS, taken
from fledge.feedback.store import Store
from fledge.feedback.tables import Completion, Prompt, Task

Conversation = Sequence[Mapping[str, str]]
Scorer = Callable[[Sequence[Conversation]], list[float]]  # the reward of each conversation's last answer
Rewards = Sequence[Sequence[float]]  # by model, then by answer


def doubt(first: Sequence[float], second: Sequence[float]) -> float:
    """Bits, 0 to 1: how unsure models are of a pair of answers; the rewards of each by model."""
    chances = [1 / (1 + exp(-max(-500.0, min(500.0, a - b)))) for a, b in zip(first, second, strict=True)]
    p = sum(chances) / len(chances)
    return sum(-q * log2(q) for q in (p, 1 - p) if q > 0)


def unsure(rewards: Rewards) -> float:
    """Bits, 0 to 1: how unsure models are of a set of answers."""
    answers = list(zip(*rewards, strict=True))
    doubts = [doubt(a, b) for a, b in combinations(answers, 2)]
    return sum(doubts) / len(doubts) if doubts else 0.0


def hardest(rewards: Rewards, count: int) -> list[int]:
    """The `count` answers to ask about: the least sure pair, then whatever adds most doubt to what is chosen."""
    answers = list(zip(*rewards, strict=True))
    if len(answers) <= count:
        return list(range(len(answers)))
    first = max(combinations(range(len(answers)), 2), key=lambda pair: doubt(answers[pair[0]], answers[pair[1]]))
    chosen = list(first)
    while len(chosen) < count:
        rest = [i for i in range(len(answers)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: sum(doubt(answers[i], answers[k]) for k in chosen)))
    return sorted(chosen)


def rewards_of(scorers: Sequence[Scorer], prompt: Conversation, answers: Sequence[str]) -> list[list[float]] | None:
    """What each model gives each answer; None for what a model cannot read, as it is too long."""
    told = [[*prompt, {"role": "assistant", "content": answer}] for answer in answers]
    try:
        return [scorer(told) for scorer in scorers]
    except FledgeError:
        return None


def choose(
    rows: Sequence[Mapping[str, Any]], scorers: Sequence[Scorer], answers: int = MOST_ANSWERS, most: int = 0
) -> list[dict[str, Any]]:
    """Rows of prompt and completions, the least sure first; of each at most `answers` completions, of the rows at
    most `most` (0: all). Rows without completions are left out; what a model cannot read comes last."""
    found: list[tuple[float, dict[str, Any]]] = []
    for row in rows:
        completions = list(row.get("completions") or [])
        if len(completions) < 2:
            continue
        prompt = row["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        texts = [str(each["text"]) if isinstance(each, Mapping) else str(each) for each in completions]
        rewards = rewards_of(scorers, turns, texts)
        kept = hardest(rewards, answers) if rewards else list(range(min(answers, len(texts))))
        doubted = unsure([[of_model[i] for i in kept] for of_model in rewards]) if rewards else -1.0
        found.append((doubted, {**row, "completions": [completions[i] for i in kept]}))
    if not found:
        raise FledgeError("no row has completions to choose from", "give rows with 'prompt' and 'completions'")
    found.sort(key=lambda each: -each[0])
    return [row for _, row in found[: most or None]]


def reorder(store: Store, scorers: Sequence[Scorer]) -> int:
    """Puts the ranking tasks that still want somebody in the order of doubt, the least sure first; returns how many.
    What a model cannot read keeps its place."""
    query = (
        select(Task.id, Task.completions, Prompt.messages)
        .join(Prompt, Task.prompt_id == Prompt.id)
        .where(Task.kind == "rank", Task.known.is_(None), taken() < Task.wanted)
    )
    with store.session() as session:
        waiting = session.execute(query).all()
        texts = {row.id: row.text for row in session.execute(select(Completion.id, Completion.text))}
    places = {  # outside of a transaction: models take their time, and people go on judging
        task: -unsure(rewards)
        for task, numbers, messages in waiting
        if (rewards := rewards_of(scorers, messages, [texts[number] for number in numbers])) is not None
    }
    with store.session() as session:
        for task in session.scalars(select(Task).where(Task.id.in_(places))):
            task.place = places[task.id]
    return len(places)
