"""The nouns of the field, as plain immutable values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn language from. `source` says where it came from, `kind` what it is (docs, code, web …)."""

    text: str
    source: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A demonstration: turns in order."""

    messages: tuple[Message, ...]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant turn."""
        last = max(i for i, message in enumerate(self.messages) if message.role == "assistant")
        return self.messages[:last]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ranked answers to one prompt. `ranks[i]` is the rank of `completions[i]`: 0 is best, equal ranks are ties.
    `weight` is how much it counts beside others: that of the person who made it."""

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    weight: float = 1.0


def messages_of(rows: list[dict[str, str]]) -> tuple[Message, ...]:
    """Messages from their JSON form, `[{"role": …, "content": …}, …]`."""
    return tuple(Message(row["role"], row["content"]) for row in rows)
