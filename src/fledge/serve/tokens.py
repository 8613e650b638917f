"""/tokenize and /detokenize: a text or a conversation as the model's tokens, and back. The shapes are vLLM's, with the
pieces beside the ids."""

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from pydantic import Field

from fledge.serve.answers import messages_of
from fledge.serve.errors import APIError
from fledge.serve.generation import token_text
from fledge.serve.schemas import Body, ChatMessage, ChatRequest, Text, Tool
from fledge.serve.service import service_of
from fledge.text.template import render

router = APIRouter()


class TokenizeRequest(Body):
    """A `prompt` (or `text`) is taken as it stands, `messages` go through the chat template."""

    model: str
    prompt: Text | None = None
    text: Text | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    tools: list[Tool] | None = None
    add_generation_prompt: bool = True


class DetokenizeRequest(Body):
    """Tokens to be spelt."""

    model: str
    tokens: list[int] = Field(max_length=1 << 20)


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, http: HTTPRequest) -> dict[str, Any]:
    """The tokens, their number, and what each stands for."""
    served = await service_of(http).shelf.get(body.model)
    tokenizer = served.assistant.tokenizer
    if body.messages:
        chat = ChatRequest(model=body.model, messages=body.messages, tools=body.tools)
        ids = render(tokenizer, messages_of(chat), add_generation_prompt=body.add_generation_prompt).ids
    else:
        ids = tokenizer.encode(body.prompt if body.prompt is not None else body.text or "")
    special = set(tokenizer.special.values())
    pieces = []
    for token in ids:
        text, found = token_text(tokenizer, token)
        pieces.append({"id": token, "text": text, "bytes": found, "special": token in special})
    context = served.assistant.config.context
    return {"count": len(ids), "max_model_len": context, "tokens": ids, "pieces": pieces}


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, http: HTTPRequest) -> dict[str, str]:
    """The text of tokens, special ones spelt out."""
    tokenizer = (await service_of(http).shelf.get(body.model)).assistant.tokenizer
    if any(not 0 <= token < tokenizer.vocab_size or token not in tokenizer.bytes_of for token in body.tokens):
        raise APIError(400, f"not all of these are tokens of a vocabulary of {tokenizer.vocab_size}", param="tokens")
    return {"prompt": tokenizer.decode(body.tokens, skip_special=False)}
