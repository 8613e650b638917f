"""Tasks for labellers from served chats: each near-duplicate once, thumbs down first, private data masked."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from fledge.core.nouns import Message
from fledge.feedback.privacy import hidden, masked
from fledge.feedback.queue import add_task, asked
from fledge.feedback.store import Said, Store

Answers = Callable[[Sequence[Sequence[Mapping[str, Any]]], int], list[str]]  # of conversations, drawn with a seed
ALIKE = 0.8  # share of common words from which on two prompts are one


def add_chats(store: Store) -> int:
    """Demonstration tasks for the prompts of rated chats that nobody has corrected or answered; returns how many."""
    known = [said.prompt for said in store.judgements(["demonstration"])] + asked(store, "demonstrate")
    waiting = waiting_chats([said for said in store.judgements(["rating"]) if not said.content["correction"]], known)
    for place, said in waiting:
        prompt = hidden([turn.as_dict() for turn in said.prompt])
        add_task(store, "demonstrate", prompt, place=place, source="chat")
    return len(waiting)


def add_chat_rankings(store: Store, models: Mapping[str, Answers], count: int = 4, wanted: int = 1) -> int:
    """Ranking tasks for the prompts of rated chats: `count` answers to each, the one that was rated among them and
    the others drawn from `models` in turn. Prompts that only one different answer was found for are left out."""
    waiting = waiting_chats(store.judgements(["rating"]), asked(store, "rank"))
    served, prompts = store.answers(), [hidden([turn.as_dict() for turn in said.prompt]) for _, said in waiting]
    rated = [served[said.content["completion"]] for _, said in waiting]
    found = [[{"text": masked(text), "model": model}] for text, model in rated]
    for number, name in zip(range(1, count), cycle(models)):
        for answers, text in zip(found, models[name](prompts, number * len(prompts)), strict=True):
            answers.append({"text": text.strip(), "model": name})
    added = 0
    for (place, _), prompt, answers in zip(waiting, prompts, found, strict=True):
        different = {each["text"]: each for each in reversed(answers) if each["text"]}
        if len(different) > 1:
            add_task(store, "rank", prompt, list(different.values()), wanted=wanted, place=place, source="chat")
            added += 1
    return added


def waiting_chats(ratings: Sequence[Said], known: Sequence[Sequence[Message]]) -> list[tuple[float, Said]]:
    """Of rated chats one for each group of near-duplicates that is not `known`, with its place in the queue: thumbs
    down first. Chats of people who withdrew their consent are not among `Store.judgements`."""
    groups = Groups([fold(prompt) for prompt in known])
    first_new = len(groups.words)
    waiting: dict[int, tuple[float, Said]] = {}
    for said in ratings:
        group = groups.of(fold(said.prompt))
        place = 0.0 if said.content["rating"] < 0 else 1.0
        if group >= first_new and (group not in waiting or place < waiting[group][0]):
            waiting[group] = (place, said)
    return list(waiting.values())


class Groups:
    """Texts that share most of their words are in one group; a group is known by its first."""

    def __init__(self, firsts: Sequence[str]) -> None:
        self.words: list[frozenset[str]] = []
        self.having: dict[str, list[int]] = {}
        self.exact: dict[str, int] = {}
        for text in firsts:
            self._add(text)

    def of(self, text: str) -> int:
        """The number of the text's group; a new one if it is like none."""
        if text in self.exact:
            return self.exact[text]
        words = frozenset(text.split())
        shared: Counter[int] = Counter(group for word in words for group in self.having.get(word, ()))
        for group, common in shared.items():
            if common >= ALIKE * len(words | self.words[group]):
                self.exact[text] = group
                return group
        return self._add(text)

    def _add(self, text: str) -> int:
        number = len(self.words)
        self.words.append(frozenset(text.split()))
        for word in self.words[-1]:
            self.having.setdefault(word, []).append(number)
        self.exact.setdefault(text, number)
        return number


def fold(prompt: Sequence[Message]) -> str:
    """The words of a conversation, masked, without case and punctuation."""
    return " ".join(re.sub(r"\W+", " ", masked(turn.content)).strip().lower() for turn in prompt)
