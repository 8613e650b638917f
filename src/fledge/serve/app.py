"""The server as one ASGI application: `create_app(models, config)`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

from fastapi import FastAPI
from fastapi import Request as HTTPRequest
from fastapi.staticfiles import StaticFiles

from fledge.serve import chat, completions, errors
from fledge.serve.config import ServeConfig
from fledge.serve.service import Service, service_of
from fledge.serve.shelf import Shelf, card

WEB = Path(__file__).parent / "web"
ROUTERS = (chat.router, completions.router)


def create_app(models: Sequence[str | Path], config: ServeConfig | None = None) -> FastAPI:
    """An application that serves `models` (directories, run directories, or NAME=PATH)."""
    config = config or ServeConfig()
    service = Service(Shelf(models, config), config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.stop()

    app = FastAPI(title="fledge", version=metadata.version("fledge"), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)

    @app.get("/v1/models")
    async def models_list(http: HTTPRequest) -> dict[str, object]:
        """The models that can be asked for; the first is the default."""
        shelf = service_of(http).shelf
        cards = [card(name, place, shelf.created) for name, place in shelf.places.items()]
        return {"object": "list", "data": [one | {"loaded": one["id"] in shelf.loaded} for one in cards]}

    for router in ROUTERS:
        app.include_router(router)
    if any(WEB.iterdir()):
        app.mount("/", StaticFiles(directory=WEB, html=True), name="web")
    return app
