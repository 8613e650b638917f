"""/v1/chat/completions: a conversation in, an answer out, whole or as it is written."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest

from fledge.core.nouns import Message
from fledge.generate.request import Scored
from fledge.serve.errors import APIError
from fledge.serve.generation import collected, event_stream, new_id, now, requests_of, sent, token_text, usage
from fledge.serve.schemas import ChatMessage, ChatRequest
from fledge.serve.service import service_of
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, http: HTTPRequest) -> Any:
    """Answer a conversation."""
    service = service_of(http)
    async with service.admitted(http, body.model) as served:
        tokenizer = served.assistant.tokenizer
        ids = render(tokenizer, messages_of(body.messages), add_generation_prompt=True).ids
        most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        requests = requests_of(
            body, served, [ids], most, service.config.max_new_tokens, top_logprobs=(body.top_logprobs or 0)
        )
        stream = service.submit(http, served, requests)
        head = {"id": new_id("chatcmpl"), "created": now(), "model": body.model}
        if body.stream:
            service.keep(http)
            return event_stream(chunks(body, head, stream, len(ids), tokenizer, http))
        try:
            choices, cached = await collected(stream, http, len(requests))
        finally:
            stream.cancel()
        answers = []
        for index, choice in enumerate(choices):
            answer: dict[str, Any] = {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "finish_reason": choice.finish,
                "logprobs": {"content": logprobs_of(choice.tokens, tokenizer)} if body.logprobs else None,
            }
            answers.append(answer)
        counts = usage(len(ids), sum(len(choice.tokens) for choice in choices), cached)
        return head | {"object": "chat.completion", "choices": answers, "usage": counts}


async def chunks(
    body: ChatRequest, head: dict[str, Any], stream: Any, prompt: int, tokenizer: Tokenizer, http: HTTPRequest
) -> AsyncIterator[bytes]:
    """The events of a streamed answer."""
    head = head | {"object": "chat.completion.chunk"}
    drawn = cached = 0
    begun: set[int] = set()
    service = service_of(http)

    def chunk(index: int, delta: dict[str, Any], finish: str | None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return sent(head | {"choices": [choice]})

    try:
        async for index, update in stream:
            drawn += len(update.tokens)
            cached += update.cached
            delta: dict[str, Any] = {}
            if index not in begun:
                begun.add(index)
                delta["role"] = "assistant"
                delta["content"] = update.text
            elif update.text:
                delta["content"] = update.text
            logprobs = {"content": logprobs_of(update.tokens, tokenizer)} if body.logprobs and update.tokens else None
            if delta or logprobs:
                yield chunk(index, delta, None, logprobs)
            if update.finish:
                yield chunk(index, {}, update.finish)
        if body.stream_options and body.stream_options.include_usage:
            yield sent(head | {"choices": [], "usage": usage(prompt, drawn, cached)})
    finally:
        stream.cancel()
        service.release(http)


def logprobs_of(tokens: Sequence[Scored], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Log-probabilities in the shape of OpenAI's chat API."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        text, found = token_text(tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": found}

    return [
        entry(scored.token, scored.logprob) | {"top_logprobs": [entry(token, value) for token, value in scored.top]}
        for scored in tokens
    ]


def messages_of(turns: Sequence[ChatMessage]) -> list[Message]:
    """The turns as the template knows them."""
    found = []
    for place, turn in enumerate(turns):
        role = {"developer": "system", "function": "tool"}.get(turn.role, turn.role)
        found.append(Message("user" if role == "tool" else role, text_of(turn, place)))
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
        if part.type not in ("text", "input_text", "output_text") or part.text is None:
            raise APIError(400, f"this server reads text only, not '{part.type}'", param=f"messages.{place}.content")
    return "".join(part.text or "" for part in turn.content)
