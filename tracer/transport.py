"""One request, one answer, and a status as an error class; nothing here waits, queues or resends.

The blocking transport drives httpcore, the engine inside httpx, over the sockets of wire.py: that
holds each attempt to one deadline, and stays out of the logger "httpx", where httpx.Client writes
a line for each request of the user's program. Everything else is httpx: URLs, requests, responses,
TLS settings, proxies, and a client of the user's own where one is given.
"""

from __future__ import annotations

import platform
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from time import monotonic
from typing import Any, Protocol
from urllib.request import getproxies, proxy_bypass

import anyio
import httpcore
import httpx

from tracer.answers import EXCERPT, clean_text, error_for
from tracer.config import Connection
from tracer.errors import (
    AuthError,
    ConfigError,
    TransientError,
    TransportError,
)
from tracer.settings import is_loopback, mask_key
from tracer.version import __version__
from tracer.wire import KEEPALIVE, Wire, tls_settings

__all__ = [
    "MAX_ANSWER",
    "AsyncHttpTransport",
    "HttpTransport",
    "Request",
    "Transport",
]

MAX_ANSWER = 64 << 10  # bytes; an acknowledgement has some dozens, one of 1,000 ids 40,000
STEP = 64 << 10  # bytes that are decoded at once
CONNECT_TIMEOUT = 5.0  # seconds; a server that is there accepts in milliseconds

# httpx names its errors as httpcore does
_NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ProxyError")
_TOO_LATE = (httpcore.TimeoutException, httpx.TimeoutException, TimeoutError)
_HTTPCORE = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError)
_HTTPX = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
# what can only happen once a connection stands: the request, or its beginning, was sent
_HTTPX_CUT = (httpx.NetworkError, httpx.RemoteProtocolError)
_CUT = (httpcore.NetworkError, httpcore.RemoteProtocolError, *_HTTPX_CUT)
_UNUSABLE = (*_CUT, httpx.StreamError, httpx.DecodingError, zlib.error, OSError)
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
        self._wire: Wire | None = None
        self._open: Callable[[httpx.Request], httpx.Response]
        if http_client is None:
            self._wire = Wire(connection.base_url, _proxy_for(connection.base_url))
            self._open = self._wire.handle_request
        else:
            self._open = partial(http_client.send, stream=True, follow_redirects=False)

    def send(self, request: Request) -> bytes:
        """Send once, within `connection.timeout` in all; return the body of a 2xx answer.

        Raises: TransportError: the subclass says what to do about it.
        """
        attempt = _Attempt(self._connection, request)
        try:
            response = self._open(attempt.outgoing(watched=True))
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
                verify=tls_settings(connection.base_url),
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
        self._watched = self._connected = False

    def outgoing(self, connect: float = CONNECT_TIMEOUT, *, watched: bool = False) -> httpx.Request:
        """Return the request as httpx has it, with a timeout for each kind of operation.

        Args:
            watched: let httpcore say whether it opens a connection for it; blocking pools alone.
        """
        self._watched = watched
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
            extensions={
                "timeout": timeout.as_dict(),
                **({"trace": self._watch} if watched else {}),
            },
        )

    def _watch(self, event: str, _: object) -> None:
        """Take what httpcore does for this request, step by step (its "trace" extension)."""
        if event.endswith("connect_tcp.started"):  # else one that was idle is used again
            self._connected = True

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
        if self._inflate is None:
            return self._take(piece)
        # In steps: a kilobyte of gzip may stand for a megabyte, and twice the bound is too much.
        while self._take(part := self._inflate.decompress(piece, STEP)):
            piece = self._inflate.unconsumed_tail
            if not piece and len(part) < STEP:
                return True
        return False

    def _take(self, piece: bytes) -> bool:
        room = self._room - len(self._body)
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
                f"the answer of {where} is longer than {self._room:,} bytes",
                self._status,
                unknown=True,
            )
        if self._inflate is not None and not self._inflate.eof:
            raise TransientError(f"the answer of {where} ends early", self._status, unknown=True)
        return bytes(self._body)

    def failure(self, error: Exception) -> TransportError:
        """Return the error to raise for a foreign one."""
        _drop_frames(error)
        if self._status and not self._succeeded:
            return self._refusal()  # the status says more than how its message got lost
        where = self._connection.base_url
        why = clean_text(str(error), EXCERPT) or type(error).__name__
        kind = type(error).__name__
        if kind == "ProxyError" and why.startswith("407"):
            return AuthError(f"the proxy before {where} wants a login: {why}", 407)
        if kind in _NO_CONNECTION:
            return TransientError(f"cannot reach {where}: {why}")
        if isinstance(error, _TOO_LATE):
            late = f"no answer from {where} within {self._connection.timeout:g} s"
            return TransientError(late, unknown=kind != "PoolTimeout")
        return TransientError(
            f"no usable answer from {where}: {why}",
            self._status or None,
            unknown=isinstance(error, _UNUSABLE),
            # before any answer: the server let go of it while, or before, this was sent
            stale=self._watched
            and not (self._connected or self._status)
            and isinstance(error, _CUT),
        )

    @property
    def _succeeded(self) -> bool:
        return 200 <= self._status <= 299

    def _refusal(self) -> TransportError:
        body, key = bytes(self._body), self._connection.api_key
        if key:  # a debug page may repeat the request, the key with it
            body = body.replace(key.encode(), mask_key(key).encode())
        return error_for(self._status, self._headers, body)


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
