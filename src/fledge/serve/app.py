"""The server as one ASGI application: `create_app(models, config)`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from fledge.core.errors import FledgeError
from fledge.serve import chat, completions, embeddings, errors, responses, status, tokens
from fledge.serve.config import ServeConfig
from fledge.serve.guard import LOOPBACK, Guard
from fledge.serve.pages import web_routers
from fledge.serve.service import Service, allow
from fledge.serve.shelf import Shelf

FOR_USERS = (chat.router, completions.router, embeddings.router, responses.router, tokens.router)


def create_app(models: Sequence[str | Path], config: ServeConfig | None = None) -> FastAPI:
    """An application that serves `models` (directories, run directories, or NAME=PATH).

    Raises FledgeError if it would be open to others than this machine.
    """
    config = config or ServeConfig()
    service = Service(Shelf(models, config), config)
    if config.host not in LOOPBACK and not len(service.keys):
        raise FledgeError(
            f"without API keys this server listens on loopback only, not on {config.host}",
            "make a key: `fledge keys add NAME --keys keys.json`, then serve with --keys keys.json",
        )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.stop()

    version = metadata.version("fledge")
    app = FastAPI(title="fledge", version=version, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)
    for router in FOR_USERS:
        app.include_router(router, dependencies=[Depends(allow("user"))])
    app.include_router(status.router)
    for role, router in web_routers(config):
        app.include_router(router, dependencies=[Depends(allow(role))] if role else [])
    if config.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(config.cors), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(Guard, service=service)
    app.openapi = partial(described, app, service.shelf.names)  # type: ignore[method-assign]
    return app


def described(app: FastAPI, names: Sequence[str]) -> dict[str, Any]:
    """The OpenAPI schema, with the names of the models that are served."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        for body in schema["components"]["schemas"].values():
            if body.get("properties", {}).get("model", {}).get("type") == "string":
                body["properties"]["model"]["enum"] = list(names)
        app.openapi_schema = schema
    return app.openapi_schema
