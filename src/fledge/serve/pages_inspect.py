"""What the page of inspection asks for: one text through one served model, as `fledge inspect` sees it."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from fledge.evaluate.inspection import LONGEST, inspect_ids
from fledge.generate.assistant import Assistant
from fledge.serve.errors import APIError
from fledge.serve.schemas import Body
from fledge.serve.service import service_of

MOST_AT_ONCE = 2  # inspections: each holds a core


class InspectRequest(Body):
    """A text as it stands (a document mark before it, as in training), or what a user says (`chat`)."""

    model: str
    text: str = Field(min_length=1, max_length=20_000)
    chat: bool = False


def inspect_router() -> APIRouter:
    """The route /app/inspect."""
    router = APIRouter(prefix="/app", tags=["app"])
    places = asyncio.Semaphore(MOST_AT_ONCE)

    @router.post("/inspect")
    async def inspect(body: InspectRequest, http: Request) -> dict[str, Any]:
        """Tokens with what each cost, predictions, attention, logit lens, induction, parameters."""
        async with places:
            served = await service_of(http).shelf.get(body.model)
            served.active += 1
            try:
                return await asyncio.to_thread(inspected, served.assistant, body)
            finally:
                served.active -= 1

    return router


def inspected(assistant: Assistant, body: InspectRequest) -> dict[str, Any]:
    """The inspection of a text by a loaded model."""
    if getattr(assistant.config, "shape", "") != "decoder":
        raise APIError(400, "this page looks into decoders; `fledge inspect` looks into every shape", param="model")
    tokenizer = assistant.tokenizer
    ids = assistant.encode([{"role": "user", "content": body.text}] if body.chat else body.text)
    if not body.chat and ids[0] != tokenizer.document_id:
        ids = [tokenizer.document_id, *ids]
    most = min(LONGEST, assistant.config.context)
    if len(ids) > most:
        raise APIError(400, f"the text has {len(ids)} tokens; at most {most} can be looked at", param="text")
    return inspect_ids(assistant.model, tokenizer, ids)
