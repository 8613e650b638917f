"""The web app's own files: one HTML page a place, its modules and styles, served as they stand in `web/`.

No build step and nothing from elsewhere: the content security policy forbids it, and inline scripts with it. The
pages hold no secrets, so they need no key; what they ask of the API does.
"""

import hashlib
from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response

from fledge.serve.config import ServeConfig
from fledge.serve.pages_feedback import feedback_router, opened
from fledge.serve.pages_inspect import inspect_router
from fledge.serve.pages_label import label_router
from fledge.serve.pages_label_team import team_router
from fledge.serve.pages_runs import Reports, runs_router

PLACES = {"/": "chat", "/playground": "playground", "/inspect": "inspect", "/runs": "runs", "/label": "label"}
TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def web_routers(config: ServeConfig) -> list[tuple[str, APIRouter]]:
    """The routers of the web app, each with the role that it needs ("" for what anybody may see)."""
    store, reports = opened(config.feedback or str(config.runs / "feedback.db")), Reports()
    return [
        ("", pages_router(reports)),
        ("user", runs_router(config.runs, reports)),
        ("user", feedback_router(store)),
        ("user", inspect_router()),
        ("labeller", label_router(store)),
        ("admin", team_router(store, config.runs)),
    ]


def pages_router(reports: Reports) -> APIRouter:
    """The pages and what they load."""
    router = APIRouter(include_in_schema=False)
    files = {file.name: file.read_bytes() for file in (resources.files("fledge.serve") / "web").iterdir()}
    marks = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in files.items()}

    def answer(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no file {name}")
        headers = HEADERS | {"ETag": marks[name]}
        if request.headers.get("If-None-Match") == marks[name]:
            return Response(status_code=304, headers=headers)
        kind = TYPES[name.rpartition(".")[2]]
        return Response(files[name], media_type=kind, headers=headers)

    def place(path: str, name: str) -> None:
        @router.get(path)
        def page(request: Request) -> Response:
            return answer(f"{name}.html", request)

    for path, name in PLACES.items():
        place(path, name)

    @router.get("/web/reports/{ticket}")
    def report(ticket: str) -> Response:
        return reports.page(ticket)

    @router.get("/web/{name}")
    def file(name: str, request: Request) -> Response:
        return answer(name, request)

    return router
