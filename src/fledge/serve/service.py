"""What the routes share: models, the worker, who may do what, and how much at once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import Request as HTTPRequest

from fledge.generate.request import Request
from fledge.serve.config import ServeConfig
from fledge.serve.errors import APIError
from fledge.serve.shelf import Served, Shelf
from fledge.serve.worker import Stream, Worker


class Service:
    """The state of one server."""

    def __init__(self, shelf: Shelf, config: ServeConfig) -> None:
        self.shelf, self.config, self.worker = shelf, config, Worker()
        self.open = 0  # generation requests in hand

    @asynccontextmanager
    async def admitted(self, http: HTTPRequest, model: str) -> AsyncIterator[Served]:
        """The model, counted as in use until the end, or until `release` if the answer is streamed (`keep`)."""
        if self.open >= self.config.max_batch + self.config.max_waiting:
            raise APIError(429, "the server is full: try again", code="server_full", retry_after=self.patience())
        served = await self.shelf.get(model)
        http.state.served, http.state.kept = served, False
        served.active += 1
        self.open += 1
        try:
            yield served
        except BaseException:
            http.state.kept = False
            raise
        finally:
            if not http.state.kept:
                self.release(http)

    def keep(self, http: HTTPRequest) -> None:
        """The answer goes on after the route returns: whoever streams it calls `release`."""
        http.state.kept = True

    def release(self, http: HTTPRequest) -> None:
        """The request is over."""
        http.state.served.active -= 1
        self.open -= 1

    def submit(self, http: HTTPRequest, served: Served, requests: Sequence[Request]) -> Stream:
        """Have the worker answer."""
        if len(requests) > self.config.max_choices:
            raise APIError(400, f"{len(requests)} answers in one request; {self.config.max_choices} are allowed")
        return self.worker.submit(served.engine, requests, http.client.host if http.client else "")

    def patience(self) -> float:
        """Seconds after which there may be room again."""
        return 2.0


def service_of(http: HTTPRequest) -> Service:
    """The service a request is made to."""
    service: Service = http.app.state.service
    return service
