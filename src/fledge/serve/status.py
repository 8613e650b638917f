"""/v1/models, /health and /metrics: what there is and how it is."""

from typing import Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HTTPRequest

from fledge.serve.errors import APIError
from fledge.serve.service import allow, service_of
from fledge.serve.shelf import card

router = APIRouter()


@router.get("/v1/models", dependencies=[Depends(allow("user"))])
async def models(http: HTTPRequest) -> dict[str, Any]:
    """The models that can be asked for; the first is the default."""
    service = service_of(http)
    return {"object": "list", "data": [one(http, name) for name in service.shelf.names]}


@router.get("/v1/models/{name:path}", dependencies=[Depends(allow("user"))])
async def model(name: str, http: HTTPRequest) -> dict[str, Any]:
    """One model."""
    if name not in service_of(http).shelf.places:
        raise APIError(404, f"the model '{name}' does not exist", code="model_not_found", param="model")
    return one(http, name)


def one(http: HTTPRequest, name: str) -> dict[str, Any]:
    """A model's card."""
    shelf = service_of(http).shelf
    return card(name, shelf.places[name], shelf.created) | {"loaded": name in shelf.loaded}


@router.get("/health")
async def health(http: HTTPRequest) -> Any:
    """Whether the server can answer: 200, or 503 when the thread that computes is gone."""
    service = service_of(http)
    if not service.worker.thread.is_alive():
        raise APIError(503, "the worker has ended")
    return {"status": "ok", "models": service.shelf.names, "loaded": list(service.shelf.loaded), "open": service.open}


@router.get("/metrics", dependencies=[Depends(allow("admin"))])
async def metrics(http: HTTPRequest) -> Response:
    """Counters for Prometheus."""
    service = service_of(http)
    service.metrics.open.set(service.open)
    service.metrics.loaded.set(len(service.shelf.loaded))
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
