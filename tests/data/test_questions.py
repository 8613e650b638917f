"""Questions: nothing the evaluation asks occurs in training, and no invention exists."""

import pydoc
import random

import pytest

from fledge.data.python import phrasings
from fledge.data.python.installation import Installation
from fledge.data.python.inventions import POOLS, identifier, invent, pool_of, split
from fledge.data.python.names import Name, documented_names
from fledge.data.python.questions import DECLINE, Plan, Question, Questions, ask


@pytest.fixture(scope="module")
def names(library: Installation) -> list[Name]:
    return documented_names(library, 1000)


@pytest.fixture(scope="module")
def existing(library: Installation) -> set[str]:
    return library.all_names()


@pytest.fixture(scope="module")
def asked(names: list[Name], existing: set[str]) -> Questions:
    return ask(names, existing, Plan())


def test_sizes_are_those_of_the_plan(asked: Questions, names: list[Name]) -> None:
    plan = Plan()
    splits = [(question.split, question.kind) for question in asked.evaluation]
    assert splits.count(("held_out_phrasing", "forward")) == plan.evaluate_forward
    assert splits.count(("held_out_phrasing", "reverse")) == plan.evaluate_reverse
    assert splits.count(("held_out_name", "forward")) == len(asked.held_out) == round(plan.held_out_names * len(names))
    assert splits.count(("invented", "forward")) == plan.evaluate_invented
    assert sum(question.truth is None for question in asked.prompts) == plan.prompts_invented
    declines = sum(m.content == DECLINE for c in asked.demonstrations for m in c.messages)
    answers = sum(m.role == "assistant" for c in asked.demonstrations for m in c.messages)
    assert declines / answers == pytest.approx(plan.invented, abs=0.01)


def test_every_taught_name_is_demonstrated_and_prompted(asked: Questions, names: list[Name]) -> None:
    taught = {name.name for name in names} - {name.name for name in asked.held_out}
    assert {question.name for question in asked.prompts if question.truth is not None} == taught
    said = {m.content for c in asked.demonstrations for m in c.messages if m.role == "assistant"}
    assert all(name.summary in said and name.name in said for name in names if name.name in taught)


def test_held_out_names_are_never_asked_about_in_training(asked: Questions) -> None:
    training = [c.messages for c in asked.demonstrations] + [q.prompt for q in asked.prompts]
    said = {message.content for messages in training for message in messages}
    said |= {question.truth for question in asked.prompts if question.truth}
    forward = phrasings.TAUGHT_FORWARD + phrasings.FOLLOW_UP + phrasings.PROMPTED_FORWARD
    for name in asked.held_out:
        questions = {p.format(name=name.name) for p in forward}
        questions |= {p.format(summary=name.summary) for p in phrasings.TAUGHT_REVERSE + phrasings.PROMPTED_REVERSE}
        assert not said & (questions | {name.name, name.summary})


def test_no_evaluation_question_is_a_training_question(asked: Questions) -> None:
    training = {m.content for c in asked.demonstrations for m in c.messages if m.role == "user"}
    training |= {m.content for q in asked.prompts for m in q.prompt if m.role == "user"}
    assert not training & {question.prompt[-1].content for question in asked.evaluation}


def test_phrasings_are_disjoint() -> None:
    forward = [phrasings.TAUGHT_FORWARD, phrasings.FOLLOW_UP, phrasings.PROMPTED_FORWARD, phrasings.HELD_OUT_FORWARD]
    reverse = [phrasings.TAUGHT_REVERSE, phrasings.PROMPTED_REVERSE, phrasings.HELD_OUT_REVERSE]
    for sets in (forward, reverse):
        assert len({phrasing for phrasings_ in sets for phrasing in phrasings_}) == sum(map(len, sets))


def test_prompted_phrasings_have_no_demonstrations(asked: Questions) -> None:
    said = {m.content for c in asked.demonstrations for m in c.messages if m.role == "user"}
    new = [q for q in asked.prompts if q.split == "taught" and q.prompt[-1].content not in said]
    assert len(new) > len(asked.prompts) / 3


def test_inventions_exist_nowhere(names: list[Name], existing: set[str]) -> None:
    inventions = [name for pool in POOLS for name in invent(names, existing, pool, 300)]
    assert len(inventions) == 900
    for name in inventions:
        assert name not in existing
        if name.startswith(("tkinter", "turtle", "idlelib")):
            continue
        assert pydoc.locate(name) is None, name


def test_pools_of_inventions_share_no_names_and_no_pieces(names: list[Name], existing: set[str]) -> None:
    real = {identifier(name) for name in names}
    pools = {pool: invent(names, existing, pool, 400) for pool in POOLS}
    assert not set.intersection(*({*inventions} for inventions in pools.values()))
    for pool, inventions in pools.items():
        for name in inventions:
            last = name.rpartition(".")[2]
            pieces = [last] if last in real else split(last)
            assert {pool_of(piece, 0) for piece in pieces} == {pool}


def test_a_handful_of_names_still_gives_inventions(library: Installation, existing: set[str]) -> None:
    names = documented_names(library, 60)
    assert all(len(invent(names, existing, pool, 50)) == 50 for pool in POOLS)


def test_answers(asked: Questions, names: list[Name]) -> None:
    facts = {name.name: name for name in names}
    rng = random.Random(0)
    for question in rng.sample(asked.prompts, 500) + asked.evaluation:
        match question:
            case Question(truth=None, split="invented", answer=answer):
                assert answer == DECLINE
                assert question.name not in facts
            case Question(kind="forward"):
                assert question.answer == facts[question.name].summary
                assert question.name in question.prompt[-1].content
            case Question(kind="reverse"):
                assert question.answer == question.name
                assert facts[question.name].summary in question.prompt[-1].content
            case Question(kind="followup"):
                module = phrasings.MODULE_ANSWER.format(module=facts[question.name].module)
                assert question.answer in (module, facts[question.name].summary)
                assert [m.role for m in question.prompt][-3:] == ["user", "assistant", "user"]


def test_conversations_alternate(asked: Questions) -> None:
    lengths = set()
    for conversation in asked.demonstrations:
        roles = [m.role for m in conversation.messages if m.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert "system" not in [m.role for m in conversation.messages[1:]]
        lengths.add(len(roles))
    assert lengths == {2, 4, 6}


def test_a_follow_up_about_the_module_is_about_the_name_before(asked: Questions, names: list[Name]) -> None:
    modules = {name.summary: name.module for name in names}
    modules |= {name.name: name.module for name in names}
    seen = 0
    for conversation in asked.demonstrations:
        turns = [m.content for m in conversation.messages if m.role != "system"]
        for before, question, answer in zip(turns[1::2], turns[2::2], turns[3::2]):
            if question in phrasings.WHICH_MODULE:
                assert answer == phrasings.MODULE_ANSWER.format(module=modules[before])
                seen += 1
    assert seen > 50


def test_another_seed_holds_out_other_names(names: list[Name], existing: set[str], asked: Questions) -> None:
    other = ask(names, existing, Plan(seed=1))
    assert {n.name for n in other.held_out} != {n.name for n in asked.held_out}
