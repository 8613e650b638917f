"""Tools: how a model is told of them, and how its calls are read from its words while they come.

The form is that of Hermes and Qwen: tools as JSON in the system message, calls as
`<tool_call>{"name": …, "arguments": …}</tool_call>`, results as `<tool_response>…</tool_response>`. A model that was
never taught it can still be made to call: `tool_choice` other than auto is enforced by a grammar. Only what the
assistant says is read for calls; the same characters from a user are just characters.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fledge.generate.detokenise import overlap
from fledge.serve.schemas import ChatRequest, NamedTool, Tool, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')

ABOUT = """You may call functions to help with the question. They are described here by JSON schemas:
<tools>
{tools}
</tools>
To call one, answer with its name and its arguments as JSON between these marks, once per call:
<tool_call>
{{"name": "function", "arguments": {{}}}}
</tool_call>"""


def described(tools: Sequence[Tool]) -> str:
    """What the system message says about the tools."""
    rows = (json.dumps(tool.model_dump(exclude_none=True), ensure_ascii=False) for tool in tools)
    return ABOUT.format(tools="\n".join(rows))


def spelt(calls: Sequence[ToolCall]) -> str:
    """Calls of an earlier turn, as the model wrote them."""
    found = []
    for call in calls:
        arguments = call.function.arguments or "{}"
        found.append(f'{OPEN}\n{{"name": {json.dumps(call.function.name)}, "arguments": {arguments}}}\n{CLOSE}')
    return "\n".join(found)


def answered(content: str) -> str:
    """The result of a call, as a turn of the user's."""
    return f"<tool_response>\n{content}\n</tool_response>"


def forced(body: ChatRequest) -> str | None:
    """The Lark grammar that makes the model call a tool, if the choice is not left to it."""
    if not body.tools or body.tool_choice in (None, "auto", "none"):
        return None
    tools = body.tools
    if isinstance(body.tool_choice, NamedTool):
        tools = [tool for tool in tools if tool.function.name == body.tool_choice.function.name]
    shapes = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "arguments": tool.function.parameters or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema: dict[str, Any] = {"anyOf": shapes} if len(shapes) > 1 else shapes[0]
    schema["x-guidance"] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    single = isinstance(body.tool_choice, NamedTool) or body.parallel_tool_calls is False
    start = "call" if single else 'call ("\\n" call)*'
    return f'start: {start}\ncall: "{OPEN}\\n" body "\\n{CLOSE}"\nbody: %json {json.dumps(schema)}\n'


@dataclass
class Delta:
    """What has become certain of an answer: text, or the beginning of call number `call`, or more of its arguments."""

    text: str = ""
    call: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class CallReader:
    """Reads an answer piece by piece. `names` are the tools there are: anything else stays text."""

    names: frozenset[str]
    calls: int = 0
    held: str = ""
    state: str = "text"
    depth: int = 0
    quoted: bool = False
    escaped: bool = False
    after: bool = field(default=False)  # a call has just ended: blanks up to the next one are not text

    def add(self, piece: str) -> list[Delta]:
        """What became certain with `piece`."""
        self.held += piece
        found: list[Delta] = []
        while self._step(found):
            pass
        return found

    def close(self) -> list[Delta]:
        """The rest at the end of the answer."""
        held, self.held = self.held, ""
        if self.state == "text":
            return [Delta(text=held)] if held and not (self.after and held.isspace()) else []
        if self.state == "head":
            return [Delta(text=OPEN + held)]
        return []

    def _step(self, found: list[Delta]) -> bool:
        """Take one part of what is held; False if more is needed."""
        match self.state:
            case "text":
                return self._text(found)
            case "head":
                return self._head(found)
            case "arguments":
                return self._arguments(found)
        end = self.held.find(CLOSE)
        if end < 0:
            return False
        self.held, self.state, self.after = self.held[end + len(CLOSE) :], "text", True
        return True

    def _text(self, found: list[Delta]) -> bool:
        if self.after:
            self.held = self.held.lstrip()
            if not self.held:
                return False
        at = self.held.find(OPEN)
        keep = at if at >= 0 else len(self.held) - overlap(self.held, (OPEN,))
        if keep:
            found.append(Delta(text=self.held[:keep]))
            self.after = False
        self.held = self.held[keep:]
        if at >= 0:
            self.held, self.state = self.held[len(OPEN) :], "head"
        return at >= 0

    def _head(self, found: list[Delta]) -> bool:
        match = HEAD.match(self.held)
        if match and (name := named(match[1])) in self.names:
            found.append(Delta(call=self.calls, id=f"call_{secrets.token_hex(12)}", name=name))
            self.held, self.state = self.held[match.end() :], "arguments"
            self.depth, self.quoted, self.escaped = 0, False, False
            return True
        end = self.held.find(CLOSE)
        if end < 0:
            return False
        body, self.held, self.state = self.held[:end], self.held[end + len(CLOSE) :], "text"
        whole = parsed(body)
        if whole and whole.get("name") in self.names:
            arguments = json.dumps(whole.get("arguments", {}), ensure_ascii=False)
            found.append(Delta(call=self.calls, id=f"call_{secrets.token_hex(12)}", name=whole["name"]))
            found.append(Delta(call=self.calls, arguments=arguments))
            self.calls, self.after = self.calls + 1, True
        else:
            found.append(Delta(text=OPEN + body + CLOSE))
        return True

    def _arguments(self, found: list[Delta]) -> bool:
        """Pass on the characters of one JSON value."""
        size = 0
        over = False
        for character in self.held:
            if self.quoted:
                size += 1
                self.quoted = self.escaped or character != '"'
                self.escaped = character == "\\" and not self.escaped
                over = not self.quoted and not self.depth
            elif not self.depth and character in "},<":  # a bare value ends before it
                over = True
            else:
                size += 1
                self.quoted = character == '"'
                self.depth += (character in "{[") - (character in "}]")
                over = not self.depth and character in "}]"
            if over:
                break
        if size:
            found.append(Delta(call=self.calls, arguments=self.held[:size]))
        self.held = self.held[size:]
        if over:
            self.calls, self.state = self.calls + 1, "tail"
        return over


def named(quoted: str) -> str:
    """The string that JSON spells."""
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""


def parsed(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("name"), str) else None
