"""One log record per request, with its id, route, status, user and time; never a path, a query or a value."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGGER: Final = logging.getLogger("profiles_schema.fastapi")

_RECORD: Final = "profiles_schema.request"
_SERVER_ERROR: Final = 500


class RequestLog:
    """Middleware: writes the record when a request has ended, and gives its id to the response and to the audit log.

    The record of the logger ``profiles_schema.fastapi`` has the extras ``event`` (request), ``request_id``, ``method``, ``route``
    (the template, as ``/profiles/{username}``; None where no route matched), ``status``, ``seconds`` until the response was sent,
    and, where they are known, ``user_id``, ``error`` (its name), ``reason`` and ``sqlstate``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and write its record."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = uuid.uuid4().hex
        record: dict[str, Any] = {"event": "request", "request_id": request_id, "method": scope["method"]}
        scope[_RECORD] = record

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                record["seconds"] = time.perf_counter() - began

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:
            # The server's own handler answers it, outside of this middleware.
            record.setdefault("status", _SERVER_ERROR)
            record["error"] = type(error).__name__
            raise
        finally:
            record["route"] = _template(scope)
            record.setdefault("status", None)
            record.setdefault("seconds", time.perf_counter() - began)
            level = logging.ERROR if (record["status"] or 0) >= _SERVER_ERROR else logging.INFO
            LOGGER.log(
                level, "%s %s: %s in %.1f ms", record["method"], record["route"], record["status"],
                record["seconds"] * 1000, extra=record,
            )  # fmt: skip


def _template(scope: Scope) -> str | None:
    """The path of the route that matched, as it was declared, with the prefixes of its routers."""
    # Newer versions of FastAPI keep the route of an included router as it is, and its whole path here.
    included = scope.get("fastapi", {}).get("effective_route_context")
    template = getattr(included, "path_format", None) or getattr(scope.get("route"), "path", None)
    return None if template is None else str(template)


def note(connection: HTTPConnection, **details: Any) -> None:
    """Add to the record of a request, if one is kept."""
    connection.scope.get(_RECORD, {}).update({name: value for name, value in details.items() if value is not None})


def request_context(connection: HTTPConnection) -> dict[str, Any]:
    """What the audit log keeps beside changes that this request makes."""
    request_id = connection.scope.get(_RECORD, {}).get("request_id")
    return {} if request_id is None else {"request": request_id}
