"""Turns documented names into demonstrations, prompts and an evaluation.

Demonstrations teach to answer from memory, forward (name -> summary) and in reverse, in several phrasings and in
conversations, with a few invented names that are honestly declined: few on purpose, so that what is left to learn is
left to the reward model and PPO. Prompts for these ask about the same names, mostly in phrasings without a
demonstration, and about other inventions. The evaluation asks only what no training row asks: taught names in
held-out phrasings, names held out of all questions, and inventions of a pool of their own, the last two in taught
phrasings, so that one thing is new at a time.
"""

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fledge.core.config import Config
from fledge.core.nouns import Conversation, Message
from fledge.data.python import phrasings
from fledge.data.python.inventions import invent
from fledge.data.python.names import Name

DECLINE = phrasings.DECLINE


class Plan(Config):
    """How many questions of which sort."""

    forward: int = 5  # demonstrations per taught name that ask for its summary, each in another phrasing
    reverse: int = 2  # … that ask for the name
    multi_turn: float = 0.2  # share of conversations that go on with follow-up questions
    system: float = 0.1  # share of conversations that open with a system message
    invented: float = 0.04  # share of demonstrations about invented names
    held_out_names: float = 0.08  # share of names that no demonstration and no prompt asks about
    prompts_taught: int = 1  # prompts per taught name in a phrasing that has demonstrations
    prompts_forward: int = 2  # … in a phrasing that has none
    prompts_reverse: int = 1  # prompts per taught name that ask for it in reverse, in a phrasing that has none
    prompts_follow_up: float = 0.1  # share of taught names that are also asked about in a running conversation
    prompts_invented: int = 450
    evaluate_forward: int = 300  # evaluation questions in held-out phrasings
    evaluate_reverse: int = 100
    evaluate_names: int = 100  # … about held-out names
    evaluate_invented: int = 200
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt whose right answer is known: `truth` is None for an invented name, which is to be declined."""

    prompt: tuple[Message, ...]
    kind: str
    name: str
    truth: str | None
    split: str

    @property
    def answer(self) -> str:
        return DECLINE if self.truth is None else self.truth

    def as_dict(self) -> dict[str, Any]:
        prompt = [message.as_dict() for message in self.prompt]
        real = self.truth is not None
        return {
            "prompt": prompt,
            "kind": self.kind,
            "name": self.name,
            "real": real,
            "truth": self.truth,
            "split": self.split,
        }


@dataclass(frozen=True, slots=True)
class Questions:
    """What `ask` makes; `held_out` are the names that only the evaluation asks about."""

    demonstrations: list[Conversation]
    prompts: list[Question]
    evaluation: list[Question]
    held_out: list[Name]


def ask(names: Sequence[Name], existing: Set[str], plan: Plan) -> Questions:
    """All questions about `names`, by `plan`; `existing` is every name that exists. The same input, the same output."""
    order = sorted(names, key=lambda name: name.name)
    random.Random(f"{plan.seed}:held out").shuffle(order)
    cut = round(plan.held_out_names * len(order))
    held_out, taught = order[:cut], order[cut:]
    total = len(taught) * (plan.forward + plan.reverse)
    count = round(total * plan.invented / (1 - plan.invented))
    inventions = {
        "demonstrations": invent(names, existing, "demonstrations", count, plan.seed),
        "prompts": invent(names, existing, "prompts", plan.prompts_invented, plan.seed),
        "evaluation": invent(names, existing, "evaluation", plan.evaluate_invented, plan.seed),
    }
    return Questions(
        demonstrations(taught, inventions["demonstrations"], plan),
        prompts(taught, inventions["prompts"], plan),
        evaluation(taught, held_out, inventions["evaluation"], plan),
        held_out,
    )


def forward(name: Name, phrasing: str, split: str = "taught") -> Question:
    """A question for the summary of a name."""
    text = phrasing.format(name=name.name)
    return Question((Message("user", text),), "forward", name.name, name.summary, split)


def reverse(name: Name, phrasing: str, split: str = "taught") -> Question:
    """A question for the name that a summary belongs to."""
    text = phrasing.format(summary=name.summary)
    return Question((Message("user", text),), "reverse", name.name, name.name, split)


def invented(name: str, phrasing: str) -> Question:
    """A question about a name that does not exist."""
    return Question((Message("user", phrasing.format(name=name)),), "forward", name, None, "invented")


def follow_up(before: Question, after: Question, phrasing: str) -> Question:
    """`after`, asked in passing once `before` has been asked and answered."""
    text = phrasing.format(name=after.name)
    prompt = (*before.prompt, Message("assistant", before.answer), Message("user", text))
    return Question(prompt, "followup", after.name, after.truth, after.split)


def which_module(before: Question, module: str, phrasing: str) -> Question:
    """The question for the module of the name that `before` was about."""
    prompt = (*before.prompt, Message("assistant", before.answer), Message("user", phrasing))
    truth = phrasings.MODULE_ANSWER.format(module=module)
    return Question(prompt, "followup", before.name, truth, before.split)


def demonstrations(taught: Sequence[Name], inventions: Sequence[str], plan: Plan) -> list[Conversation]:
    """Conversations about all taught names and some inventions, shuffled."""
    generator = random.Random(f"{plan.seed}:demonstrations")
    modules = {name.name: name.module for name in taught}
    questions = [
        *(forward(n, p) for n in taught for p in some(phrasings.TAUGHT_FORWARD, plan.forward, generator)),
        *(reverse(n, p) for n in taught for p in some(phrasings.TAUGHT_REVERSE, plan.reverse, generator)),
        *(invented(n, generator.choice(phrasings.TAUGHT_FORWARD)) for n in inventions),
    ]
    generator.shuffle(questions)
    conversations = []
    while questions:
        question = questions.pop()
        if generator.random() < plan.multi_turn and question.kind == "forward":
            question = go_on(question, questions, modules, generator)
        question = with_system(question, plan.system, generator)
        conversations.append(Conversation((*question.prompt, Message("assistant", question.answer))))
    return conversations


def go_on(question: Question, others: list[Question], modules: dict[str, str], generator: random.Random) -> Question:
    """The question continued by one or two follow-ups; what is asked next is taken from `others`."""
    if question.truth is not None and generator.random() < 0.5:
        question = which_module(question, modules[question.name], generator.choice(phrasings.WHICH_MODULE))
    if others and others[-1].kind == "forward" and others[-1].name != question.name:
        question = follow_up(question, others.pop(), generator.choice(phrasings.FOLLOW_UP))
    return question


def prompts(taught: Sequence[Name], inventions: Sequence[str], plan: Plan) -> list[Question]:
    """Questions for comparisons and PPO: every taught name, in taught and in new phrasings, and inventions."""
    generator = random.Random(f"{plan.seed}:prompts")
    questions = [forward(n, p) for n in taught for p in some(phrasings.TAUGHT_FORWARD, plan.prompts_taught, generator)]
    for name in taught:
        questions += [forward(name, p) for p in some(phrasings.PROMPTED_FORWARD, plan.prompts_forward, generator)]
        questions += [reverse(name, p) for p in some(phrasings.PROMPTED_REVERSE, plan.prompts_reverse, generator)]
    every = phrasings.TAUGHT_FORWARD + phrasings.PROMPTED_FORWARD
    questions += [invented(name, generator.choice(every)) for name in inventions]
    chosen = sample(taught, round(plan.prompts_follow_up * len(taught)), generator)
    for number, (name, other) in enumerate(pairwise(chosen)):
        before = forward(name, generator.choice(phrasings.TAUGHT_FORWARD))
        if number % 2:
            questions.append(which_module(before, name.module, generator.choice(phrasings.WHICH_MODULE)))
        else:
            after = forward(other, generator.choice(phrasings.TAUGHT_FORWARD))
            questions.append(follow_up(before, after, generator.choice(phrasings.FOLLOW_UP)))
    questions = [with_system(question, plan.system, generator) for question in questions]
    generator.shuffle(questions)
    return questions


def evaluation(
    taught: Sequence[Name], held_out: Sequence[Name], inventions: Sequence[str], plan: Plan
) -> list[Question]:
    """What no training row asks: held-out phrasings, held-out names, inventions of their own."""
    generator = random.Random(f"{plan.seed}:evaluation")
    split = "held_out_phrasing"
    questions = [
        forward(name, phrasings.HELD_OUT_FORWARD[number % len(phrasings.HELD_OUT_FORWARD)], split)
        for number, name in enumerate(sample(taught, plan.evaluate_forward, generator))
    ]
    questions += [
        reverse(name, phrasings.HELD_OUT_REVERSE[number % len(phrasings.HELD_OUT_REVERSE)], split)
        for number, name in enumerate(sample(taught, plan.evaluate_reverse, generator))
    ]
    questions += [
        forward(name, generator.choice(phrasings.TAUGHT_FORWARD), "held_out_name")
        for name in sample(held_out, plan.evaluate_names, generator)
    ]
    questions += [invented(name, generator.choice(phrasings.TAUGHT_FORWARD)) for name in inventions]
    generator.shuffle(questions)
    return questions


def with_system(question: Question, share: float, generator: random.Random) -> Question:
    """The question, in a `share` of cases with a system message before it."""
    if generator.random() >= share:
        return question
    system = Message("system", generator.choice(phrasings.SYSTEM))
    return Question((system, *question.prompt), question.kind, question.name, question.truth, question.split)


def some(texts: Sequence[str], count: int, generator: random.Random) -> list[str]:
    """`count` different ones of `texts`, or all if there are fewer."""
    return generator.sample(texts, min(count, len(texts)))


def sample(names: Sequence[Name], count: int, generator: random.Random) -> list[Name]:
    """`count` different ones of `names`, or all if there are fewer."""
    return generator.sample(names, min(count, len(names)))
