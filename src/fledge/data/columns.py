"""Rows → documents, conversations and comparisons, whatever the ecosystem calls their columns.

Layouts: `text`; `messages`; sharegpt (`conversations` of from/value); `prompt` + `completion`; alpaca (`instruction`,
`input`, `output` or `response`); `prompt` + `chosen` + `rejected`, the prompt implicit too (a shared beginning of
messages, or of "Human: … Assistant: …" dialogues as in hh-rlhf, arXiv:2204.05862); `prompt` + `completions`, the best
first or with `ranks`; comparisons may have a `weight`. A row that has no place in training is dropped with its reason;
if none is left, that is an error. Leaves out tools, images and several system messages.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fledge.core.errors import FledgeError
from fledge.core.nouns import Comparison, Conversation, Document, Message

Row = dict[str, Any]
Noun = TypeVar("Noun")

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
ANSWERS = ("completion", "response", "output")
DIALOGUE = re.compile(r"\n\n(Human|Assistant):")
END = "<|endoftext|>"  # a text in many prompt + completion files, where it only marks the end
NO_LAYOUT = "columns of no known layout"


class Dropped(Exception):
    """Why a row cannot be used."""


def to_documents(rows: Sequence[Row]) -> tuple[list[Document], dict[str, int]]:
    """Documents of the rows with `text`, and how many rows were dropped and why."""
    return convert(rows, document, "text")


def to_conversations(rows: Sequence[Row]) -> tuple[list[Conversation], dict[str, int]]:
    """Demonstrations: at most one system message, first; then turns, with an answer that is not empty."""
    return convert(rows, conversation, "messages, conversations, prompt + completion, or instruction + output")


def to_comparisons(rows: Sequence[Row]) -> tuple[list[Comparison], dict[str, int]]:
    """Ranked answers, at least two of them different and not all tied."""
    return convert(rows, comparison, "prompt + chosen + rejected, chosen + rejected, or prompt + completions (+ ranks)")


def convert(rows: Sequence[Row], make: Callable[[Row], Noun], layouts: str) -> tuple[list[Noun], dict[str, int]]:
    """Makes a noun of every row that has one; raises FledgeError if there are rows but none has."""
    made: list[Noun] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        try:
            made.append(make(row))
        except Dropped as reason:
            dropped[str(reason)] += 1
    if rows and not made:
        reasons = "; ".join(f"{count:,} × {reason}" for reason, count in dropped.most_common())
        names = ", ".join(name for name in rows[0] if name not in ("source", "kind"))
        raise FledgeError(f"no row can be used: {reasons} (columns: {names})", f"expected columns: {layouts}")
    return made, dict(dropped)


def document(row: Row) -> Document:
    """The document in a row's `text`; raises Dropped with the reason if there is none."""
    text = row.get("text")
    if not isinstance(text, str):
        raise Dropped("no text column" if text is None else "text is not a string")
    if not text.strip():
        raise Dropped("empty text")
    source, kind = row.get("source"), row.get("kind")
    return Document(text, source if isinstance(source, str) else "", kind if isinstance(kind, str) else "")


def conversation(row: Row) -> Conversation:
    """The demonstration in a row of any known layout; raises Dropped with the reason if there is none."""
    for column in ("messages", "conversations"):
        if row.get(column) is not None:
            return Conversation(checked(turns(row[column])))
    answer = next((row[column] for column in ANSWERS if row.get(column) is not None), None)
    if answer is None:
        raise Dropped(NO_LAYOUT)
    return Conversation(checked((*prompt_of(row), *answer_turns(answer))))


def comparison(row: Row) -> Comparison:
    """The ranked answers in a row of any known layout; raises Dropped with the reason if there are none."""
    if row.get("completions") is not None:
        prompt, answers, ranks = prompt_of(row), *ranked(row)
    elif row.get("chosen") is not None and row.get("rejected") is not None:
        prompt, answers = paired(row)
        ranks = [0, 1]
    else:
        raise Dropped(NO_LAYOUT)
    for answer in answers:
        checked((*prompt, Message("assistant", answer)))
    if len(set(answers)) < 2:
        raise Dropped("fewer than two different answers")
    if len(set(ranks)) < 2:
        raise Dropped("all answers tie")
    levels = sorted(set(ranks))
    return Comparison(prompt, tuple(answers), tuple(levels.index(rank) for rank in ranks), weight_of(row))


def weight_of(row: Row) -> float:
    """How much a comparison counts: its `weight`, 1 if it has none."""
    weight = row.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise Dropped("a weight that is no number from 0 on")
    return float(weight)


