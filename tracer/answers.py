"""An answer read: a status as an error class, a message as one line, a success only when stated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, cast

import orjson

from tracer.errors import (
    AuthError,
    ConflictError,
    PayloadTooLargeError,
    RejectedError,
    SessionNotFoundError,
    TransientError,
    TransportError,
)

__all__ = ["EXCERPT", "clean_text", "error_for", "named_events", "parsed"]

MAX_RETRY_AFTER = 300.0  # seconds; no header may silence us longer
EXCERPT = 200  # characters of an answer that is not the contract's
MESSAGE = 2000  # characters of the contract's own message; it may list what is allowed

# Control and format characters: they could rewrite a terminal or reverse what is read there.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
_KINDS: Mapping[int, type[TransportError]] = dict.fromkeys((401, 403, 407), AuthError) | {
    404: SessionNotFoundError,
    409: ConflictError,
    413: PayloadTooLargeError,
}


def error_for(status: int, headers: Mapping[str, str], body: bytes) -> TransportError:
    """Return the error that stands for an answer other than 2xx.

    Args:
        headers: looked up in lower case; `httpx.Headers` ignores case.
        body: what was read of it; the contract's error object, or whatever a proxy says.
    """
    message = _message(status, headers, body)
    if status in (408, 425, 429) or (500 <= status <= 599 and status not in (501, 505)):
        # a gateway that got no usable answer cannot tell what became of it (RFC 9110 §15.6.3, .5)
        unknown = status in (502, 504)
        stored = named_events(_json_object(body) or {}) or frozenset()
        wish = _retry_after(headers)
        return TransientError(message, status, wish, unknown=unknown, stored=stored)
    return _KINDS.get(status, RejectedError)(message, status)


def _message(status: int, headers: Mapping[str, str], body: bytes) -> str:
    said = (_json_object(body) or {}).get("message")
    if isinstance(said, str):
        return clean_text(said, MESSAGE)
    if 300 <= status <= 399 and headers.get("location"):
        return f"redirects to {clean_text(headers['location'], EXCERPT)}, which is not followed"
    text = body[: 64 * EXCERPT].decode("utf-8", "replace")
    text = re.sub(r"<(style|script)\b.*?</\1>|<[^<>]*>", " ", text, flags=re.DOTALL)
    if excerpt := clean_text(text, EXCERPT):
        return excerpt
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else "no message"


def clean_text(text: str, most: int) -> str:
    """Return foreign text as one printable line of at most `most` characters."""
    line = " ".join(_UNPRINTABLE.sub(" ", text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After, seconds or an HTTP-date (RFC 9110 §10.2.3); None if it says nothing."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
        return min(float(text), MAX_RETRY_AFTER)
    moment = _http_date(text)
    if moment is None:
        return None
    # By the server's own clock where it tells the time: ours may be hours off.
    now = _http_date(headers.get("date", "")) or datetime.now(timezone.utc)
    seconds = (moment - now).total_seconds()
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def parsed(body: bytes, states: str | None = "success") -> dict[str, Any]:
    """Return the JSON object of a 2xx answer; its member `states` must be there and be true.

    Only a stated success counts: HTML of a proxy, half an object or `"success": false` leave the
    outcome as unknown as no answer would, and raise a TransientError.
    """
    answer = _json_object(body)
    if answer is None:
        text = clean_text(body[:EXCERPT].decode("utf-8", "replace"), EXCERPT)
        raise TransientError(f"the answer is no JSON object: {text or 'empty'}", 200, unknown=True)
    if answer.get("success") is False or (states and answer.get(states) in (None, False)):
        said = answer.get("message")
        why = f": {clean_text(said, EXCERPT)}" if isinstance(said, str) else ""
        raise TransientError(f"the answer states no {states or 'success'}{why}", 200, unknown=True)
    return answer


def named_events(answer: dict[str, Any]) -> frozenset[str] | None:
    """Return the ids an answer names as stored; None when it has no such list."""
    found: Any = answer.get("event_ids")
    if not isinstance(found, list):
        return None
    return frozenset(map(str, cast("list[object]", found)))


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
