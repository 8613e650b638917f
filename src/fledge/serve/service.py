"""What the routes share: models, the worker, who may do what, and how much at once."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request as HTTPRequest

from fledge.serve.config import ServeConfig
from fledge.serve.errors import APIError
from fledge.serve.generation import Generation
from fledge.serve.keys import Caller, Keys
from fledge.serve.limits import Rate
from fledge.serve.metrics import Metrics
from fledge.serve.shelf import Shelf
from fledge.serve.worker import Worker

ANYONE = Caller("anyone", "admin")  # on loopback, with no keys


class Service:
    """The state of one server."""

    def __init__(self, shelf: Shelf, config: ServeConfig) -> None:
        self.shelf, self.config, self.worker = shelf, config, Worker()
        self.keys, self.rate, self.metrics = Keys(config.keys), Rate(config.rate), Metrics()
        self.open = 0  # answers being written or waiting
        self.pace = 1.0  # seconds that an answer takes, lately

    @asynccontextmanager
    async def admitted(self, http: HTTPRequest, model: str, count: int) -> AsyncIterator[Generation]:
        """A place for `count` answers of a model, until the end, or until the streamed response ends.

        Raises APIError: 404 for a model there is not, 429 if all places are taken.
        """
        if count > self.config.max_choices:
            raise APIError(400, f"{count} answers in one request; {self.config.max_choices} are allowed", param="n")
        most = self.config.max_batch + self.config.max_waiting
        if self.open + count > most:
            wait = self.pace * max(1, self.open // self.config.max_batch)
            raise APIError(429, f"all {most} places are taken: try again", code="server_full", retry_after=wait)
        self.open += count
        try:
            served = await self.shelf.get(model)
        except BaseException:
            self.open -= count
            raise
        served.active += 1
        generation = Generation(self, served, http, count)
        try:
            yield generation
        finally:
            if not generation.handed:
                generation.close()

    def release(self, generation: Generation) -> None:
        """Free the places of a generation, and count what it was."""
        self.open -= generation.count
        generation.served.active -= 1
        seconds = time.monotonic() - generation.began
        self.pace += 0.1 * (seconds - self.pace)
        self.metrics.ended(generation.served.name, seconds, generation.prompt, generation.drawn, generation.cached)
        if generation.opened is not None and generation.opened.cut:
            self.metrics.cancelled.inc()
        generation.http.state.audit = {
            "model": generation.served.name,
            "prompt_tokens": generation.prompt,
            "completion_tokens": generation.drawn,
        }

    def client(self, http: HTTPRequest) -> str:
        """Whose queue a request waits in: that of its key, or of its address."""
        caller = caller_of(http)
        return caller.name if caller is not ANYONE else address_of(http)

    def audit(self, http: HTTPRequest, status: int, seconds: float, **more: Any) -> None:
        """One line about a request: who, what, when, how much; nothing that was said."""
        if self.config.audit is None:
            return
        caller = getattr(http.state, "caller", None)
        line = {
            "time": round(time.time(), 3),
            "caller": caller.name if caller else None,
            "role": caller.role if caller else None,
            "address": address_of(http),
            "method": http.method,
            "path": http.url.path,
            "status": status,
            "seconds": round(seconds, 3),
            **getattr(http.state, "audit", {}),
            **more,
        }
        with self.config.audit.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def service_of(http: HTTPRequest) -> Service:
    """The service a request is made to."""
    service: Service = http.app.state.service
    return service


def address_of(http: HTTPRequest) -> str:
    """The address a request comes from."""
    return http.client.host if http.client else ""


def caller_of(http: HTTPRequest) -> Caller:
    """Who makes the request, as the guard found out. Raises APIError 401."""
    caller: Caller | None = http.state.caller
    if caller is None:
        raise APIError(401, "this server needs an API key: Authorization: Bearer …", code="invalid_api_key")
    return caller


def allow(role: str) -> Callable[[HTTPRequest], Caller]:
    """A dependency: only callers with this role, or one that includes it. Raises APIError 401 or 403."""

    def check(http: HTTPRequest) -> Caller:
        caller = caller_of(http)
        if not caller.may(role):
            raise APIError(403, f"the key '{caller.name}' has the role {caller.role}; this needs {role}")
        return caller

    return check
