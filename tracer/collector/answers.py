"""Rows and refusals to the JSON of the contract; stored JSON goes out as it came in."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from tracer.collector.store import COLUMNS, IDS, OBJECTS, RefusedError, Row, id_text
from tracer.collector.validate import PROJECT
from tracer.schema import Event, SessionAnswer, fields_of

__all__ = ["ERROR_CODES", "answer", "error", "event", "refused", "search", "session"]

ERROR_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    421: "MISDIRECTED_REQUEST",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}

_EMPTY_OBJECT, _EMPTY_ARRAY = msgspec.Raw(b"{}"), msgspec.Raw(b"[]")
_EVENT = tuple(fields_of(Event))
_SESSION = tuple(fields_of(SessionAnswer))
_encode = msgspec.json.Encoder().encode


def answer(content: Any) -> Response:
    """Return a 200 with `content` as JSON; bytes are JSON already."""
    body = content if isinstance(content, bytes) else _encode(content)
    return Response(body, media_type="application/json")


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error in the one form the contract has for all of them."""
    content = {
        "statusCode": status,
        "message": message,
        "success": False,
        "errorCode": ERROR_CODES.get(status, f"HTTP_{status}"),
    }
    return Response(_encode(content), status, headers, "application/json")


def refused(refusal: RefusedError) -> Response:
    """Return the error a refusal stands for."""
    headers: dict[str, str] = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    return error(refusal.status, refusal.message, headers)


def event(row: Row) -> dict[str, Any]:
    """Return an event with the fields of `Event`; those that have no value yet are left out.

    So what is read can be sent again as it is: the contract takes no null but for `error`.
    """
    values = _values(row)
    return {n: values[n] for n in _EVENT if values[n] is not None or n == "error"}


def session(row: Row) -> dict[str, Any]:
    """Return the session event as `POST /v1/sessions` answers it."""
    values = _values(row)
    return {name: values.get(name, PROJECT) for name in _SESSION}


def search(rows: list[Row], total: int) -> bytes:
    """Return the answer of a search."""
    return _encode({"events": [event(row) for row in rows], "totalEvents": total})


def _values(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name in IDS:
        values[name] = id_text(values[name])
    for name in OBJECTS:
        text = values[name]
        values[name] = _EMPTY_OBJECT if text is None else msgspec.Raw(text)
    text = values["children_ids"]
    values["children_ids"] = _EMPTY_ARRAY if text is None else msgspec.Raw(text)
    return values
