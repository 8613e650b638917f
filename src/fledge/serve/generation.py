"""From a body to the engine's requests and from its updates to text: what chat, completions and responses share."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HTTPRequest
from fastapi.responses import StreamingResponse

from fledge.core.errors import FledgeError
from fledge.generate.request import Request, Scored
from fledge.generate.sampling import Sampling
from fledge.serve.errors import APIError, as_api_error, error_body
from fledge.serve.schemas import Drawing
from fledge.serve.shelf import Served
from fledge.serve.worker import Stream
from fledge.text.tokenizer import Tokenizer


@dataclass
class Choice:
    """One answer as it grows."""

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    prompt: list[Scored] | None = None
    finish: str | None = None


def sampling_of(body: Drawing) -> Sampling:
    """How to draw, with OpenAI's defaults."""
    given = {
        name: getattr(body, name)
        for name in Sampling.model_fields
        if name in type(body).model_fields and getattr(body, name) is not None
    }
    return Sampling(**given)


def requests_of(
    body: Drawing, served: Served, prompts: Sequence[list[int]], most: int | None, default: int, **more: Any
) -> list[Request]:
    """`body.n` requests for each prompt, each with a seed of its own. `most` is what the body asks for in new tokens;
    without it `default`, or what the context leaves."""
    context, tokenizer = served.assistant.config.context, served.assistant.tokenizer
    seed = secrets.randbits(62) if body.seed is None else body.seed
    stop = [body.stop] if isinstance(body.stop, str) else list(body.stop or [])
    if len(stop) > 16:
        raise APIError(400, f"{len(stop)} stop strings; 16 are allowed", param="stop")
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    if any(token >= tokenizer.vocab_size for token in bias):
        raise APIError(400, f"logit_bias names a token outside the vocabulary of {tokenizer.vocab_size}")
    found = []
    for place, ids in enumerate(prompts):
        room = context - len(ids)
        wanted = min(default, room) if most is None else most
        if wanted > room or room < 1:
            over = len(ids) + max(wanted, 1) - context
            raise APIError(
                400,
                f"this model's context is {context} tokens; the prompt has {len(ids)} and the answer may have "
                f"{max(wanted, 1)}: {over} too many. Shorten the prompt or ask for fewer tokens",
                code="context_length_exceeded",
                param="messages" if hasattr(body, "messages") else "prompt",
            )
        for choice in range(body.n or 1):
            found.append(
                Request(
                    ids,
                    wanted,
                    sampling_of(body),
                    seed=seed + place * (body.n or 1) + choice,
                    stop_ids=tuple({tokenizer.eos_id, tokenizer.document_id}),
                    stop=tuple(text for text in stop if text),
                    logit_bias=bias,
                    **more,
                )
            )
    return found


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """OpenAI's counts of tokens."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def token_text(tokenizer: Tokenizer, token: int) -> tuple[str, list[int]]:
    """A token as text (invalid bytes as U+FFFD) and as bytes."""
    found = tokenizer.bytes_of.get(token, b"")
    return found.decode("utf-8", "replace"), list(found)


async def collected(stream: Stream, http: HTTPRequest, count: int) -> tuple[list[Choice], int]:
    """All choices when they are done, and how many prompt tokens were cached. If the client leaves, so do we."""
    choices = [Choice() for _ in range(count)]
    cached = 0

    async def read() -> None:
        nonlocal cached
        async for index, update in stream:
            choice = choices[index]
            choice.text += update.text
            choice.tokens += update.tokens
            choice.prompt = update.prompt or choice.prompt
            choice.finish = update.finish
            cached += update.cached

    await while_connected(http, read)
    return choices, cached


async def while_connected(http: HTTPRequest, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`, or stop it when the client has gone."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work()), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise APIError(499, "the client has gone")
        tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


def sent(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


def event_stream(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    """A response of server-sent events; what fails after its beginning becomes an event too."""

    async def guarded() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except APIError as error:
            yield sent(error.body())
        except FledgeError as error:
            yield sent(as_api_error(error).body())
        except Exception as error:
            yield sent(error_body(500, f"the server failed: {type(error).__name__}"))
        yield b"data: [DONE]\n\n"

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(guarded(), media_type="text/event-stream", headers=headers)


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def new_id(prefix: str) -> str:
    """An identifier that is not used twice."""
    return f"{prefix}-{secrets.token_hex(12)}"
