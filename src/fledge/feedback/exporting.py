"""What people said, as rows that every trainer reads: `messages`, `prompt` + ranked `completions`, `chosen`/`rejected`.

Demonstrations and corrections become conversations; rankings, and corrections beside what they correct, become
comparisons, each with the weight of who made it (`feedback.weights`). Filters choose by guideline, date, person, how
far the person agrees with the others, and weight. `prompts` are all that were judged, `chats` those of rated chats. In
what was said in chats private data is masked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from fledge.core.errors import FledgeError
from fledge.feedback.agreement import agreement
from fledge.feedback.privacy import masked
from fledge.feedback.store import Said, Store
from fledge.feedback.weights import UNMEASURED
from fledge.feedback.weights import weights as weights_in

Layout = Literal["messages", "rankings", "pairs", "prompts", "chats"]
LAYOUTS: tuple[Layout, ...] = ("messages", "rankings", "pairs", "prompts", "chats")
Row = dict[str, Any]


@dataclass(frozen=True)
class Filter:
    """Which judgements count. `since` and `until` are ISO dates (until is not included); `agreement` is the least
    share of pairs on which the others agree with a person whose rankings are taken, `weight` the least weight of a
    person whose comparisons are."""

    guideline: str = ""
    since: str = ""
    until: str = ""
    people: tuple[str, ...] = ()
    agreement: float = 0.0
    weight: float = 0.0


def export(store: Store, layout: Layout, chosen: Filter | None = None) -> list[Row]:
    """The rows of a layout."""
    if layout not in LAYOUTS:
        raise FledgeError(f"unknown layout '{layout}'", f"known: {', '.join(LAYOUTS)}")
    chosen = chosen or Filter()
    said = kept(store.judgements(), chosen)
    trust = weights_in(store)
    texts = {number: text for number, (text, _) in store.answers().items()}
    if layout == "messages":
        return [row for each in said for row in conversations(each)]
    if layout == "rankings":
        return [row for each in said for row in rankings(each, texts, trust) if row["weight"] >= chosen.weight]
    if layout == "pairs":
        found = [row for each in said for row in rankings(each, texts, trust) if row["weight"] >= chosen.weight]
        return [pair for row in found for pair in pairs(row)]
    asked = {each.prompt_id: each for each in said if layout == "prompts" or each.kind == "rating"}
    return [{"prompt": prompt_of(each)} for each in asked.values()]


def kept(said: Sequence[Said], chosen: Filter) -> list[Said]:
    """The judgements that a filter lets through."""
    found = [
        each
        for each in said
        if (not chosen.guideline or each.guideline == chosen.guideline)
        and (not chosen.since or each.created >= chosen.since)
        and (not chosen.until or each.created < chosen.until)
        and (not chosen.people or each.person in chosen.people)
    ]
    if chosen.agreement <= 0:
        return found
    rows = agreement([each for each in said if each.kind == "ranking"])["people"]
    trusted = {row["person"] for row in rows if row["agreement"] is None or row["agreement"] >= chosen.agreement}
    return [each for each in found if each.kind != "ranking" or each.person in trusted]


def prompt_of(said: Said) -> list[dict[str, str]]:
    """The prompt as messages."""
    return [{"role": turn.role, "content": shown(said, turn.content)} for turn in said.prompt]


def shown(said: Said, words: str) -> str:
    """Words of a judgement; those of a chat without private data."""
    return masked(words) if said.kind == "rating" else words


def provenance(said: Said) -> Row:
    """Which judgement it is, who said it, when, under which guideline."""
    return {"judgement": said.id, "labeller": said.person, "guideline": said.guideline, "created": said.created}


def conversations(said: Said) -> list[Row]:
    """The demonstration in a judgement: an answer that was written, or a correction."""
    answer = said.content.get("answer") or said.content.get("correction")
    if said.kind not in ("demonstration", "rating") or not answer:
        return []
    turns = [*prompt_of(said), {"role": "assistant", "content": shown(said, answer)}]
    return [{"messages": turns, **provenance(said)}]


def rankings(said: Said, texts: Mapping[int, str], trust: Mapping[str, float]) -> list[Row]:
    """The comparison in a judgement, best first, with the weight of who made it."""
    if said.kind == "ranking":
        ordered = sorted(zip(said.content["ranks"], said.content["completions"]))
        answers, ranks = [texts[number] for _, number in ordered], [rank for rank, _ in ordered]
    elif said.kind == "rating" and said.content["correction"]:
        both = said.content["correction"], texts[said.content["completion"]]
        answers, ranks = [shown(said, words) for words in both], [0, 1]
    else:
        return []
    weight = trust.get(said.person, UNMEASURED)
    return [{"prompt": prompt_of(said), "completions": answers, "ranks": ranks, "weight": weight, **provenance(said)}]


def pairs(row: Row) -> list[Row]:
    """Every pair of a ranking that is not a tie, as TRL and others read it."""
    more = {key: row[key] for key in ("weight", "judgement", "labeller", "guideline", "created")}
    return [
        {
            "prompt": row["prompt"],
            "chosen": [{"role": "assistant", "content": better}],
            "rejected": [{"role": "assistant", "content": worse}],
            **more,
        }
        for (a, better), (b, worse) in combinations(zip(row["ranks"], row["completions"]), 2)
        if a < b and better != worse
    ]
