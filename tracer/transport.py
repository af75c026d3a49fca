"""One request, one answer, and a status as an error class; nothing here waits, queues or resends.

The blocking transport drives httpcore, the engine inside httpx, through its documented network
backend. That buys two things httpx.Client cannot give: a deadline for the whole attempt (its
timeouts count from one socket operation to the next, so a server that sends a byte a second is
waited for without end), and silence (httpx.Client logs each request at INFO through the logger
"httpx", which belongs to the user's program). Everything else is httpx: URLs, requests, responses,
TLS settings, proxies, and a client of the user's own where one is given.
"""

from __future__ import annotations

import platform
import re
import ssl
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from importlib.util import find_spec
from time import monotonic
from typing import Any, Protocol, cast
from urllib.request import getproxies, proxy_bypass

import anyio
import httpcore
import httpx
import orjson

from tracer.config import Connection, is_loopback, mask_key
from tracer.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    PayloadTooLargeError,
    RejectedError,
    SessionNotFoundError,
    TransientError,
    TransportError,
)
from tracer.version import __version__

__all__ = [
    "MAX_ANSWER",
    "AsyncHttpTransport",
    "HttpTransport",
    "Request",
    "Transport",
    "error_for",
    "parsed",
]

MAX_ANSWER = 64 << 10  # bytes; an acknowledgement has some dozens, one of 1,000 ids 40,000
MAX_RETRY_AFTER = 300.0  # seconds; no header may silence us longer
CONNECT_TIMEOUT = 5.0  # seconds; a server that is there accepts in milliseconds
KEEPALIVE = 4.0  # seconds; uvicorn and node drop idle connections after 5: be the first to let go
PIECE = 16 << 10  # bytes a write: one TLS record, and so the deadline is looked at between them
EXCERPT = 200  # characters of an answer that is not the contract's
MESSAGE = 2000  # characters of the contract's own message; it may list what is allowed

# Control and format characters: they could rewrite a terminal or reverse what is read there.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
_KINDS: Mapping[int, type[TransportError]] = dict.fromkeys((401, 403, 407), AuthError) | {
    404: SessionNotFoundError,
    409: ConflictError,
    413: PayloadTooLargeError,
}

