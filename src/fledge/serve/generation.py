"""From a body to the engine's requests and from its updates to text: what chat, completions and responses share."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request as HTTPRequest
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fledge.generate.request import Request, Update
from fledge.generate.sampling import Sampling
from fledge.serve.errors import APIError, as_api_error
from fledge.serve.schemas import Drawing
from fledge.serve.shelf import Served
from fledge.serve.worker import Stream
from fledge.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from fledge.serve.service import Service

T = TypeVar("T")


class Generation:
    """One HTTP request's answers: admitted, begun, read whole or streamed, and always closed.

    `stream` gives (choice, update) as they come; `prompt`, `drawn` and `cached` count tokens.
    """

    def __init__(self, service: "Service", served: Served, http: HTTPRequest, count: int) -> None:
        self.service, self.served, self.http, self.count = service, served, http, count
        self.prompt = self.drawn = self.cached = 0
        self.began, self.first = time.monotonic(), 0.0
        self.opened: Stream | None = None
        self.closed = self.handed = False

    @property
    def stream(self) -> Stream:
        """The updates."""
        assert self.opened is not None
        return self.opened

    async def begin(self, requests: Sequence[Request]) -> None:
        """Queue the requests and wait until the first token is there, so that what fails before has its status.

        Raises APIError 503 if that takes longer than `queue_seconds`.
        """
        config = self.service.config
        self.prompt = sum(len(ids) for ids in {id(request.ids): request.ids for request in requests}.values())
        self.opened = self.service.worker.submit(self.served.engine, requests, self.service.client(self.http))
        self.opened.on_update = self._count
        try:
            async with asyncio.timeout(config.queue_seconds):
                await while_connected(self.http, self.stream.ready())
        except TimeoutError:
            raise APIError(
                503, "the server is too busy to begin this answer in time", code="overloaded", retry_after=5
            ) from None
        self.stream.expire_in(config.request_seconds)

    def _count(self, update: Update) -> None:
        if not self.first:
            self.first = time.monotonic()
            self.service.metrics.began(self.served.name, self.first - self.began)
        self.drawn += len(update.tokens)
        self.cached += update.cached

    async def collect(self, items: AsyncIterator[T], into: list[T]) -> None:
        """All items; if the client leaves, so do we."""

        async def read() -> None:
            async for item in items:
                into.append(item)

        await while_connected(self.http, read())

    def streamed(self, chunks: AsyncIterator[bytes], done: bool = True) -> "Events":
        """A response of server-sent events, which closes this when it ends, however it ends."""
        self.handed = True
        return Events(self, chunks, done)

    def close(self) -> None:
        """Stop what still runs and free the place."""
        if not self.closed:
            self.closed = True
            if self.opened is not None:
                self.opened.cancel()
            self.service.release(self)


class Events(StreamingResponse):
    """Server-sent events; what fails after the beginning becomes an event too."""

    def __init__(self, generation: Generation, chunks: AsyncIterator[bytes], done: bool) -> None:
        async def guarded() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
            except Exception as error:
                yield sent(as_api_error(error).body())
            if done:
                yield b"data: [DONE]\n\n"

        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(guarded(), media_type="text/event-stream", headers=headers)
        self.generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.generation.close()


async def while_connected(http: HTTPRequest, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, or stop it when the client has gone (and nobody will read the answer)."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise APIError(499, "the client has gone")
        tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


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
                f"This model's maximum context length is {context} tokens; the prompt has {len(ids)} and the answer "
                f"may have {max(wanted, 1)}: {over} too many. Shorten the prompt or ask for fewer tokens",
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


def usage(generation: "Generation") -> dict[str, Any]:
    """OpenAI's counts of tokens."""
    return {
        "prompt_tokens": generation.prompt,
        "completion_tokens": generation.drawn,
        "total_tokens": generation.prompt + generation.drawn,
        "prompt_tokens_details": {"cached_tokens": min(generation.cached, generation.prompt)},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def token_text(tokenizer: Tokenizer, token: int) -> tuple[str, list[int]]:
    """A token as text (invalid bytes as U+FFFD) and as bytes."""
    found = tokenizer.bytes_of.get(token, b"")
    return found.decode("utf-8", "replace"), list(found)


def sent(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def new_id(prefix: str) -> str:
    """An identifier that is not used twice."""
    return f"{prefix}-{secrets.token_hex(12)}"
