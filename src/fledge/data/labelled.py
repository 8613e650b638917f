"""Rows → labelled examples: texts and pairs with a label, tagged words, questions with answers in a text, and pairs of
source and target text.

A column's name is given, or it is the first that a row has of those the ecosystem uses. SQuAD's nested JSON
(arXiv:1606.05250; unanswerable questions too, arXiv:1806.03822) is flattened; two line-aligned text files are a
parallel corpus. What cannot be used is dropped and counted with its reason, as in `columns`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError
from fledge.data.columns import Dropped, Row, convert
from fledge.data.lines import Unusable, as_utf8, lines, open_bytes

KNOWN = {
    "text": ("text", "sentence", "sentence1", "sentence_A", "premise", "question1", "content", "review"),
    "pair": ("text_pair", "pair", "sentence2", "sentence_B", "hypothesis", "question2"),
    "label": ("label", "score", "labels", "stars", "class", "entailment_judgment"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "pos_tags", "labels"),
    "question": ("question",),
    "context": ("context", "passage"),
    "answers": ("answers", "answer"),
    "source": ("input", "src", "prompt", "text", "source"),
    "target": ("target", "output", "completion", "summary", "answer", "label"),
    "prefix": ("prefix",),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or a pair of texts, with its label (a class's name) or score (a number)."""

    text: str
    pair: str | None
    label: str | float


@dataclass(frozen=True, slots=True)
class Tagged:
    """Words, each with its tag."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a text: each answer is (its text, where it begins in the context); none if it has no answer."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class TextPair:
    """What is read and what is to be written; `prefix` names the task (T5, arXiv:1910.10683)."""

    source: str
    target: str
    prefix: str = ""


class Columns:
    """Which column plays which part: as given, else the first known name that the first row has."""

    def __init__(self, rows: Sequence[Row], given: Mapping[str, str]) -> None:
        have = rows[0] if rows else {}
        for part, name in given.items():
            if part not in KNOWN:
                raise FledgeError(f"columns: '{part}' is no part of a task", f"known: {', '.join(KNOWN)}")
            if name not in have:
                names = ", ".join(key for key in have if key not in ("source", "kind"))
                raise FledgeError(f"columns: the data has no column '{name}'", f"its columns: {names}")
        guessed = {part: next((name for name in names if name in have), None) for part, names in KNOWN.items()}
        self.of: dict[str, str | None] = guessed | dict(given)

    def get(self, row: Row, part: str) -> Any:
        """The value that plays `part` in a row; None where there is none."""
        name = self.of[part]
        return None if name is None else row.get(name)

    def text(self, row: Row, part: str) -> str:
        """A text that must not be blank."""
        value = self.get(row, part)
        if not isinstance(value, str) or not value.strip():
            raise Dropped(f"no {part}" if value is None else f"a {part} that is no text")
        return value


def to_labelled(rows: Sequence[Row], columns: Mapping[str, str], number: bool) -> tuple[list[Labelled], dict[str, int]]:
    """Texts (pairs, where there is a second text) with a class, or with a number if `number`."""
    find = Columns(rows, columns)

    def make(row: Row) -> Labelled:
        pair = find.text(row, "pair") if find.of["pair"] else None
        return Labelled(find.text(row, "text"), pair, label_of(find.get(row, "label"), number))

    return convert(rows, make, "text (+ text_pair) + label, or set columns.text, columns.pair, columns.label")


def label_of(value: Any, number: bool) -> str | float:
    """A label as a class's name or as a number; raises Dropped."""
    if value is None or value == "":
        raise Dropped("no label")
    if not number:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Dropped("a label that is no number") from None


def to_tagged(rows: Sequence[Row], columns: Mapping[str, str]) -> tuple[list[Tagged], dict[str, int]]:
    """Lists of words with lists of tags of the same length."""
    find = Columns(rows, columns)

    def make(row: Row) -> Tagged:
        tokens, tags = find.get(row, "tokens"), find.get(row, "tags")
        if not isinstance(tokens, list | tuple) or not isinstance(tags, list | tuple) or not tokens:
            raise Dropped("no list of tokens with a list of tags")
        if len(tokens) != len(tags):
            raise Dropped("as many tags as tokens are needed")
        return Tagged(tuple(map(str, tokens)), tuple(map(str, tags)))

    return convert(rows, make, "tokens + tags")


def to_questions(rows: Sequence[Row], columns: Mapping[str, str]) -> tuple[list[Question], dict[str, int]]:
    """Questions of SQuAD's JSON, nested or one a row; an answer must stand in the context where it says."""
    flat = [question for row in rows for question in flattened(row)]
    find = Columns(flat, columns)

    def make(row: Row) -> Question:
        context = find.text(row, "context")
        answers = tuple(spans(find.get(row, "answers")))
        if any(context[start : start + len(text)] != text for text, start in answers):
            raise Dropped("an answer that does not stand in the context where it says")
        return Question(str(row.get("id", "")), find.text(row, "question"), context, answers)

    return convert(flat, make, "question + context + answers, or SQuAD's JSON")


def flattened(row: Row) -> Iterator[Row]:
    """The questions of a row: of a whole data set, an article, a paragraph, or the one it is."""
    for key in ("data", "paragraphs"):
        if isinstance(row.get(key), list):
            for inner in row[key]:
                yield from flattened(inner)
            return
    if isinstance(row.get("qas"), list):
        for question in row["qas"]:
            yield {"context": row.get("context"), **question}
        return
    yield row


def spans(answers: Any) -> Iterator[tuple[str, int]]:
    """(text, start) of answers as SQuAD's files write them (a list of objects) or as `datasets` does (two lists)."""
    if isinstance(answers, Mapping):
        yield from zip(answers["text"], map(int, answers["answer_start"]))
        return
    for answer in answers or ():
        if not isinstance(answer, Mapping) or not {"text", "answer_start"} <= answer.keys():
            raise Dropped("an answer without text and answer_start")
        yield answer["text"], int(answer["answer_start"])


def to_text_pairs(rows: Sequence[Row], columns: Mapping[str, str]) -> tuple[list[TextPair], dict[str, int]]:
    """Source and target texts; a row may name its own task in `prefix`."""
    find = Columns(rows, columns)

    def make(row: Row) -> TextPair:
        target = find.get(row, "target")
        if isinstance(target, int | float):
            row = row | {str(find.of["target"]): str(target)}
        prefix = find.get(row, "prefix")
        return TextPair(find.text(row, "source"), find.text(row, "target"), prefix if isinstance(prefix, str) else "")

    return convert(rows, make, "source + target, or set columns.source and columns.target")


def parallel_rows(source: Path, target: Path) -> list[Row]:
    """Two texts of which the same lines belong together, plain or .gz, as rows of `source` and `target`."""
    texts = [text_lines(path) for path in (source, target)]
    if len(texts[0]) != len(texts[1]):
        raise FledgeError(
            f"{source} has {len(texts[0]):,} lines, {target} has {len(texts[1]):,}", "give files that match by line"
        )
    return [{"source": a, "target": b} for a, b in zip(*texts)]


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text, without their ends."""
    try:
        with open_bytes(path, path.suffix == ".gz") as file:
            return [(line or b"").decode().rstrip("\r\n") for line in lines(as_utf8(file))]
    except OSError as error:
        raise FledgeError(f"{path} cannot be read: {error.strerror or error}", "check the path") from None
    except (Unusable, UnicodeDecodeError, EOFError) as error:
        raise FledgeError(f"{path} is not a text in UTF-8 ({error})", "give plain or gzipped text") from None