# httpx names its errors as httpcore does
_NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ProxyError")
_TOO_LATE = (httpcore.TimeoutException, httpx.TimeoutException, TimeoutError)
_HTTPCORE = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError)
_HTTPX = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
# UnicodeError: getaddrinfo, of a host IDNA cannot spell; RuntimeError: a client the user closed
_FOREIGN = (*_TOO_LATE, *_HTTPCORE, *_HTTPX, OSError, UnicodeError, RuntimeError, zlib.error)


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask: `path` is quoted; a decoded answer beyond `max_answer` bytes is none."""

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    max_answer: int = MAX_ANSWER


class Transport(Protocol):
    """Where requests go: HTTP here, memory in tests."""

    def send(self, request: Request) -> bytes:
        """Send once and return the body of a 2xx answer; raise a TransportError otherwise."""
        ...

    def close(self) -> None: ...


class HttpTransport:
    """Send requests over HTTP; any number of threads may share one.

    A given `http_client` is used instead of a pool of our own and never closed here. The deadline
    is then looked at whenever a piece of the answer arrives; httpx's timeouts bound the rest.
    """

    def __init__(self, connection: Connection, http_client: httpx.Client | None = None) -> None:
        self._connection = connection
        self._wire: _Wire | None = None
        self._open: Callable[[httpx.Request], httpx.Response]
        if http_client is None:
            self._wire = _Wire(connection.base_url)
            self._open = self._wire.handle_request
        else:
            self._open = partial(http_client.send, stream=True, follow_redirects=False)

    def send(self, request: Request) -> bytes:
        """Send once, within `connection.timeout` in all; return the body of a 2xx answer.

        Raises: TransportError: the subclass says what to do about it.
        """
        attempt = _Attempt(self._connection, request)
        try:
            response = self._open(attempt.outgoing())
            try:
                attempt.start(response)
                for piece in response.iter_raw():
                    if not attempt.feed(piece):
                        break
            finally:
                response.close()
        except _FOREIGN as error:
            raise attempt.failure(error) from error
        return attempt.answer()

    def close(self) -> None:
        """Close the pool; a client that was passed in stays open."""
        if self._wire is not None:
            self._wire.close()


class AsyncHttpTransport:
    """Send requests over HTTP from asyncio or trio; arguments as for `HttpTransport`."""

    def __init__(
        self, connection: Connection, http_client: httpx.AsyncClient | None = None
    ) -> None:
        self._connection = connection
        self._own: httpx.AsyncHTTPTransport | None = None
        self._open: Any
        if http_client is None:
            # httpx's transport, not its client: the client is what logs at INFO
            self._own = httpx.AsyncHTTPTransport(
                verify=_tls(connection.base_url),
                proxy=_proxy_for(connection.base_url),
                limits=httpx.Limits(keepalive_expiry=KEEPALIVE),
            )
            self._open = self._own.handle_async_request
        else:
            self._open = partial(http_client.send, stream=True, follow_redirects=False)

    async def send(self, request: Request) -> bytes:
        """Send once, within `connection.timeout` in all; return the body of a 2xx answer.

        Raises: TransportError: the subclass says what to do about it.
        """
        attempt = _Attempt(self._connection, request)
        try:
            with anyio.fail_after(self._connection.timeout):
                # Half for the connection and half for TLS: httpcore (1.0.9) closes a handshake
                # that ran out of time, and forgets one that was cancelled.
                outgoing = attempt.outgoing(connect=self._connection.timeout / 2)
                response: httpx.Response = await self._open(outgoing)
                try:
                    attempt.start(response)
                    async for piece in response.aiter_raw():
                        if not attempt.feed(piece):
                            break
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
        except _FOREIGN as error:
            raise attempt.failure(error) from error
        return attempt.answer()

    async def aclose(self) -> None:
        """Close the pool; a client that was passed in stays open."""
        if self._own is not None:
            await self._own.aclose()


class _Attempt:
    """One request and what has come of it: everything about an exchange but the I/O."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._deadline = monotonic() + connection.timeout
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._body = bytearray()
        self._room = request.max_answer
        self._inflate: Any = None
        self._complete = True

    def outgoing(self, connect: float = CONNECT_TIMEOUT) -> httpx.Request:
        """Return the request as httpx has it, with a timeout for each kind of operation."""
        connection, request = self._connection, self._request
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # answers are small, and a bomb is not asked for
            "User-Agent": f"tracer-sdk/{__version__} Python/{platform.python_version()}",
            "hh-client-package": "tracer-sdk",
            "hh-client-version": __version__,
            "hh-client-language": "python",
        }
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if connection.api_key:
            headers["Authorization"] = f"Bearer {connection.api_key}"
        connect = min(CONNECT_TIMEOUT, connection.timeout, connect)
        timeout = httpx.Timeout(connection.timeout, connect=connect)
        return httpx.Request(
            request.method,
            connection.base_url + request.path,
            headers=headers,
            content=request.body,
            extensions={"timeout": timeout.as_dict()},
        )

    def start(self, response: httpx.Response) -> None:
        """Take the status and the headers of the answer."""
        self._status, self._headers = response.status_code, response.headers
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if not self._succeeded:
            self._room = MAX_ANSWER  # of a refusal only the message is read
        if encoding == "gzip":
            self._inflate = zlib.decompressobj(31)  # zlib's number for a gzip header
        elif encoding not in ("identity", ""):
            raise httpx.DecodingError(f"encoded as {encoding!r}, which was not asked for")

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body as it came over the wire; tell whether more is wanted."""
        if monotonic() > self._deadline:
            raise TimeoutError
        room = self._room - len(self._body)
        if self._inflate is not None:
            # Never decodes more than fits: a kilobyte of gzip may stand for a megabyte.
            piece = self._inflate.decompress(piece, room + 1)
        self._complete = len(piece) <= room
        self._body += piece[:room]
        return self._complete

    def answer(self) -> bytes:
        """Return the body of a 2xx answer that fits and is whole; raise for any other."""
        if not self._succeeded:
            raise self._refusal()
        where = self._connection.base_url
        if not self._complete:
            # Maybe it was done, but nobody can tell: as unknown an outcome as no answer.
            raise TransientError(
                f"the answer of {where} is longer than {self._room:,} bytes", self._status
            )
        if self._inflate is not None and not self._inflate.eof:
            raise TransientError(f"the answer of {where} ends early", self._status)
        return bytes(self._body)

    def failure(self, error: Exception) -> TransportError:
        """Return the error to raise for a foreign one."""
        _drop_frames(error)
        if self._status and not self._succeeded:
            return self._refusal()  # the status says more than how its message got lost
        where = self._connection.base_url
        why = _clean(str(error), EXCERPT) or type(error).__name__
        kind = type(error).__name__
        if kind == "ProxyError" and why.startswith("407"):
            return AuthError(f"the proxy before {where} wants a login: {why}", 407)
        if kind in _NO_CONNECTION:
            return TransientError(f"cannot reach {where}: {why}")
        if isinstance(error, _TOO_LATE):
            return TransientError(f"no answer from {where} within {self._connection.timeout:g} s")
        return TransientError(f"no usable answer from {where}: {why}", self._status or None)

    @property
    def _succeeded(self) -> bool:
        return 200 <= self._status <= 299

    def _refusal(self) -> TransportError:
        body, key = bytes(self._body), self._connection.api_key
        if key:  # a debug page may repeat the request, the key with it
            body = body.replace(key.encode(), mask_key(key).encode())
        return error_for(self._status, self._headers, body)


class _Wire(httpx.BaseTransport):
    """httpcore's pool over sockets that know the deadline of the attempt they serve."""

    def __init__(self, base_url: str) -> None:
        self._pool = _pool(base_url, _proxy_for(base_url))

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
            extensions={"timeout": {**moments, "pool": durations["pool"]}},
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
    common["ssl_context"] = _tls(base_url)
    if proxy is None:
        return httpcore.ConnectionPool(**common)
    kind = httpcore.SOCKSProxy if proxy.url.scheme.startswith("socks") else httpcore.HTTPProxy
    return kind(str(proxy.url), proxy_auth=proxy.raw_auth, **common)


