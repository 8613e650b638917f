"""Answers to conversations: the requests, and the deltas that become certain. Chat and responses both use them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fledge.core.nouns import Message
from fledge.generate.request import Request, Scored
from fledge.serve.errors import APIError
from fledge.serve.generation import requests_of
from fledge.serve.schemas import TEXTS, ChatMessage, ChatRequest, NamedTool, ResponseFormat
from fledge.serve.shelf import Served
from fledge.serve.tools import CallReader, Delta, answered, described, forced, spelt
from fledge.serve.worker import Stream
from fledge.text.template import render


@dataclass
class Part:
    """What one update adds to a choice."""

    choice: int
    deltas: list[Delta]
    tokens: list[Scored]
    finish: str | None
    cached: int


@dataclass
class Answer:
    """A whole choice."""

    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[Scored] = field(default_factory=list)
    finish: str | None = None

    def add(self, part: Part) -> None:
        """Grow by a part."""
        for delta in part.deltas:
            self.text += delta.text
            if delta.name:
                self.calls.append({"id": delta.id, "name": delta.name, "arguments": ""})
            elif delta.call is not None:
                self.calls[-1]["arguments"] += delta.arguments
        self.tokens += part.tokens
        self.finish = part.finish


def prepare(body: ChatRequest, served: Served, default: int) -> list[Request]:
    """The engine's requests for a conversation."""
    if body.tool_choice not in (None, "none", "auto") and not body.tools:
        raise APIError(400, "tool_choice needs tools", param="tool_choice")
    if isinstance(body.tool_choice, NamedTool) and body.tool_choice.function.name not in tool_names(body):
        raise APIError(400, f"there is no tool '{body.tool_choice.function.name}'", param="tool_choice")
    if body.top_logprobs is not None and not body.logprobs:
        raise APIError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    ids = render(served.assistant.tokenizer, messages_of(body), add_generation_prompt=True).ids
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    law = forced(body)
    grammar = served.grammars.lark(law) if law else grammar_of(body.response_format, served)
    return requests_of(body, served, [ids], most, default, top_logprobs=body.top_logprobs or 0, grammar=grammar)


def grammar_of(form: ResponseFormat | None, served: Served) -> Any:
    """The grammar that a response format asks for, or None."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return served.grammars.json({"type": "object"})
    if form.type == "json_schema":
        if form.json_schema is None:
            raise APIError(400, "json_schema is missing", param="response_format.json_schema")
        return served.grammars.json(form.json_schema.schema_ or {"type": "object"})
    if form.type == "regex":
        return served.grammars.regex(form.regex or "")
    return served.grammars.lark(form.grammar or "")


async def parts(body: ChatRequest, stream: Stream) -> AsyncIterator[Part]:
    """The answers as they grow; calls are read where tools were offered."""
    names = frozenset(tool_names(body)) if body.tool_choice != "none" else frozenset()
    readers: dict[int, CallReader] = {}
    async for index, update in stream:
        finish: str | None = update.finish
        if not names:
            deltas = [Delta(text=update.text)] if update.text else []
        else:
            reader = readers.setdefault(index, CallReader(names))
            deltas = reader.add(update.text) + (reader.close() if finish else [])
            if finish == "stop" and reader.calls:
                finish = "tool_calls"
        yield Part(index, deltas, update.tokens, finish, update.cached)


def tool_names(body: ChatRequest) -> list[str]:
    """The tools that were offered."""
    return [tool.function.name for tool in body.tools or []]


def messages_of(body: ChatRequest) -> list[Message]:
    """The turns as the template knows them: tools are described in the system message, their results are a user's
    turn, several in a row are one."""
    found: list[Message] = []
    before = ""
    for place, turn in enumerate(body.messages):
        text = text_of(turn, place)
        if turn.role in ("tool", "function"):
            text = answered(text)
            if before == "tool":
                text = found.pop().content + "\n" + text
            found.append(Message("user", text))
        elif turn.role == "assistant":
            calls = spelt(turn.tool_calls or [])
            found.append(Message("assistant", text + "\n" * bool(text and calls) + calls))
        else:
            found.append(Message("system" if turn.role == "developer" else turn.role, text))
        before = "tool" if turn.role in ("tool", "function") else turn.role
    if body.tools and body.tool_choice != "none":
        about = described(body.tools)
        if found[0].role == "system":
            found[0] = Message("system", found[0].content + "\n\n" + about)
        else:
            found.insert(0, Message("system", about))
    return found


def text_of(turn: ChatMessage, place: int) -> str:
    """The text of a turn; anything else in it is refused."""
    if turn.content is None:
        if turn.role != "assistant":
            raise APIError(400, f"messages.{place} has no content", param=f"messages.{place}.content")
        return ""
    if isinstance(turn.content, str):
        return turn.content
    for part in turn.content:
        if part.type not in TEXTS or part.text is None:
            raise APIError(400, f"this server reads text only, not '{part.type}'", param=f"messages.{place}.content")
    return "".join(part.text or "" for part in turn.content)


def whole(count: int, found: Sequence[Part]) -> list[Answer]:
    """The choices that parts add up to."""
    answers = [Answer() for _ in range(count)]
    for part in found:
        answers[part.choice].add(part)
    return answers
