"""Connections that know the deadline of the attempt they serve: httpcore's pool, our sockets.

httpcore, the engine inside httpx, takes a network backend. Ours reads a timeout as the moment at
which to give up, since httpx's own count from one socket operation to the next and a server that
sends a byte a second would be waited for without end.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from time import monotonic
from typing import Any

import httpcore
import httpx

__all__ = ["KEEPALIVE", "Wire", "tls_settings"]

KEEPALIVE = 4.0  # seconds; uvicorn and node drop idle connections after 5: be the first to let go
PIECE = 16 << 10  # bytes a write: one TLS record, and so the deadline is looked at between them


class Wire(httpx.BaseTransport):
    """httpcore's pool over sockets that know the deadline of the attempt they serve."""

    def __init__(self, base_url: str, proxy: httpx.Proxy | None) -> None:
        self._pool = _pool(base_url, proxy)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        # httpcore hands these numbers to the backend untouched, and the backend is ours:
        # from here on they are moments of the monotonic clock instead of durations.
        durations, now = request.extensions["timeout"], monotonic()
        moments = {name: now + durations[name] for name in ("connect", "read", "write")}
        outgoing = httpcore.Request(
            request.method,
            str(request.url),
            headers=request.headers.raw,
            content=request.stream,
            extensions={**request.extensions, "timeout": {**moments, "pool": durations["pool"]}},
        )
        answer = self._pool.handle_request(outgoing)
        stream = _Body(answer.stream)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream)

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.close()


class _Sockets(httpcore.NetworkBackend):
    """httpcore's sockets, with a timeout read as the moment at which to give up."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **more: Any
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, *rest, **more))


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            piece = buffer[start : start + PIECE]
            self._inner.write(piece, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(moment: float | None, late: type[Exception]) -> float | None:
    if moment is None:
        return None
    left = moment - monotonic()
    if left <= 0:  # 0 would make the socket non-blocking
        raise late
    return left


def _pool(base_url: str, proxy: httpx.Proxy | None) -> httpcore.ConnectionPool:
    common: dict[str, Any] = {"keepalive_expiry": KEEPALIVE, "network_backend": _Sockets()}
    common["ssl_context"] = tls_settings(base_url)
    if proxy is None:
        return httpcore.ConnectionPool(**common)
    kind = httpcore.SOCKSProxy if proxy.url.scheme.startswith("socks") else httpcore.HTTPProxy
    return kind(str(proxy.url), proxy_auth=proxy.raw_auth, **common)


def tls_settings(base_url: str) -> ssl.SSLContext:
    if base_url.startswith("https:"):
        return httpx.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; reading certificates takes 20 ms