def _tls(base_url: str) -> ssl.SSLContext:
    if base_url.startswith("https:"):
        return httpx.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; reading certificates takes 20 ms


def _proxy_for(base_url: str) -> httpx.Proxy | None:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"base_url: {base_url!r} is no URL ({error})") from None
    found = getproxies()
    proxy = found.get(url.scheme) or found.get("all")
    if not proxy or is_loopback(url.host) or proxy_bypass(url.host):
        return None
    if proxy.startswith("socks") and find_spec("socksio") is None:
        raise ConfigError('the SOCKS proxy in the environment needs: pip install "httpx[socks]"')
    try:
        return httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
    except (ValueError, httpx.InvalidURL):  # not quoted: the URL of a proxy may hold a password
        raise ConfigError(f"the proxy in the environment for {url.scheme} is no URL") from None


def _drop_frames(error: BaseException | None) -> None:
    # The frames of httpcore and h11 hold the request's headers, the key with them, for every
    # reporter that prints local variables; what went wrong is in the messages.
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def error_for(status: int, headers: Mapping[str, str], body: bytes) -> TransportError:
    """Return the error that stands for an answer other than 2xx.

    Args:
        headers: looked up in lower case; `httpx.Headers` ignores case.
        body: what was read of it; the contract's error object, or whatever a proxy says.
    """
    message = _message(status, headers, body)
    if status in (408, 425, 429) or (500 <= status <= 599 and status not in (501, 505)):
        return TransientError(message, status, _retry_after(headers))
    return _KINDS.get(status, RejectedError)(message, status)


def _message(status: int, headers: Mapping[str, str], body: bytes) -> str:
    said = (_json_object(body) or {}).get("message")
    if isinstance(said, str):
        return _clean(said, MESSAGE)
    if 300 <= status <= 399 and headers.get("location"):
        return f"redirects to {_clean(headers['location'], EXCERPT)}, which is not followed"
    text = body[: 64 * EXCERPT].decode("utf-8", "replace")
    text = re.sub(r"<(style|script)\b.*?</\1>|<[^<>]*>", " ", text, flags=re.DOTALL)
    if excerpt := _clean(text, EXCERPT):
        return excerpt
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else "no message"


def _clean(text: str, most: int) -> str:
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
        text = _clean(body[:EXCERPT].decode("utf-8", "replace"), EXCERPT)
        raise TransientError(f"the answer is no JSON object: {text or 'empty'}", 200)
    if answer.get("success") is False or (states and answer.get(states) in (None, False)):
        said = answer.get("message")
        why = f": {_clean(said, EXCERPT)}" if isinstance(said, str) else ""
        raise TransientError(f"the answer states no {states or 'success'}{why}", 200)
    return answer


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