def ranked(row: Row) -> tuple[list[str], list[float]]:
    """The answers of a `completions` column with their ranks, by default those of their order."""
    completions = row["completions"]
    if not isinstance(completions, list):
        raise Dropped("completions is not a list")
    answers = [single(answer_turns(completion)) for completion in completions]
    ranks = row.get("ranks")
    if ranks is None:
        return answers, list(range(len(answers)))
    if not isinstance(ranks, list) or len(ranks) != len(answers):
        raise Dropped("as many ranks as completions are needed")
    if not all(isinstance(rank, (int, float)) and rank == rank for rank in ranks):
        raise Dropped("ranks are not numbers")
    return answers, ranks


def paired(row: Row) -> tuple[tuple[Message, ...], list[str]]:
    """The prompt and the chosen and rejected answers to it; a prompt that is not given is what both begin with."""
    both = [answer_turns(row["chosen"]), answer_turns(row["rejected"])]
    given = [row.get(column) for column in ("prompt", "messages", "conversations", "instruction")]
    if any(value is not None for value in given):
        prompt = prompt_of(row)
        # Answers may repeat the prompt, as dialogues do.
        both = [turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns for turns in both]
        return prompt, [single(turns) for turns in both]
    chosen, rejected = both
    if len(chosen) < 2 or len(rejected) < 2:
        raise Dropped("no prompt")
    if chosen[:-1] != rejected[:-1]:
        raise Dropped("chosen and rejected answer different prompts")
    return chosen[:-1], [single(chosen[-1:]), single(rejected[-1:])]


def prompt_of(row: Row) -> tuple[Message, ...]:
    """The turns to answer: of `prompt`, of alpaca's instruction and input, or of messages."""
    instruction = row.get("instruction")
    if instruction is not None:
        parts = [instruction, row.get("input") or ""]
        if not all(isinstance(part, str) for part in parts):
            raise Dropped("content is not text")
        question = "\n\n".join(part.strip() for part in parts if part.strip())
        system = row.get("system")
        opening = [Message("system", system)] if isinstance(system, str) and system.strip() else []
        return (*opening, Message("user", question))
    value = next((row[name] for name in ("prompt", "messages", "conversations") if row.get(name) is not None), None)
    if value is None:
        raise Dropped("no prompt")
    if not isinstance(value, str):
        return turns(value)
    return dialogue(value) or (Message("user", value.strip()),)


def answer_turns(value: Any) -> tuple[Message, ...]:
    """An answer as turns: of a string, a message, a list of messages, or a dialogue that ends in the answer."""
    if isinstance(value, dict):
        return turns([value])
    if not isinstance(value, str):
        return turns(value)
    return dialogue(value) or (Message("assistant", value.strip().removesuffix(END).rstrip()),)


def single(answer: tuple[Message, ...]) -> str:
    """The content of an answer that is one turn of the assistant."""
    if len(answer) != 1 or answer[0].role != "assistant":
        raise Dropped("an answer is not one turn of the assistant")
    return answer[0].content


def turns(value: Any) -> tuple[Message, ...]:
    """The messages of a list of {role, content} or {from, value}."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise Dropped("messages is not a list of objects")
    return tuple(message(turn) for turn in value)


def message(turn: Row) -> Message:
    """One turn, {role, content} or {from, value}; content may be a list of text parts."""
    name = turn.get("role", turn.get("from"))
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise Dropped(f"a message whose role is {str(name)[:30]!r}")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Dropped("content is not text")
    return Message(role, content)


def dialogue(text: str) -> tuple[Message, ...] | None:
    """The turns of a "Human: … Assistant: …" text, without a last one that is empty; None if it is none."""
    if not text.lstrip().startswith("Human:"):
        return None
    _, *found = DIALOGUE.split("\n\n" + text.strip())
    parsed = [Message(ROLES[name.lower()], content.strip()) for name, content in zip(found[::2], found[1::2])]
    if parsed[-1] == Message("assistant", ""):
        parsed.pop()
    return tuple(parsed)


def checked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages of a conversation that can be trained on."""
    roles = [turn.role for turn in messages]
    if roles.count("system") > 1:
        raise Dropped("two system messages")
    if "system" in roles[1:]:
        raise Dropped("a system message after the first turn")
    if "assistant" not in roles:
        raise Dropped("no turn from the assistant")
    if "user" not in roles[: roles.index("assistant")]:
        raise Dropped("nothing before the assistant's first turn")
    if not all(turn.content.strip() for turn in messages if turn.role != "system"):
        raise Dropped("an empty turn")
    return messages
