"""The objectives of pretraining: one table of what each asks of a model, a vocabulary and texts; refusals with reasons.

Several objectives of one shape and one loss can be mixed (`objective={span_mask: 1, infilling: 1}`): each stretch of
eight rows' text goes through one of them, drawn with its weight.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fledge.core.config import suggestion
from fledge.core.errors import FledgeError
from fledge.data.corruption import masking, order, pairs, spans
from fledge.data.corruption.marks import Marks
from fledge.data.corruption.sample import Corruption, CorruptionConfig, Sample, Setting, corrupted, windows
from fledge.data.packing import Example, Row
from fledge.model.config import Head, ModelConfig, Shape
from fledge.model.heads import Headed, build
from fledge.objectives import Loss, masked_and_pair, next_token, replaced_tokens
from fledge.text.tokenizer import Tokenizer
from fledge.train.detector import Detector

STRETCH = 8  # rows' worth of text that one objective of a mixture takes at a time
SMALLEST = 16  # tokens of a row


@dataclass(frozen=True, slots=True)
class Objective:
    """What stands behind a name: `about` says what is predicted; the model needs `shape`, for the reason `why`, and
    `head`; the vocabulary needs the special tokens `needs`; `texts` must have at least two sentences or a translation.
    target: the length of a decoder's rows beside an encoder's of the given length."""

    about: str
    shape: Shape
    why: str
    head: Head
    corruption: Corruption
    loss: Callable[[Any, dict[str, Any]], Loss] = next_token
    needs: tuple[str, ...] = ()
    texts: Literal["any", "sentences", "translations"] = "any"
    target: Callable[[int, CorruptionConfig], int] | None = None


LEFT = "it predicts from the left"
BOTH_WAYS = "a hidden token is found from both sides, and a causal decoder sees only one"
ANSWERS = "an encoder reads the corrupted text and a decoder writes the answer"
MARKED, PAIRED = ("mask", "cls", "sep"), ("mask", "cls", "sep")


def same(length: int, config: CorruptionConfig) -> int:
    """An answer as long as the text."""
    return length


def span_target(length: int, config: CorruptionConfig) -> int:
    """The hidden spans only."""
    share = spans.SPAN_SHARE if config.share is None else config.share
    return spans.span_target(length, share, config.mean_span)


OBJECTIVES: dict[str, Objective] = {
    "lm": Objective("the next token", "decoder", LEFT, "language", order.lm),
    "prefix_lm": Objective("the next token, after a beginning that is read both ways", "decoder", LEFT, "language",
                           order.prefix_lm),
    "mlm": Objective("hidden tokens", "encoder", BOTH_WAYS, "masked", masking.mlm, needs=MARKED),
    "nsp": Objective("hidden tokens, and whether the second text follows the first", "encoder", BOTH_WAYS,
                     "pretraining", pairs.nsp, masked_and_pair, PAIRED, "sentences"),
    "sop": Objective("hidden tokens, and whether two texts are in their order", "encoder", BOTH_WAYS, "pretraining",
                     pairs.sop, masked_and_pair, PAIRED, "sentences"),
    "rtd": Objective("which tokens a generator has replaced", "encoder", BOTH_WAYS, "tokens", masking.rtd,
                     replaced_tokens, MARKED),
    "permutation": Objective("tokens in a random order", "encoder", "any token may come before any other", "masked",
                             order.permutation, needs=("mask",)),
    "seq2seq_lm": Objective("the rest of a text, or its translation", "encoder_decoder", ANSWERS, "language",
                            spans.seq2seq_lm, target=same),
    "span_mask": Objective("the hidden spans", "encoder_decoder", ANSWERS, "language", spans.span_mask,
                           needs=("sentinels",), target=span_target),
    "infilling": Objective("the whole text, of which spans are hidden", "encoder_decoder", ANSWERS, "language",
                           spans.infilling, needs=("mask",), target=same),
    "shuffling": Objective("the sentences in their order", "encoder_decoder", ANSWERS, "language", spans.shuffling,
                           texts="sentences", target=same),
    "tlm": Objective("hidden tokens of a text and its translation", "encoder", BOTH_WAYS, "masked", masking.tlm,
                     needs=PAIRED, texts="translations"),
    "ul2": Objective("hidden spans: short, long, many, or the end", "encoder_decoder", ANSWERS, "language", spans.ul2,
                     needs=("sentinels", "modes"), target=lambda length, config: math.ceil(length * 2 / 3) + 2),
}  # fmt: skip
TOKENS = {"mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]", "sentinels": "<extra_id_0> …", "modes": "[R] [S] [X]"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run trains on: the objectives with their shares, what they have in common, and their setting."""

    shares: dict[str, float]
    common: Objective
    setting: Setting

    @property
    def plain(self) -> bool:
        """Whether it is language modelling alone, whose texts are packed as they are and may be cut anywhere."""
        return list(self.shares) == ["lm"]

    def rows(self, examples: Sequence[Example], chosen: Iterable[int], seed: Sequence[int]) -> list[Row]:
        """The rows of some examples of a source, as `Stream` asks for them."""
        return corrupted(self.corrupt, replace(self.setting, texts=examples), examples, chosen, seed)

    def corrupt(self, example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
        """The samples of one example: each stretch by one of the objectives."""
        if len(self.shares) == 1:
            return self.common.corruption(example, generator, setting)
        names, shares = list(self.shares), list(self.shares.values())
        samples = []
        for ids in windows(example.ids, STRETCH * setting.length):
            name = names[generator.choice(len(names), p=shares)]
            samples += OBJECTIVES[name].corruption(Example.of(ids), generator, setting)
        return samples

    def heldout_rows(self, sources: dict[str, list[Example]]) -> list[Row]:
        """Rows of held-out texts, corrupted once and for all."""
        return [
            row for examples in sources.values() for row in self.rows(examples, range(len(examples)), [len(examples)])
        ]

    def model(self, shape: ModelConfig, given: Headed | None = None) -> Headed | Detector:
        """The model to train: `given`, or a fresh one of this shape; for detection beside a fresh generator of half its
        depth (rounded up)."""
        depth, detects = (shape.layers + 1) // 2, self.common.loss is replaced_tokens
        small = build(ModelConfig.sized(depth, shape.vocab_size, shape.context, "encoder")) if detects else None
        trained = build(shape) if given is None else given
        return trained if small is None else Detector(small, trained)

    def product(self, model: Headed | Detector) -> Headed:
        """What is kept of a trained model: all of it, or the discriminator."""
        return model.discriminator if isinstance(model, Detector) else model

    def notes(self) -> dict[str, Any]:
        """What config.json says beside the shape: the labels of a discriminator."""
        labels = {"0": "kept", "1": "replaced"}
        if self.common.loss is not replaced_tokens:
            return {}
        return {"id2label": labels, "label2id": {label: int(number) for number, label in labels.items()}}

    def check_texts(self, sources: dict[str, list[Example]]) -> None:
        """Refuses texts that a corruption could make nothing of."""
        marks, texts = self.setting.marks, [example for examples in sources.values() for example in examples]
        for name in self.shares:
            wanted = OBJECTIVES[name].texts
            if wanted != "translations" and name != "seq2seq_lm" and not all(text.mask.all() for text in texts):
                raise FledgeError(
                    f"objective '{name}' has no use for translations",
                    "leave them out, or set objective=tlm or seq2seq_lm",
                )
            if wanted == "sentences" and not any(len(marks.sentences(text.ids)) > 1 for text in texts):
                raise FledgeError(
                    f"objective '{name}' needs documents of two sentences or more, and there are none",
                    "give whole texts, not lines, as documents",
                )
            if wanted == "translations" and not any(0 < text.mask.sum() < len(text.mask) for text in texts):
                raise FledgeError(
                    f"objective '{name}' needs every text with its translation, and there are none",
                    "give translations=FILE, whose lines translate those of documents",
                )
            if name == "nsp" and any(len(examples) < 2 for examples in sources.values()):
                raise FledgeError(
                    "objective 'nsp' needs two documents of every kind: a false second text is from another one",
                    "give more documents, or use objective=sop, which needs no other text",
                )


def plan_of(
    given: str | dict[str, float], shape: Shape | Literal["auto"], config: CorruptionConfig, length: int,
    tokenizer: Tokenizer,
) -> Plan:  # fmt: skip
    """The plan for an objective's name, or several with weights; raises FledgeError where something does not fit."""
    weights = {given: 1.0} if isinstance(given, str) else given
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            raise FledgeError(f"there is no objective '{name}'", suggestion(name, OBJECTIVES, "objectives"))
        if not weight > 0 or not math.isfinite(weight):
            raise FledgeError(f"the weight of objective '{name}' is {weight}", "give each a weight above 0")
    if not weights:
        raise FledgeError("no objective is given", f"objectives: {', '.join(OBJECTIVES)}")
    first, *others = weights
    common = OBJECTIVES[first]
    for name in others:
        if name not in companions(first):
            raise FledgeError(
                f"objectives '{first}' and '{name}' cannot be mixed: they need different models, losses or texts",
                f"with '{first}' go: {', '.join(companions(first)) or 'no others'}",
            )
    marks = Marks.of(tokenizer)
    for name in weights:
        check_fit(name, shape, marks)
    if length < SMALLEST and list(weights) != ["lm"]:
        raise FledgeError(
            f"rows of length={length} leave no room to corrupt anything", f"set length={SMALLEST} or more"
        )
    targets = [goal(length, config) for name in weights if (goal := OBJECTIVES[name].target)]
    setting = Setting(marks, length, max(targets, default=0), config, alone=common.head == "pretraining")
    total = sum(weights.values())
    return Plan({name: weight / total for name, weight in weights.items()}, common, setting)


def companions(name: str) -> list[str]:
    """The other objectives that one can be mixed with: those of the same model, loss, kind of text and columns."""

    def kind(name: str) -> tuple[Any, ...]:
        one = OBJECTIVES[name]
        return one.shape, one.head, one.loss, one.texts == "translations", name == "permutation"

    return [other for other in OBJECTIVES if other != name and kind(other) == kind(name)]


def check_fit(name: str, shape: Shape | Literal["auto"], marks: Marks) -> None:
    """Refuses a shape or a vocabulary that an objective cannot work with."""
    objective = OBJECTIVES[name]
    if shape not in ("auto", objective.shape):
        raise FledgeError(
            f"objective '{name}' needs shape={objective.shape}, not {shape}: {objective.why}",
            f"set shape={objective.shape} (or auto), or an objective for {shape}: "
            + ", ".join(other for other, o in OBJECTIVES.items() if o.shape == shape),
        )
    missing = [TOKENS[need] for need in objective.needs if absent(getattr(marks, need))]
    if missing:
        raise FledgeError(
            f"objective '{name}' needs special tokens that the tokenizer does not have: {', '.join(missing)}",
            "learn one that has them: fledge tokenizer denoising=true",
        )


def absent(mark: Any) -> bool:
    """Whether a vocabulary has no token for a purpose."""
    return mark is None or (not isinstance(mark, int) and len(mark) == 0)
