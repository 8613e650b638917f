"""One text under every objective of pretraining, as strands of cells: what is read, and what is to be said."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fledge.data.corruption.sample import CorruptionConfig, Sample
from fledge.data.packing import IGNORED, Example
from fledge.stages.objective import OBJECTIVES, Plan, plan_of
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer

SENTENCE = "I am happy to join with you today"
TRANSLATION = "Ich freue mich heute bei euch zu sein"
NEXT, OTHER = "The road is long and the sky is clear.", "Penguins cannot fly but they swim very well."
LENGTH = 512
SENTINELS = 6  # colours
MARK = "■"  # the marks that texts begin and end with
Cell = tuple[str, str]  # text, style


@dataclass(frozen=True, slots=True)
class View:
    """One objective on one text: strands of cells under a label, cell under cell where `aligned`."""

    name: str
    about: str
    shape: str
    strands: list[tuple[str, list[Cell]]]
    aligned: bool = True


def views(
    text: str, directory: Path | None, only: Sequence[str], translation: str, share: float, mean_span: float, seed: int
) -> Iterator[View]:
    """The text under every objective, or only some."""
    translation = translation or (TRANSLATION if text == SENTENCE else "")
    known = [text, f"{text}.", NEXT, OTHER, translation]
    vocabulary = 256 + len(SPECIAL) + len(DENOISING) + sum(map(len, known)) + 8
    tokenizer = (
        Tokenizer.load(directory)
        if directory
        else Tokenizer.train([*known, *(f" {each}" for each in known)], vocabulary, special_tokens=SPECIAL + DENOISING)
    )
    config = CorruptionConfig(share=share, mean_span=mean_span)
    for name in only or OBJECTIVES:
        plan = plan_of(name, "auto", config, LENGTH, tokenizer)
        wanted = OBJECTIVES[name].texts
        if directory is None:  # random words, not the letters they are made of
            texts = known if wanted == "translations" else known[:-1]
            words = np.unique(np.concatenate([tokenizer.array(each) for each in texts]))
            plan = replace(plan, setting=replace(plan.setting, marks=replace(plan.setting.marks, ordinary=words)))
        if wanted == "translations" and not translation:
            hint = [("give --translation TEXT to see it", "nothing")]
            yield View(name, plan.common.about, plan.common.shape, [("", hint)])
            continue
        yield from views_of(name, plan, tokenizer, text, translation, seed)


def views_of(name: str, plan: Plan, tokenizer: Tokenizer, text: str, translation: str, seed: int) -> Iterator[View]:
    """The views of one objective: one, but for UL2 one of each of its modes."""
    marks, objective = plan.setting.marks, plan.common
    ids = tokenizer.array(text.strip())
    if objective.texts == "sentences" and len(marks.sentences(ids)) < 2:
        stop = "" if marks.ends_sentence[ids[-1]] else "."
        ids = tokenizer.array(f"{text.strip()}{stop} {NEXT}")
    example = Example.of(ids[: LENGTH - 8])
    if objective.texts == "translations":
        there = tokenizer.array(translation.strip())
        example = Example(np.concatenate([ids, there]), np.repeat([False, True], [len(ids), len(there)]))
    others = [example, Example.of(tokenizer.array(OTHER))]
    modes = {marks.modes[n]: f"ul2 [{mode}]" for n, mode in enumerate("RSX")} if name == "ul2" else {}
    for number in range(seed, seed + 100):
        setting = replace(plan.setting, texts=others)
        samples = plan.corrupt(example, np.random.default_rng(number), setting)
        if not samples:
            yield View(name, objective.about, objective.shape, [("", [("the text is too short for it", "nothing")])])
            return
        sample = samples[0]
        title = name if sample.source is None else modes.pop(int(sample.source[0]), "" if name == "ul2" else name)
        if title:
            yield view(name, title, plan, tokenizer, sample)
        if not modes:
            return


def view(name: str, title: str, plan: Plan, tokenizer: Tokenizer, sample: Sample) -> View:
    """What one sample shows."""
    marks = plan.setting.marks
    about, shape = plan.common.about, plan.common.shape
    special = set(tokenizer.special.values())
    number = {int(token): n for n, token in enumerate(marks.sentinels)}

    def cell(token: int, kind: str = "plain") -> Cell:
        if token < 0:
            return "·", "nothing"
        text = tokenizer.decode([token], skip_special=False)
        if token in (marks.end, marks.start):
            return MARK, "special"
        if token in number:
            return text, f"sentinel{number[token] % SENTINELS}"
        if token in special:
            return text, "mask" if token == marks.mask else "special"
        return text.strip() or repr(text), kind

    targets = sample.targets.tolist()
    said = [cell(token, "said") for token in targets]
    if sample.source is not None:
        source = [cell(token) for token in sample.source.tolist()]
        return View(title, about, shape, [("encoder reads", source), ("decoder says", said)], aligned=False)
    if name == "permutation":
        return permuted(View(title, about, shape, []), sample, cell)
    prefix = sample.columns.get("prefix", np.zeros(len(targets), bool))
    read = []
    for token, target, both_ways in zip(sample.ids.tolist(), targets, prefix.tolist()):
        hidden = shape == "encoder" and target >= 0
        kind = ("kept" if token == target else "random") if hidden else "prefix" if both_ways else "plain"
        read.append(cell(token, kind))
    strands = [("reads", read), ("says", said)]
    if name == "rtd":
        guesses = guessed(sample, marks.ordinary)
        shown = [cell(g, "plain" if g == i else "random") for g, i in zip(guesses, sample.ids.tolist())]
        judged = [
            ("replaced", "label") if t not in (IGNORED, g) else ("·", "nothing") for g, t in zip(guesses, targets)
        ]
        strands = [("generator reads", read), ("generator says", shown), ("discriminator says", judged)]
    if "pair_targets" in sample.columns:
        label = int(sample.columns["pair_targets"][0])
        words = {"nsp": ("the second follows the first", "the second is from elsewhere"),
                 "sop": ("in their order", "swapped")}[name]  # fmt: skip
        strands.append(("and says", [(words[label], "label")]))
    return View(title, about, shape, strands)


def guessed(sample: Sample, words: np.ndarray) -> list[int]:
    """A word at random in place of every [MASK], as a generator that knows nothing would fill them in."""
    draws = sample.columns["draws"]
    guesses = words[(draws * len(words)).astype(int)]
    return np.where(sample.targets >= 0, guesses, sample.ids).tolist()


def permuted(empty: View, sample: Sample, cell: Callable[..., Cell]) -> View:
    """The window, its order, and for each token that is asked for what it is said from."""
    order = sample.columns["order"]
    content = np.flatnonzero(order >= 0)
    asked = dict(zip(sample.columns["positions"][order < 0].tolist(), sample.targets[order < 0].tolist()))
    tokens, ranks = sample.ids[content].tolist(), order[content].tolist()
    strands = [("reads", [cell(token) for token in tokens]), ("in the order", [(str(r + 1), "number") for r in ranks])]
    strands.append(("says", [cell(asked.get(n, -1), "said") for n in range(len(tokens))]))
    for place, token in sorted(asked.items(), key=lambda item: ranks[item[0]]):
        seen = [cell(t, "prefix") if r < ranks[place] else ("·", "nothing") for t, r in zip(tokens, ranks)]
        strands.append((f"{cell(token)[0]}, from", seen))
    return replace(empty, strands=strands)
