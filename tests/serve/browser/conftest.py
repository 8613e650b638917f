"""Headless Chromium, a real server with the tiny models and a finished run, and a scripted one whose pace tests set."""

import asyncio
import json
import re
import shutil
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install 'fledge[serve]'")
pytest.importorskip("sqlalchemy", reason="pip install 'fledge[serve]'")
pytest.importorskip("playwright", reason="pip install playwright to drive the web app")

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from fledge.serve.app import create_app
from fledge.serve.config import ServeConfig
from fledge.serve.keys import Keys
from fledge.serve.pages import web_routers

sys.path.insert(0, str(Path(__file__).parents[2] / "stages"))

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SMALL = {"cache_bytes": 64 << 20, "shared_bytes": 16 << 20}
PATIENCE = 30_000  # milliseconds: the machine may be busy
expect.set_options(timeout=PATIENCE)
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}


def serving(app: FastAPI) -> Iterator[str]:
    """Serves an app on a free port in a thread; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def keyed(tiny: Path, tmp_path: Path) -> Iterator[tuple[str, Keys]]:
    """A server with keys and a store of its own, in the test's folder: its address, and the keys."""
    keys = Keys(tmp_path / "keys.json")
    keys.add("root", "admin")
    config = ServeConfig(**SMALL, runs=tmp_path, keys=tmp_path / "keys.json")
    for address in serving(create_app([f"tiny={tiny / 'base'}"], config)):
        yield address, keys


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from synthetic_run import write_run

    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "pydoc")
    return folder


@pytest.fixture(scope="session")
def real(tiny: Path, runs: Path) -> Iterator[str]:
    """The address of the real server."""
    models = [f"tiny={tiny / 'base'}", f"other={tiny / 'base'}"]
    yield from serving(create_app(models, ServeConfig(**SMALL, runs=runs)))


class Script:
    """What the scripted models say, token by token, and what they were asked. `go` lets them speak on."""

    def __init__(self) -> None:
        self.tokens = ["Hello", " world"]
        self.asked: list[dict[str, Any]] = []
        self.dropped = 0
        self.paused_after: int | None = None
        self.go = threading.Event()

    def say(self, text: str, paused_after: int | None = None) -> None:
        self.tokens = re.findall(r"\s*\S+\s?", text)
        self.asked.clear()
        self.dropped, self.paused_after = 0, paused_after
        self.go.clear()

    async def events(self, made: Callable[[str, int], dict[str, Any]]) -> AsyncIterator[str]:
        spoken = False
        try:
            for i, token in enumerate(self.tokens):
                while i == self.paused_after and not self.go.is_set():
                    await asyncio.sleep(0.02)
                yield f"data: {json.dumps({'choices': [made(token, i)]})}\n\n"
            usage = {"prompt_tokens": 7, "completion_tokens": len(self.tokens)}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"
            spoken = True
        finally:
            self.dropped += not spoken


@pytest.fixture(scope="session")
def script() -> Script:
    return Script()


@pytest.fixture(scope="session")
def scripted(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the web app on scripted models."""
    app = FastAPI()
    folder = tmp_path_factory.mktemp("scripted")
    for _, router in web_routers(ServeConfig(runs=folder)):
        app.include_router(router)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": name} for name in ("one", "two", "three")]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        script.asked.append(await request.json())
        last = len(script.tokens) - 1

        def made(token: str, i: int) -> dict[str, Any]:
            return {"index": 0, "delta": {"content": token}, "finish_reason": "stop" if i == last else None}

        return StreamingResponse(script.events(made), media_type="text/event-stream")

    yield from serving(app)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    found = browser.new_context(viewport=WIDE)
    found.set_default_timeout(PATIENCE)
    yield found
    found.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that must not fail by itself: script errors and blocked content fail the test."""
    found = context.new_page()
    complaints: list[str] = []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    yield found
    assert complaints == []
