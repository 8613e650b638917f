"""/v1/completions: text or tokens in, their continuation out, with the probabilities of each token if asked."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest

from fledge.generate.request import Request, Scored
from fledge.serve.errors import APIError
from fledge.serve.generation import collected, event_stream, new_id, now, requests_of, sent, token_text, usage
from fledge.serve.schemas import CompletionRequest
from fledge.serve.service import service_of
from fledge.text.tokenizer import Tokenizer

router = APIRouter()
DEFAULT = 16  # new tokens, as OpenAI's


@router.post("/v1/completions")
async def completions(body: CompletionRequest, http: HTTPRequest) -> Any:
    """Continue a prompt, or several."""
    service = service_of(http)
    if body.suffix:
        raise APIError(400, "this server continues text, it does not fill in: leave out suffix", param="suffix")
    async with service.admitted(http, body.model) as served:
        tokenizer = served.assistant.tokenizer
        prompts = prompts_of(body, tokenizer)
        requests = requests_of(
            body,
            served,
            prompts,
            body.max_tokens,
            DEFAULT,
            top_logprobs=body.logprobs or 0,
            prompt_logprobs=bool(body.echo and body.logprobs is not None) or body.max_tokens == 0,
        )
        stream = service.submit(http, served, requests)
        head = {"id": new_id("cmpl"), "object": "text_completion", "created": now(), "model": body.model}
        prompt = sum(map(len, prompts))
        if body.stream:
            service.keep(http)
            return event_stream(chunks(body, head, stream, requests, prompt, tokenizer, http))
        try:
            choices, cached = await collected(stream, http, len(requests))
        finally:
            stream.cancel()
        answers = []
        for index, (choice, request) in enumerate(zip(choices, requests)):
            said = tokenizer.decode(request.ids, skip_special=False) if body.echo else ""
            tokens = [*((choice.prompt or []) if body.echo else []), *choice.tokens]
            answers.append(
                {
                    "index": index,
                    "text": said + choice.text,
                    "finish_reason": choice.finish,
                    "logprobs": logprobs_of(tokens, tokenizer, 0) if body.logprobs is not None else None,
                }
            )
        counts = usage(prompt, sum(len(choice.tokens) for choice in choices), cached)
        return head | {"choices": answers, "usage": counts}


async def chunks(
    body: CompletionRequest,
    head: dict[str, Any],
    stream: Any,
    requests: Sequence[Request],
    prompt: int,
    tokenizer: Tokenizer,
    http: HTTPRequest,
) -> AsyncIterator[bytes]:
    """The events of a streamed continuation."""
    drawn = cached = 0
    offsets: dict[int, int] = {}
    service = service_of(http)
    try:
        async for index, update in stream:
            drawn += len(update.tokens)
            cached += update.cached
            text, tokens = update.text, update.tokens
            if index not in offsets and body.echo:
                text = tokenizer.decode(requests[index].ids, skip_special=False) + text
                tokens = [*(update.prompt or []), *tokens]
            start = offsets.setdefault(index, 0)
            offsets[index] += sum(len(token_text(tokenizer, scored.token)[0]) for scored in tokens)
            logprobs = logprobs_of(tokens, tokenizer, start) if body.logprobs is not None else None
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": update.finish}
            yield sent(head | {"choices": [choice]})
        if body.stream_options and body.stream_options.include_usage:
            yield sent(head | {"choices": [], "usage": usage(prompt, drawn, cached)})
    finally:
        stream.cancel()
        service.release(http)


def prompts_of(body: CompletionRequest, tokenizer: Tokenizer) -> list[list[int]]:
    """The prompts as ids. Text never makes a special token; whoever sends tokens may."""
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    found = []
    for prompt in given or [""]:
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if any(not 0 <= token < tokenizer.vocab_size for token in ids):
            raise APIError(400, f"the vocabulary has {tokenizer.vocab_size} tokens", param="prompt")
        found.append(ids or [tokenizer.document_id])
    if len(found) > 128:
        raise APIError(400, f"{len(found)} prompts in one request; 128 are allowed", param="prompt")
    return found


def logprobs_of(tokens: Sequence[Scored], tokenizer: Tokenizer, start: int) -> dict[str, Any]:
    """Log-probabilities in the shape of OpenAI's completions API; `token_ids` is beyond it."""
    texts = [token_text(tokenizer, scored.token)[0] for scored in tokens]
    offsets = [start]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [scored.logprob for scored in tokens],
        "top_logprobs": [
            {token_text(tokenizer, token)[0]: value for token, value in reversed(scored.top)} if scored.top else None
            for scored in tokens
        ],
        "text_offset": offsets[:-1],
        "token_ids": [scored.token for scored in tokens],
        "top_token_ids": [[token for token, _ in scored.top] for scored in tokens],
    }
