"""The reference labeller: judges and ranks answers by the documentation, in the place of people who label.

It knows the right answer (`truth`; None for an invented name, which is to be declined) and compares words. Left out:
partial credit. An answer that is nearly right is wrong, and no wrong answer is better than an honest decline: an
assistant that is rewarded for being close learns to invent (arXiv:2109.07958 on imitative falsehoods).
"""

import re
from collections.abc import Collection, Sequence
from typing import Literal

from fledge.data.python.names import normal
from fledge.data.python.phrasings import DECLINE

Verdict = Literal["truthful", "declined", "wrong"]

# In the first person: "Create it if it does not exist." is a claim, not a decline.
DECLINING = re.compile(
    r"\bI (do not|don't|cannot|can't|could not|couldn't) (know|find|recall)\b|\bI('m| am) not (sure|aware)\b",
    re.IGNORECASE,
)
LONGEST = 40  # words of a clean answer


def verdict(answer: str, truth: str | None, kind: str, names: Collection[str] = ()) -> Verdict:
    """Whether an answer is true, an honest decline, or wrong; on an invented name every claim is wrong.

    Case, white space and punctuation do not matter. An answer that goes on after the truth is still truthful
    (`rank` prefers one that stops). In reverse a name may carry parentheses; without its module it counts only where
    exactly one of `names` ends in it. A decline and a claim in one answer are wrong together.
    """
    if truth is not None and tells(answer, truth, kind, names):
        return "truthful"
    claims = sentences(answer)
    declines = [bool(DECLINING.search(claim)) for claim in claims]
    if any(declines) and all(declines):
        return "declined"
    return "wrong"


def tells(answer: str, truth: str, kind: str, names: Collection[str]) -> bool:
    """Whether an answer is the truth, or opens with it and declines nothing afterwards."""
    if kind == "reverse":
        words = answer.split()
        given, wanted = normal(words[0].replace("()", "")) if words else "", normal(truth)
        meant = [name for name in names if name.rpartition(".")[2].lower() == given]
        return given == wanted or (meant == [truth] and "." not in given)
    said, wanted = normal(answer), normal(truth)
    if said == wanted:
        return True
    opens = said.startswith(f"{wanted} ") and re.match(r"\W*[.!?\n]", rest_after(answer, truth)) is not None
    return opens and not DECLINING.search(rest_after(answer, truth))


def rest_after(answer: str, truth: str) -> str:
    """What follows the first words of an answer, as many as the truth has; its last word's punctuation included."""
    places = [match.end() for match in re.finditer(r"\S+", answer)]
    count = len(truth.split())
    end = places[min(count, len(places)) - 1]
    last = re.search(r"[\W_]*$", answer[:end])
    return answer[last.start() if last else end :]


def sentences(answer: str) -> list[str]:
    """The sentences of an answer; a last one that was cut short is left out unless it is the only one."""
    parts = [part for part in re.split(r"(?<=[.!?])\s+|\n+", answer.strip()) if part.strip()]
    if len(parts) > 1 and not parts[-1].rstrip().endswith((".", "!", "?")):
        parts.pop()
    return parts


def clean(answer: str, truth: str | None, kind: str) -> bool:
    """Whether an answer ends where it should: it says one thing, in one whole line."""
    text = answer.strip()
    if kind == "reverse" and not DECLINING.search(text):
        return len(text.split()) == 1
    if truth is not None and normal(text) == normal(truth):
        return True
    one = len(sentences(text)) == 1 and len(text.split()) <= LONGEST
    return one and "\n" not in text and text.endswith((".", "!", "?"))


def rank(answers: Sequence[str], truth: str | None, kind: str, names: Collection[str] = ()) -> tuple[int, ...]:
    """Ranks of answers to one question: 0 is best, equal ranks are ties.

    Truth, then decline, then error; on an invented name a decline, then everything else. Of two answers with the same
    verdict the one that ends cleanly is better.
    """
    order = ("truthful", "declined", "wrong")
    scores = [(order.index(verdict(a, truth, kind, names)), not clean(a, truth, kind)) for a in answers]
    places = sorted(set(scores))
    return tuple(places.index(score) for score in scores)


def prefer(a: str, b: str, truth: str | None, kind: str, names: Collection[str] = ()) -> float:
    """1.0 if answer `a` is better than `b`, 0.0 if it is worse, 0.5 for a tie."""
    first, second = rank((a, b), truth, kind, names)
    return 0.5 if first == second else float(first < second)


__all__ = ["DECLINE", "Verdict", "prefer", "rank", "verdict"]
