"""/v1/completions: text or tokens in, their continuation out, with the probabilities of each token if asked."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest

from fledge.generate.request import Request, Scored, Update
from fledge.serve.answers import grammar_of
from fledge.serve.errors import APIError
from fledge.serve.generation import Generation, new_id, now, requests_of, sent, token_text, usage
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
    if (body.best_of or 1) > (body.n or 1):
        raise APIError(400, "this server returns what it draws: best_of must not exceed n", param="best_of")
    count = (body.n or 1) * prompt_count(body)
    async with service.admitted(http, body.model, count) as generation:
        served = generation.served
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
            grammar=grammar_of(body.response_format, served),
        )
        await generation.begin(requests)
        head = {"id": new_id("cmpl"), "object": "text_completion", "created": now(), "model": body.model}
        if body.stream:
            return generation.streamed(chunks(body, head, generation, requests, tokenizer))
        found: list[tuple[int, Update]] = []
        await generation.collect(aiter(generation.stream), found)
        choices = []
        for index, request in enumerate(requests):
            updates = [update for choice, update in found if choice == index]
            tokens = [scored for update in updates for scored in update.tokens]
            said = "".join(update.text for update in updates)
            if body.echo:
                said = tokenizer.decode(request.ids, skip_special=False) + said
                tokens = [*(updates[0].prompt or []), *tokens]
            choices.append(
                {
                    "index": index,
                    "text": said,
                    "finish_reason": updates[-1].finish,
                    "logprobs": logprobs_of(tokens, tokenizer, 0) if body.logprobs is not None else None,
                }
            )
        return head | {"choices": choices, "usage": usage(generation)}


async def chunks(
    body: CompletionRequest,
    head: dict[str, Any],
    generation: Generation,
    requests: Sequence[Request],
    tokenizer: Tokenizer,
) -> AsyncIterator[bytes]:
    """The events of a streamed continuation."""
    offsets: dict[int, int] = {}
    counted = bool(body.stream_options and body.stream_options.include_usage)
    async for index, update in generation.stream:
        text, tokens = update.text, update.tokens
        if index not in offsets and body.echo:
            text = tokenizer.decode(requests[index].ids, skip_special=False) + text
            tokens = [*(update.prompt or []), *tokens]
        start = offsets.setdefault(index, 0)
        logprobs = None
        if body.logprobs is not None:
            logprobs = logprobs_of(tokens, tokenizer, start)
            offsets[index] += sum(map(len, logprobs["tokens"]))
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": update.finish}
        yield sent(head | {"choices": [choice]})
    if counted:
        yield sent(head | {"choices": [], "usage": usage(generation)})


def prompt_count(body: CompletionRequest) -> int:
    """How many prompts there are."""
    given: Any = body.prompt
    return 1 if isinstance(given, str) or not given or isinstance(given[0], int) else len(given)


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
