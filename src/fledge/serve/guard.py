"""What every request passes first: where it comes from, whose it is, how large and how often; and what is noted of it.

A server on loopback without keys is open to the programs of its machine, not to the web pages its user looks at:
requests with a foreign Host (DNS rebinding) or a foreign Origin are refused.
"""

import json
import time
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge.serve.errors import APIError
from fledge.serve.service import ANYONE, Service, address_of

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
FREE = ("/health", "/web/")  # not counted against the rate


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        http = HTTPRequest(scope)
        began, status, size = time.monotonic(), 500, 0
        limit = self.service.config.max_body

        async def read() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise HTTPException(413, f"the body is larger than {limit} bytes")
            return message

        async def write(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._check(http)
                await self.app(scope, read, write)
            except APIError as error:
                await respond(error, write)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self.service.metrics.requests.labels(path, str(status)).inc()
            self.service.audit(http, status, time.monotonic() - began)

    def _check(self, http: HTTPRequest) -> None:
        service, config = self.service, self.service.config
        scheme, _, key = http.headers.get("authorization", "").partition(" ")
        http.state.caller = service.keys.caller(key.strip()) if scheme.lower() == "bearer" and key else None
        if not len(service.keys):
            http.state.caller = ANYONE
            host = urlsplit(f"//{http.headers.get('host', '')}").hostname or ""
            if host not in (*LOOPBACK, config.host):
                raise APIError(403, f"this server does not answer for the host '{host}'")
        origin = http.headers.get("origin")
        known = origin is None or origin in config.cors or "*" in config.cors
        if not known and urlsplit(origin).netloc != http.headers.get("host"):
            raise APIError(403, f"this server does not answer to pages of {origin}; see its setting cors")
        length = http.headers.get("content-length", "0")
        if length.isdigit() and int(length) > config.max_body:
            raise APIError(413, f"the body has {length} bytes, {config.max_body} are allowed")
        if not http.url.path.startswith(FREE):
            caller = http.state.caller
            wait = service.rate.take(caller.name if caller and caller is not ANYONE else address_of(http))
            if wait:
                raise APIError(429, f"more than {config.rate} requests a minute", code="rate_limit", retry_after=wait)


async def respond(error: APIError, send: Send) -> None:
    """Answer with an error, below the application."""
    headers = {"content-type": "application/json"} | {k.lower(): v for k, v in error.headers().items()}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": json.dumps(error.body()).encode()})
