"""Failures as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}` and the right status."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fledge.core.errors import FledgeError, Unavailable, is_out_of_memory

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class APIError(Exception):
    """An answer other than 200. `retry_after` in seconds becomes the header of that name."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        wait = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        return wait | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return error_body(self.status, self.message, self.code, self.param)


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_api_error(error: Exception) -> APIError:
    """Any failure as an answer: the caller's to mend (400), no memory (503), or ours (500)."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, FledgeError):
        text = error.message + (f": {error.remedy}" if error.remedy else "")
        return APIError(503, text, retry_after=5) if isinstance(error, Unavailable) else APIError(400, text)
    if is_out_of_memory(error):
        return APIError(503, "the server has no memory for this now", code="out_of_memory", retry_after=10)
    return APIError(500, f"the server failed: {type(error).__name__}")


def install(app: FastAPI) -> None:
    """Answer every failure in OpenAI's shape."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        found = as_api_error(error)
        return JSONResponse(found.body(), found.status, headers=found.headers())

    for kind in (APIError, FledgeError, Exception):
        app.add_exception_handler(kind, answer)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        text = f"{where}: {first['msg']}" if where else str(first["msg"])
        return JSONResponse(error_body(400, text, param=where or None), 400)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, headers=error.headers)
