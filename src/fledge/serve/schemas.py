"""What OpenAI's clients send, as types: chat, completions, and what both share. Fields of theirs that mean nothing here
are accepted and ignored, as they do with new ones."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

Text = Annotated[str, Field(max_length=4 << 20)]
Bias = Annotated[
    dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(json_schema_extra={"additionalProperties": False}),
]
TEXTS = ("text", "input_text", "output_text")
SAYS: dict[str, Any] = {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}}


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), allow_inf_nan=False)


class StreamOptions(Body):
    """`include_usage`: one more chunk at the end, with the counts of tokens."""

    include_usage: bool | None = False


class Drawing(Body):
    """How tokens are drawn. `top_k`, `min_p` and `repetition_penalty` are beyond OpenAI's."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1 << 20)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Annotated[str, Field(max_length=200)] | list[Annotated[str, Field(max_length=200)]] | None = None
    n: int | None = Field(None, ge=1, le=128)
    logit_bias: Bias | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None


class Part(Body):
    """A part of a message's content; only text can be read here, and what else there is gets an answer that says so."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(TEXTS)})]
    text: Annotated[str | None, WithJsonSchema({"type": "string"})] = None

    model_config = ConfigDict(json_schema_extra={"required": ["type", "text"]})


class FunctionCall(Body):
    """A call that the assistant made: `arguments` is a string of JSON."""

    name: str
    arguments: Text = "{}"


class ToolCall(Body):
    """A tool call in the conversation so far."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """One turn; only the assistant's may have no content."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"properties": {"role": {"const": "assistant"}}}, SAYS]})

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(Body):
    """A tool's name, description and JSON schema of its parameters."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(Body):
    """The name in a tool choice."""

    name: str


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class JSONSchema(Body):
    """A schema that the answer must satisfy. (`schema` is the field's name on the wire.)"""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`regex` and `grammar` (Lark) are beyond OpenAI's."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JSONSchema | None = None
    regex: Text | None = None
    grammar: Text | None = None


class ChatRequest(Drawing):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(Drawing):
    """The body of /v1/completions. A prompt is a text, tokens, or a list of either."""

    prompt: Text | list[Text] | list[int] | list[list[int]] = Field("")
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = False
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=128)
    response_format: ResponseFormat | None = None
