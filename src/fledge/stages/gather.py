"""Gather: what people said since the last round, out of the feedback store, as files that training reads.

New demonstrations and corrections, with earlier ones replayed beside them so that nothing is forgotten; all rankings,
each by the weight of who made it; the prompts of chats for PPO. It is a snapshot: what comes later belongs to another
round. What the frozen evaluation asks must not be among it. Collecting in rounds, and training the reward model on all
comparisons so far, follows arXiv:2204.05862 and 2307.09288. Left out: choosing what people should judge next.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fledge.core.config import Config
from fledge.core.errors import FledgeError
from fledge.core.files import read_json, read_jsonl, write_json, write_jsonl
from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.data.columns import prompt_of, turns
from fledge.feedback.opening import open_store
from fledge.stages.preflight import check_contamination

Row = dict[str, Any]
PROMOTION = "promotion.json"  # beside a model: the rounds that it came from


class GatherConfig(Config):
    """`store`: a file or a database URL; `model`: the one to go on from, which knows what earlier rounds have used;
    `evaluation`: the frozen set, rows with `prompt`; `earlier`: demonstrations from before there was a store; `replay`:
    how many earlier demonstrations for each new one; `weight`: the least weight of a comparison; `trusted`: the least
    weight of who wrote a demonstration (who has ranked nothing is trusted); `drop_overlap`: leave out what the
    evaluation asks instead of refusing it."""

    store: str
    model: Path
    evaluation: Path
    earlier: Path | None = None
    replay: float = 1.0
    weight: float = 0.0
    trusted: float = 0.3
    drop_overlap: bool = False
    seed: int = 0


def gather(config: GatherConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes demonstrations.jsonl, comparisons.jsonl, prompts.jsonl and gathered.json (counts, people, up to where)."""
    store = open_store(config.store, made=False)
    from fledge.feedback.agreement import agreement
    from fledge.feedback.exporting import Filter, export
    from fledge.feedback.weights import weights

    used, trust = used_up_to(config.model), weights(store)
    said = store.judgements()
    written = export(store, "messages")
    shown = [row for row in written if trust.get(row["labeller"], 1.0) >= config.trusted]
    compared = [row for row in export(store, "rankings", Filter(weight=config.weight)) if len(set(row["ranks"])) > 1]
    asked = export(store, "chats") or [{"prompt": row["prompt"]} for row in compared]
    earlier = read_jsonl(config.earlier) if config.earlier else []
    shown, compared, asked, earlier = untouched(config, [shown, compared, asked, earlier], log)

    fresh = [row for row in shown if row["judgement"] > used]
    old = [*earlier, *(row for row in shown if row["judgement"] <= used)]
    replayed = random.Random(config.seed).sample(old, min(len(old), round(config.replay * len(fresh))))
    counts = {
        "demonstrations": len(fresh),
        "replayed": len(replayed),
        "not_trusted": len(written) - sum(trust.get(row["labeller"], 1.0) >= config.trusted for row in written),
        "comparisons": sum(row["judgement"] > used for row in compared),
        "all_comparisons": len(compared),
        "of_weight": sum(row["weight"] > 0 for row in compared),
        "prompts": len(asked),
    }
    if not fresh and not counts["comparisons"]:
        raise FledgeError(f"{config.store} has nothing new since the last round", "go on when people have said more")
    people = agreement([each for each in said if each.kind == "ranking"], trust)
    write_jsonl(out / "demonstrations.jsonl", [*fresh, *replayed])
    write_jsonl(out / "comparisons.jsonl", compared)
    write_jsonl(out / "prompts.jsonl", asked)
    write_json(out / "gathered.json", {"counts": counts, "used": max(each.id for each in said), **people})
    log.table("since the last round", ["", "rows"], [[key.replace("_", " "), count] for key, count in counts.items()])
    columns = ["person", "rankings", "agreement", "weight"]
    log.table("people", columns, [[some(row[key]) for key in columns] for row in people["people"]])
    return counts


def used_up_to(model: Path) -> int:
    """The number of the last judgement that the model has learnt from; those after it are new."""
    path = model / PROMOTION
    return int(read_json(path)["used"]) if path.is_file() else 0


def untouched(config: GatherConfig, kinds: Sequence[list[Row]], log: Log) -> list[list[Row]]:
    """The rows of each kind, if none of them is what the evaluation asks; without those, if they are to be dropped."""
    questions = read_jsonl(config.evaluation)
    if not questions:
        raise FledgeError(
            f"{config.evaluation} holds no questions", "a round is judged by what it was never trained on"
        )
    frozen = asks(questions)
    if not config.drop_overlap:
        check_contamination(asks(row for rows in kinds for row in rows), sorted(frozen), "questions of the evaluation")
        return list(kinds)
    kept = [[row for row in rows if not asks([row]) & frozen] for rows in kinds]
    gone = sum(map(len, kinds)) - sum(map(len, kept))
    if gone:
        log.say(f"[yellow]left out {gone:,} rows that ask what the evaluation asks[/]")
    return kept


def asks(rows: Iterable[Row]) -> set[str]:
    """What rows ask, folded: their prompts, or what comes before each answer in their messages; no system messages."""
    from fledge.feedback.chats import fold

    found = set()
    for row in rows:
        said: Sequence[Message] = turns(row["messages"]) if row.get("messages") else prompt_of(row)
        talk = [turn for turn in said if turn.role != "system"]
        ends = [i for i, turn in enumerate(talk) if turn.role == "assistant"] if row.get("messages") else [len(talk)]
        found |= {fold(talk[:end]) for end in ends}
    return found


def some(value: Any) -> Any:
    """A dash for what was not measured."""
    return "–" if value is None else value
