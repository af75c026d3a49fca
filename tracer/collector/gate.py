"""Who may talk to the collector: looked at before routes and before any byte of a body."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tracer.collector.answers import error
from tracer.collector.body import MAX_BODY

__all__ = ["LOOPBACK_NAMES", "Gate", "host_name"]

# A page of evil.example may have its name resolve to 127.0.0.1; its requests still say the name.
LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
DRAINED = 4  # times the largest body; up to there the rest is read and thrown away
_WRITING = ("POST", "PUT", "PATCH")


class Gate:
    """ASGI middleware: host, origin, token and the kind of body, in this order.

    Args:
        hosts: names a request may be addressed to, None for any.
        token: what /v1 wants as bearer token, None for nothing.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, token: str | None) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is not let in, pass the rest on."""
        response = self._refuse(scope, Headers(scope=scope)) if scope["type"] == "http" else None
        await (response or self._app)(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if self._hosts is not None and host_name(host) not in self._hosts:
            allowed = ", ".join(sorted(self._hosts))
            return error(
                421, f"this collector answers to the hosts {allowed}, not to {host[:80]!r}"
            )
        if self._foreign(headers, host):
            return error(403, "pages of other sites may not talk to the collector")
        if scope["path"].startswith("/v1") and not self._has_token(headers):
            return error(
                401,
                "a bearer token is needed: send the collector's token as "
                "'Authorization: Bearer <token>'",
                {"WWW-Authenticate": "Bearer"},
            )
        return _refuse_body(headers) if scope["method"] in _WRITING else None

    def _foreign(self, headers: Headers, host: str) -> bool:
        """Tell whether a browser sent this for another site (Fetch Metadata, RFC 6454)."""
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return True
        origin = headers.get("origin")
        return origin is not None and urlsplit(origin).netloc.lower() != host.lower()

    def _has_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(errors="replace"), self._token
        )


def host_name(host: str) -> str:
    """Return the Host header without its port, in lower case; an IPv6 address keeps brackets."""
    name, colon, port = host.rpartition(":")
    return (name if colon and (port.isdecimal() or not port) else host).lower()


def _refuse_body(headers: Headers) -> Response | None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        return error(415, f"Content-Encoding {encoding[:80]!r} is not supported; send plain JSON")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # forms and text/plain need no consent of ours in a browser
        return error(415, f"Content-Type must be application/json, not {kind[:80] or 'missing'!r}")
    length = headers.get("content-length", "0")
    if (size := int(length[:15])) > MAX_BODY:  # h11 has made sure that it is a number
        # Closed at once, the client might not get to read this; no honest one sends that much.
        closing = {"Connection": "close"} if size > DRAINED * MAX_BODY else None
        return error(413, f"a body may have {MAX_BODY:,} bytes at most, not {size:,}", closing)
    return None
