"""/v1/responses: OpenAI's newer face of the same thing. A body becomes a chat request, an answer becomes output items.

Responses are kept in memory (the last `KEPT`), so that `previous_response_id` can continue them; nobody but their
caller can. Built-in tools, files and background runs are left out.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from pydantic import Field

from fledge.serve.answers import Answer, Part, parts, prepare, whole
from fledge.serve.errors import APIError
from fledge.serve.generation import Generation, new_id, now, usage
from fledge.serve.response_events import events
from fledge.serve.schemas import (
    Body,
    ChatMessage,
    ChatRequest,
    Function,
    FunctionCall,
    JSONSchema,
    NamedFunction,
    NamedTool,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
)
from fledge.serve.schemas import Part as ContentPart
from fledge.serve.service import caller_of, service_of

router = APIRouter()
KEPT = 1000


class Item(Body):
    """A message, a function call of an earlier turn, or what it returned."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | list[ContentPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Text | None = None
    output: Text | list[ContentPart] | None = None


class FlatTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FlatNamedTool(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class Format(Body):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    """`format` as in Format."""

    format: Format | None = None


class ResponsesRequest(Body):
    """The body of /v1/responses."""

    model: str
    input: Text | Annotated[list[Item], Field(max_length=4096)]
    instructions: Text | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    tools: list[FlatTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | FlatNamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    stream: bool | None = False
    store: bool | None = True
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None


@dataclass
class Kept:
    """Responses by id, with whose they are and the turns up to and with them; the oldest go first."""

    known: OrderedDict[str, tuple[str, dict[str, Any], list[ChatMessage]]] = field(default_factory=OrderedDict)

    def put(self, owner: str, response: dict[str, Any], turns: list[ChatMessage]) -> None:
        """Keep a response."""
        self.known[response["id"]] = (owner, response, turns)
        while len(self.known) > KEPT:
            self.known.popitem(last=False)

    def get(self, owner: str, name: str) -> tuple[dict[str, Any], list[ChatMessage]]:
        """The response and its turns. Raises APIError 404 if the owner has none of that name."""
        found = self.known.get(name)
        if found is None or found[0] != owner:
            raise APIError(404, f"there is no response '{name}'", code="response_not_found")
        return found[1], found[2]


def kept_of(http: HTTPRequest) -> Kept:
    """The server's responses."""
    state = http.app.state
    if "responses" not in state._state:
        state.responses = Kept()
    kept: Kept = state.responses
    return kept


@router.post("/v1/responses")
async def respond(body: ResponsesRequest, http: HTTPRequest) -> Any:
    """Answer."""
    service, kept, owner = service_of(http), kept_of(http), caller_of(http).name
    before = kept.get(owner, body.previous_response_id)[1] if body.previous_response_id else []
    turns = before + turns_of(body)
    if not turns and not body.instructions:
        raise APIError(400, "input is empty", param="input")
    chat = chat_of(body, turns)
    async with service.admitted(http, body.model, 1) as generation:
        requests = prepare(chat, generation.served, service.config.max_new_tokens)
        await generation.begin(requests)
        response = head_of(body)

        def finished(answer: Answer, output: list[dict[str, Any]]) -> dict[str, Any]:
            return complete(body, response, answer, output, generation, kept, owner, turns)

        if body.stream:
            written = events(response, parts(chat, generation.stream), finished)
            return generation.streamed(written, done=False)
        found: list[Part] = []
        await generation.collect(parts(chat, generation.stream), found)
        answer = whole(1, found)[0]
        return finished(answer, output_of(answer))


@router.get("/v1/responses/{name}")
async def retrieve(name: str, http: HTTPRequest) -> dict[str, Any]:
    """A response that was kept."""
    return kept_of(http).get(caller_of(http).name, name)[0]


@router.delete("/v1/responses/{name}")
async def forget(name: str, http: HTTPRequest) -> dict[str, Any]:
    """Forget a response."""
    kept = kept_of(http)
    kept.get(caller_of(http).name, name)
    del kept.known[name]
    return {"id": name, "object": "response", "deleted": True}


def turns_of(body: ResponsesRequest) -> list[ChatMessage]:
    """The input as turns of a chat; calls that follow one another are one turn of the assistant."""
    if isinstance(body.input, str):
        return [ChatMessage(role="user", content=body.input)]
    turns: list[ChatMessage] = []
    for place, item in enumerate(body.input):
        match item.type:
            case "message":
                if item.role is None or item.content is None:
                    raise APIError(400, f"input.{place} needs role and content", param=f"input.{place}")
                turns.append(ChatMessage(role=item.role, content=item.content))
            case "function_call":
                function = FunctionCall(name=item.name or "", arguments=item.arguments or "{}")
                call = ToolCall(id=item.call_id or "", function=function)
                if turns and turns[-1].role == "assistant":
                    earlier = turns.pop()
                    turns.append(earlier.model_copy(update={"tool_calls": [*(earlier.tool_calls or []), call]}))
                else:
                    turns.append(ChatMessage(role="assistant", tool_calls=[call]))
            case "function_call_output":
                turns.append(ChatMessage(role="tool", content=item.output or "", tool_call_id=item.call_id))
    return turns


def chat_of(body: ResponsesRequest, turns: list[ChatMessage]) -> ChatRequest:
    """The same as a chat request."""
    system = [ChatMessage(role="system", content=body.instructions)] if body.instructions else []
    tools = [
        Tool(function=Function(name=tool.name, description=tool.description, parameters=tool.parameters))
        for tool in body.tools or []
    ]
    choice: Any = body.tool_choice
    if isinstance(choice, FlatNamedTool):
        choice = NamedTool(function=NamedFunction(name=choice.name))
    form = body.text.format if body.text else None
    wanted = None
    if form:
        schema = JSONSchema.model_validate({"name": form.name, "schema": form.schema_})
        wanted = ResponseFormat(type=form.type, json_schema=schema if form.type == "json_schema" else None)
    return ChatRequest(
        model=body.model,
        messages=system + turns,
        max_completion_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        tools=tools or None,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=wanted,
    )


def head_of(body: ResponsesRequest) -> dict[str, Any]:
    """A response in which nothing is said yet."""
    choice = body.tool_choice
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": now(),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "tool_choice": choice.model_dump() if isinstance(choice, FlatNamedTool) else choice or "auto",
        "tools": [tool.model_dump() for tool in body.tools or []],
        "text": {"format": {"type": body.text.format.type if body.text and body.text.format else "text"}},
        "metadata": body.metadata or {},
        "usage": None,
    }


def output_of(answer: Answer) -> list[dict[str, Any]]:
    """The items of a whole answer."""
    items = [message_item(new_id("msg"), answer.text)] if answer.text or not answer.calls else []
    return items + [call_item(new_id("fc"), call) for call in answer.calls]


def message_item(name: str, text: str) -> dict[str, Any]:
    """A message of the assistant's."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"id": name, "type": "message", "role": "assistant", "status": "completed", "content": content}


def call_item(name: str, call: dict[str, Any]) -> dict[str, Any]:
    """A function call of the assistant's."""
    about = {"call_id": call["id"], "name": call["name"], "arguments": call["arguments"]}
    return {"id": name, "type": "function_call", "status": "completed"} | about


def complete(
    body: ResponsesRequest,
    response: dict[str, Any],
    answer: Answer,
    output: list[dict[str, Any]],
    generation: Generation,
    kept: Kept,
    owner: str,
    turns: list[ChatMessage],
) -> dict[str, Any]:
    """The response as it stands at the end, kept if the caller did not say otherwise."""
    counts = usage(generation)
    short = answer.finish == "length"
    done = response | {
        "status": "incomplete" if short else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if short else None,
        "output": output,
        "usage": {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": counts["prompt_tokens_details"],
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts["total_tokens"],
        },
    }
    if body.store is not False:
        calls = [
            ToolCall(id=call["id"], function=FunctionCall(name=call["name"], arguments=call["arguments"]))
            for call in answer.calls
        ]
        said = ChatMessage(role="assistant", content=answer.text, tool_calls=calls or None)
        kept.put(owner, done, [*turns, said])
    return done
