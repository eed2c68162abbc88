"""Errors as problem details (RFC 9457): what was wrong, never a value, and nothing of the server."""

from __future__ import annotations

import http.client
import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy.exc
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from sqlalchemy.exc import DataError, DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from profiles_schema.errors import (
    NotAllowed,
    ProfileNotFound,
    ServiceError,
    ServiceFailed,
    StaleProfile,
    TokenRefused,
    ValueRefused,
)
from profiles_schema.fastapi.requests import RequestLog, note, request_context
from profiles_schema.services.flows import sqlstate
from profiles_schema.services.refusals import failed_objects, failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

LOGGER: Final = logging.getLogger("profiles_schema.fastapi")

_MEDIA_TYPE: Final = "application/problem+json"
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}},
    },
}
_RESPONSE: Final[dict[str, Any]] = {
    "description": "Problem details (RFC 9457)",
    "content": {_MEDIA_TYPE: {"schema": _SCHEMA}},
}
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {"4XX": _RESPONSE, "5XX": _RESPONSE}
"""What OpenAPI says of errors: ``FastAPI(responses=PROBLEMS)``."""

_URN: Final = "urn:profiles-schema"
_POLICY_VIOLATION: Final = 1008  # of websockets
_SERVER_ERROR: Final = 1011
_RETRY_SECONDS: Final = 5
_NAME_SHOWN: Final = 100
_FAILED: Final = {
    "type": f"{_URN}:internal-error",
    "title": "Internal error",
    "status": 500,
    "detail": "The server failed. The log has the reason, under the id in X-Request-ID.",
}


def install(app: FastAPI) -> None:
    """Answer every error of this application with problem details, and log every request (``RequestLog``)."""
    app.add_middleware(RequestLog)
    handlers: dict[type[Exception], Any] = {
        ServiceError: _on_service_error,
        DBAPIError: _on_database_error,
        # Drivers let these pass as they are, when the server is not there; the pool has its own.
        ConnectionError: _on_no_answer,
        TimeoutError: _on_no_answer,
        sqlalchemy.exc.TimeoutError: _on_no_answer,
        RequestValidationError: _on_invalid_request,
        WebSocketRequestValidationError: _on_invalid_request,
        HTTPException: _on_http_exception,
        Exception: _on_bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _on_service_error(connection: HTTPConnection, error: Any) -> Response | None:
    note(
        connection, error=type(error).__name__, reason=getattr(error, "reason", None), sqlstate=getattr(error, "sqlstate", None)
    )  # fmt: skip
    headers = {}
    if isinstance(error, TokenRefused):
        challenge = 'Bearer error="invalid_token"' if error.reason != "missing" else "Bearer"
        headers["WWW-Authenticate"] = challenge
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(_RETRY_SECONDS)
    return await _answer(connection, error.problem(), headers)


async def _on_database_error(connection: HTTPConnection, error: Any) -> Response | None:
    refusal = refusal_of(error)
    if isinstance(refusal, ServiceFailed):
        LOGGER.error(
            "the database failed a request: SQLSTATE %s",
            refusal.sqlstate,
            extra={"event": "failed", "sqlstate": refusal.sqlstate, "objects": refusal.objects},
        )
    note(connection, sqlstate=sqlstate(error))
    return await _on_service_error(connection, refusal)


async def _on_no_answer(connection: HTTPConnection, error: Any) -> Response | None:
    LOGGER.error("a request had no answer: %s", type(error).__name__, extra={"event": "failed"})
    problem = ServiceFailed("A server that this request needs did not answer. Repeat the request later.")
    return await _on_service_error(connection, problem)


def refusal_of(error: DBAPIError) -> ServiceError:
    """The typed error for a database error that a route did not catch, without its words: they quote values."""
    state = sqlstate(error) or ""
    if state == "42501":
        return NotAllowed()
    if state == "PT409":
        return StaleProfile()
    if state == "P0002":
        return ProfileNotFound()
    # Data exceptions and broken rules are the request's fault, and would be the same the next time.
    is_unsendable = not state and (isinstance(error, DataError) or isinstance(_cause(error), ValueError))
    if state.startswith(("22", "23")) or is_unsendable:
        return ValueRefused(conflicts=state == "23505", objects=failed_objects(error))
    return failure(error)


def _cause(error: DBAPIError) -> BaseException | None:
    """What asyncpg raised: for a value that it cannot send, a ValueError without a SQLSTATE."""
    return None if error.orig is None else error.orig.__cause__


async def _on_invalid_request(connection: HTTPConnection, error: Any) -> Response | None:
    problem = {
        "type": f"{_URN}:invalid-request",
        "title": "Invalid request",
        "status": 422,
        "detail": "The request is not as this route expects it.",
        "errors": [_member(each) for each in error.errors()],
    }
    note(connection, error=type(error).__name__)
    return await _answer(connection, problem)


def _member(error: Mapping[str, Any]) -> dict[str, str]:
    """One broken rule: the place and the rule, without the input that broke it."""
    where, *path = [str(part)[:_NAME_SHOWN] for part in error["loc"]] or ["body"]
    if where != "body":
        return {"in": where, "name": ".".join(path), "detail": error["msg"]}
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    return {"pointer": f"#{pointer}", "detail": error["msg"]}


async def _on_http_exception(connection: HTTPConnection, error: Any) -> Response | None:
    if error.status_code in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return Response(status_code=error.status_code, headers=error.headers)
    problem = {
        "type": "about:blank",
        "title": http.client.responses.get(error.status_code, "Error"),
        "status": error.status_code,
    }
    if isinstance(error.detail, str) and error.detail != problem["title"]:
        problem["detail"] = error.detail
    return await _answer(connection, problem, error.headers)


async def _on_bug(connection: HTTPConnection, error: Any) -> Response | None:
    del error  # the server logs it
    # This handler answers outside of RequestLog.
    request_id = request_context(connection).get("request")
    return await _answer(connection, _FAILED, {"X-Request-ID": request_id} if request_id else {})


async def _answer(
    connection: HTTPConnection, problem: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response | None:
    if isinstance(connection, WebSocket):
        await connection.close(_SERVER_ERROR if problem["status"] >= 500 else _POLICY_VIOLATION, problem["title"])  # noqa: PLR2004
        return None
    # As ASCII: a name in the request may be half a surrogate pair, which no UTF-8 can hold.
    body = json.dumps(problem).encode("ascii")
    status = problem["status"]
    return Response(body, status, headers=dict(headers or {}), media_type=_MEDIA_TYPE)
