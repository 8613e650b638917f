"""/v1/chat/completions: a conversation in, an answer out, whole or as it is written."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest

from fledge.generate.request import Scored
from fledge.serve.answers import Answer, Part, parts, prepare, whole
from fledge.serve.generation import Generation, new_id, now, sent, token_text, usage
from fledge.serve.schemas import ChatRequest
from fledge.serve.service import service_of
from fledge.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, http: HTTPRequest) -> Any:
    """Answer a conversation."""
    service = service_of(http)
    async with service.admitted(http, body.model, body.n or 1) as generation:
        tokenizer = generation.served.assistant.tokenizer
        requests = prepare(body, generation.served, service.config.max_new_tokens)
        await generation.begin(requests)
        head = {"id": new_id("chatcmpl"), "created": now(), "model": body.model, "system_fingerprint": "fledge"}
        if body.stream:
            return generation.streamed(chunks(body, head, generation, tokenizer))
        found: list[Part] = []
        await generation.collect(parts(body, generation.stream), found)
        answers = whole(len(requests), found)
        choices = [choice_of(body, index, answer, tokenizer) for index, answer in enumerate(answers)]
        return head | {"object": "chat.completion", "choices": choices, "usage": usage(generation)}


def choice_of(body: ChatRequest, index: int, answer: Answer, tokenizer: Tokenizer) -> dict[str, Any]:
    """One whole answer in OpenAI's shape."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in answer.calls
        ]
    return {
        "index": index,
        "message": message,
        "finish_reason": answer.finish,
        "logprobs": {"content": logprobs_of(answer.tokens, tokenizer), "refusal": None} if body.logprobs else None,
    }


async def chunks(
    body: ChatRequest, head: dict[str, Any], generation: Generation, tokenizer: Tokenizer
) -> AsyncIterator[bytes]:
    """The events of a streamed answer."""
    head = head | {"object": "chat.completion.chunk"}
    counted = bool(body.stream_options and body.stream_options.include_usage)
    if counted:
        head["usage"] = None

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return sent(head | {"choices": [choice]})

    for index in range(body.n or 1):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
    async for part in parts(body, generation.stream):
        logprobs = None
        if body.logprobs and part.tokens:
            logprobs = {"content": logprobs_of(part.tokens, tokenizer), "refusal": None}
        for delta in part.deltas:
            if delta.text:
                yield chunk(part.choice, {"content": delta.text}, logprobs=logprobs)
            elif delta.name:
                call = {"index": delta.call, "id": delta.id, "type": "function"}
                function = {"name": delta.name, "arguments": ""}
                yield chunk(part.choice, {"tool_calls": [call | {"function": function}]}, logprobs=logprobs)
            else:
                more = {"index": delta.call, "function": {"arguments": delta.arguments}}
                yield chunk(part.choice, {"tool_calls": [more]}, logprobs=logprobs)
            logprobs = None
        if logprobs:
            yield chunk(part.choice, {"content": ""}, logprobs=logprobs)
        if part.finish:
            yield chunk(part.choice, {}, part.finish)
    if counted:
        yield sent(head | {"choices": [], "usage": usage(generation)})


def logprobs_of(tokens: Sequence[Scored], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Log-probabilities in the shape of OpenAI's chat API."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        text, found = token_text(tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": found}

    return [
        entry(scored.token, scored.logprob) | {"top_logprobs": [entry(token, value) for token, value in scored.top]}
        for scored in tokens
    ]
