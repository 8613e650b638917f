"""Judgements and tasks from elsewhere: files of comparisons and ratings, exports of Argilla and Label Studio.

Read are all layouts of `data.columns` (hh-rlhf's dialogues among them, arXiv:2204.05862), UltraFeedback's ratings
(arXiv:2310.01377), Argilla's records with a ranking and Label Studio's tasks with a ranker, a pairwise choice or a
text. What cannot be read is counted, with the reason; nothing is guessed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fledge.core.errors import FledgeError
from fledge.core.files import fingerprint
from fledge.core.nouns import Message
from fledge.data.columns import Dropped, comparison, conversation, prompt_of
from fledge.feedback.queue import MOST_ANSWERS, add_task
from fledge.feedback.store import Store

Row = Mapping[str, Any]


def import_rows(store: Store, rows: Sequence[Row], source: str) -> dict[str, int]:
    """Keeps what each row says and returns how many rows of which kind there were; `source` names who said it where
    the row does not. Reading the same file twice adds nothing."""
    counts: Counter[str] = Counter()
    for row in rows:
        try:
            counts[keep(store, row, source)] += 1
        except (Dropped, FledgeError) as error:
            reason = error.message if isinstance(error, FledgeError) else str(error)
            counts[f"left out: {reason}"] += 1
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            counts["left out: a row of a form that was not expected"] += 1
    if rows and all(kind.startswith("left out") for kind in counts):
        reasons = "; ".join(f"{count:,} × {kind.removeprefix('left out: ')}" for kind, count in counts.items())
        raise FledgeError(f"nothing can be read from {source}: {reasons}", "see docs/feedback.md for the layouts")
    return dict(counts)


def keep(store: Store, row: Row, source: str) -> str:
    """Keeps one row by the first layout that it has; returns the kind of judgement."""
    if "annotations" in row and "data" in row:
        return label_studio(store, row, source)
    if "fields" in row and "responses" in row:
        return argilla(store, row, source)
    completions = row.get("completions")
    if isinstance(completions, list) and completions and isinstance(completions[0], dict):
        scores = [score for score in map(score_of, completions) if score is not None]
        if len(scores) == len(completions):
            return rated(store, row, completions, scores, source)
    if "completions" in row or "chosen" in row:
        found = comparison(dict(row))
        answers = [{"text": text} for text in found.completions]
        return ranking(store, found.prompt, answers, list(found.ranks), source, source)
    said = conversation(dict(row))
    return demonstration(store, said.prompt, said.messages[len(said.prompt)].content, source, source)


def ranking(
    store: Store,
    prompt: Sequence[Message],
    answers: Sequence[Row],
    ranks: Sequence[int],
    source: str,
    person: str,
    **more: Any,
) -> str:
    """Keeps a ranking of answers, {text, model} each."""
    prompt_id = store.prompt([turn.as_dict() for turn in prompt], source)
    ids = [store.completion(prompt_id, answer["text"], str(answer.get("model", ""))) for answer in answers]
    if len(set(ids)) < 2:
        raise Dropped("fewer than two different answers")
    content = {"completions": ids, "ranks": list(ranks), "flags": {}, "quality": {}, "note": ""} | more
    token = fingerprint([source, person, prompt_id, ids, list(ranks)])
    store.judge("ranking", prompt_id, store.person(person, "import"), content, token=f"import-{token}")
    return "ranking"


def demonstration(store: Store, prompt: Sequence[Message], answer: str, source: str, person: str) -> str:
    """Keeps a written answer."""
    prompt_id = store.prompt([turn.as_dict() for turn in prompt], source)
    token = fingerprint([source, person, prompt_id, answer])
    content = {"answer": answer, "suggestion": "", "kept": 0.0}
    store.judge("demonstration", prompt_id, store.person(person, "import"), content, token=f"import-{token}")
    return "demonstration"


def order_of(scores: Sequence[float]) -> list[int]:
    """Ranks of scores, the highest first, equal scores tied."""
    levels = sorted(set(scores), reverse=True)
    return [levels.index(score) for score in scores]


def score_of(completion: Row) -> float | None:
    """UltraFeedback's score of a completion: overall, fine-grained, or the mean of its aspects' ratings."""
    for key in ("overall_score", "fine-grained_score", "score", "rating"):
        score = completion.get(key)
        if isinstance(score, int | float):
            return float(score)
    found = []
    for aspect in (completion.get("annotations") or {}).values():
        value = aspect.get("Rating") if isinstance(aspect, Mapping) else aspect
        if str(value).replace(".", "", 1).isdigit():
            found.append(float(str(value)))
    return sum(found) / len(found) if found else None


def rated(store: Store, row: Row, completions: Sequence[Row], scores: list[float], source: str) -> str:
    """A prompt with completions that each have a score."""
    texts = [str(each.get("response", each.get("text", each.get("content", "")))) for each in completions]
    if len(set(scores)) < 2:
        raise Dropped("all answers have one score")
    answers = [{"text": text, "model": each.get("model", "")} for text, each in zip(texts, completions, strict=True)]
    return ranking(store, prompt_of(dict(row)), answers, order_of(scores), source, source)


def argilla(store: Store, row: Row, source: str) -> str:
    """A record of Argilla 2: text fields, and responses to a ranking question (field names by rank) or a text one."""
    fields = {key: value for key, value in row["fields"].items() if isinstance(value, str)}
    names = [key for key in fields if key not in ("prompt", "instruction", "question", "input", "context")]
    prompt = [Message("user", next(fields[key] for key in fields if key not in names))]
    kinds = set()
    for answers in row["responses"].values():
        for answer in answers if isinstance(answers, list) else [answers]:
            if answer.get("status", "submitted") != "submitted":
                continue
            person, value = f"argilla {answer.get('user_id', '')}".strip(), answer["value"]
            if isinstance(value, str):
                kinds.add(demonstration(store, prompt, value, source, person))
            elif isinstance(value, list) and value and "rank" in value[0]:
                ranks = {each["value"]: int(each["rank"]) for each in value}
                unknown = [name for name in ranks if name not in fields]
                if unknown:
                    raise Dropped(f"a ranking of '{unknown[0]}', which is no field of the record")
                texts = [{"text": fields[name], "model": name} for name in ranks]
                levels = sorted(set(ranks.values()))
                order = [levels.index(rank) for rank in ranks.values()]
                kinds.add(ranking(store, prompt, texts, order, source, person))
    if not kinds:
        raise Dropped("no submitted ranking or text")
    return sorted(kinds)[-1]


def label_studio(store: Store, row: Row, source: str) -> str:
    """A task of Label Studio with annotations: a ranker over items, a pairwise choice, or a text area."""
    data = row["data"]
    question = next(data[key] for key in ("prompt", "instruction", "question", "text") if key in data)
    prompt = [Message("user", str(question))]
    kinds = set()
    for annotation in row["annotations"]:
        by = annotation.get("completed_by", "")
        name = by.get("email") or by.get("id") if isinstance(by, Mapping) else by
        person = f"label studio {name}".strip()
        for result in annotation.get("result", []):
            value = result.get("value", {})
            if result.get("type") == "ranker":
                items = {str(item["id"]): str(item.get("body", item.get("html", ""))) for item in data["items"]}
                found = value["ranker"]
                order = found if isinstance(found, list) else found.get("rank") or next(iter(found.values()))
                unknown = [key for key in order if str(key) not in items]
                if unknown:
                    raise Dropped(f"a ranking of '{unknown[0]}', which is no item of the task")
                answers = [{"text": items[str(key)]} for key in order]
                kinds.add(ranking(store, prompt, answers, list(range(len(answers))), source, person))
            elif result.get("type") == "pairwise":
                pair = [{"text": str(data[key])} for key in pairwise_names(data)]
                ranks = [0, 1] if value["selected"] == "left" else [1, 0]
                kinds.add(ranking(store, prompt, pair, ranks, source, person))
            elif result.get("type") == "textarea" and value.get("text"):
                words = value["text"]
                answer = "\n".join(words) if isinstance(words, list) else words
                kinds.add(demonstration(store, prompt, answer, source, person))
    if not kinds:
        raise Dropped("no ranking, choice or text")
    return sorted(kinds)[-1]


def pairwise_names(data: Row) -> tuple[str, str]:
    """The two answers of a pairwise task."""
    for names in (("answer1", "answer2"), ("response1", "response2"), ("left", "right"), ("text1", "text2")):
        if all(name in data for name in names):
            return names
    raise Dropped("no pair of answers")


def add_rows(
    store: Store, rows: Sequence[Row], wanted: int = 1, *, overlap: float = 1.0, screening: bool = False
) -> int:
    """Tasks from rows: a prompt alone is to be answered, one with completions to be ranked. All rows or none.

    `overlap`: the share of tasks that `wanted` people get, the others are for one. `screening`: the rows' `ranks` are
    right, and labellers are tested on them.
    """
    made: list[tuple[Any, list[dict[str, str]], list[float] | None]] = []
    for number, row in enumerate(rows, 1):
        prompt = row.get("prompt")
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not turns or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
            raise FledgeError(f"row {number} has no prompt that ends with the user", "give it a column 'prompt'")
        answers = [
            {"text": str(each.get("text", each.get("content", ""))), "model": str(each.get("model", ""))}
            if isinstance(each, Mapping)
            else {"text": str(each)}
            for each in row.get("completions") or []
        ]
        different = len({answer["text"] for answer in answers})
        if answers and not 2 <= different <= MOST_ANSWERS:
            raise FledgeError(f"row {number} has {len(answers)} completions", "a ranking needs 2 to 9 different ones")
        ranks = row.get("ranks") if screening else None
        if screening and (not ranks or len(ranks) != len(answers) or different != len(answers)):
            raise FledgeError(f"row {number} has no right ranks", "screening needs 'completions' and 'ranks' (0 best)")
        made.append((turns, answers, ranks))
    for number, (turns, answers, ranks) in enumerate(made):
        shared = int((number + 1) * overlap) > int(number * overlap)  # spread evenly
        kind, many = "rank" if answers else "demonstrate", wanted if shared else 1
        add_task(store, kind, turns, answers, wanted=many, known=ranks)
    return len(made)
