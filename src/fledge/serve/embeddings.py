"""/v1/embeddings: a text as a vector, the mean of the last hidden states, of length 1.

A decoder that was never taught to embed gives usable neighbours, no more; a model raised for it does better.
"""

import base64
from functools import partial
from typing import Any, Literal

import torch
from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from pydantic import Field
from torch import Tensor

from fledge.generate.assistant import Assistant
from fledge.serve.errors import APIError
from fledge.serve.schemas import Body, Text
from fledge.serve.service import service_of

router = APIRouter()
AT_ONCE = 4096  # padded tokens


class EmbeddingsRequest(Body):
    """`input` is a text, tokens, or a list of either; `dimensions` keeps the first so many."""

    model: str
    input: Text | list[Text] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsRequest, http: HTTPRequest) -> dict[str, Any]:
    """One vector for each input."""
    service = service_of(http)
    given: Any = body.input
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not 1 <= len(given) <= 2048:
        raise APIError(400, f"{len(given)} inputs; 1 to 2048 are allowed", param="input")
    async with service.admitted(http, body.model, 1) as generation:
        assistant = generation.served.assistant
        tokenizer, config = assistant.tokenizer, assistant.config
        rows = [tokenizer.encode(each) if isinstance(each, str) else each for each in given]
        for ids in rows:
            if not ids:
                raise APIError(400, "an input is empty", param="input")
            if any(not 0 <= token < tokenizer.vocab_size for token in ids):
                raise APIError(400, f"the vocabulary has {tokenizer.vocab_size} tokens", param="input")
            if len(ids) > config.context:
                raise APIError(
                    400,
                    f"an input has {len(ids)} tokens, {len(ids) - config.context} more than the model's context",
                    code="context_length_exceeded",
                    param="input",
                )
        if (body.dimensions or 1) > config.width:
            raise APIError(400, f"the vectors have {config.width} dimensions", param="dimensions")
        vectors: list[Tensor] = []
        for group in groups(rows):
            vectors += await service.worker.call(partial(embed, assistant, group))
        generation.prompt = sum(map(len, rows))
    data = []
    for index, vector in enumerate(vectors):
        kept = torch.nn.functional.normalize(vector[: body.dimensions], dim=0)
        value: Any = kept.tolist()
        if body.encoding_format == "base64":
            value = base64.b64encode(kept.numpy().astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    counts = {"prompt_tokens": generation.prompt, "total_tokens": generation.prompt}
    return {"object": "list", "data": data, "model": body.model, "usage": counts}


def groups(rows: list[list[int]]) -> list[list[list[int]]]:
    """Rows in order, as many together as fit."""
    found: list[list[list[int]]] = []
    longest = 0
    for row in rows:
        longest = max(longest, len(row))
        if found and longest * (len(found[-1]) + 1) <= AT_ONCE:
            found[-1].append(row)
        else:
            found.append([row])
            longest = len(row)
    return found


@torch.inference_mode()
def embed(assistant: Assistant, rows: list[list[int]]) -> list[Tensor]:
    """The mean hidden state of each row of ids, float32 [E]."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    device = next(assistant.model.parameters()).device
    hidden = assistant.model.backbone(ids.to(device)).float().cpu()
    return [hidden[place, : len(row)].mean(0) for place, row in enumerate(rows)]
