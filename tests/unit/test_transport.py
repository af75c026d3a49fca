"""One request and its answer, against servers that behave as badly as servers do."""

from __future__ import annotations

import asyncio
import gzip
import logging
import shutil
import socket
import ssl
import subprocess
import time
import traceback
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from raw_server import RawServer, Script, answer

from tracer import transport, wire
from tracer.answers import error_for, parsed
from tracer.config import Connection
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
from tracer.transport import AsyncHttpTransport, HttpTransport, Request
from tracer.version import __version__

KEY = "hh_canary_1234567890abcd"
OK = b'{"success":true}'
POST = Request("POST", "/v1/events", b'{"a":1}')
GET = Request("GET", "/v1/events/x")
TIMEOUT = 0.6
GRACE = 0.5  # seconds a deadline may be missed by on a busy machine

Send = Callable[..., bytes]


def send_blocking(url: str, request: Request = POST, timeout: float = TIMEOUT) -> bytes:
    sender = HttpTransport(Connection(url, KEY, timeout))
    try:
        return sender.send(request)
    finally:
        sender.close()


def send_async(url: str, request: Request = POST, timeout: float = TIMEOUT) -> bytes:
    async def run() -> bytes:
        sender = AsyncHttpTransport(Connection(url, KEY, timeout))
        try:
            return await sender.send(request)
        finally:
            await sender.aclose()

    return asyncio.run(run())


both = pytest.mark.parametrize("send", [send_blocking, send_async], ids=["blocking", "async"])


def failure(send: Send, url: str, *arguments: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        send(url, *arguments)
    return caught.value


# --- what is sent ---------------------------------------------------------------------------


@both
def test_request_carries_the_headers_of_the_contract(send: Send) -> None:
    with RawServer(answer(200, OK)) as server:
        assert send(f"{server.url}/base", POST) == OK
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    assert first == "POST /base/v1/events HTTP/1.1"
    assert body == b'{"a":1}'
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert headers["hh-client-package"] == "tracer-sdk"
    assert headers["hh-client-version"] == __version__
    assert headers["hh-client-language"] == "python"
    assert headers["user-agent"].startswith(f"tracer-sdk/{__version__} ")


def test_without_a_key_no_authorization_is_sent() -> None:
    with RawServer(answer(200, OK)) as server:
        sender = HttpTransport(Connection(server.url, None, 1.0))
        sender.send(GET)
        sender.close()
    assert b"authorization" not in server.requests[0].lower()
    assert b"content-type" not in server.requests[0].lower()


def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * (4 << 12)  # 4 MiB
    with RawServer(answer(200, OK)) as server:
        assert send_blocking(server.url, Request("POST", "/x", body), 10.0) == OK
    assert server.requests[0].endswith(b"\r\n\r\n" + body)


def test_requests_share_a_connection() -> None:
    with RawServer(answer(200, OK)) as server:
        sender = HttpTransport(Connection(server.url, KEY, 1.0))
        for _ in range(3):
            sender.send(POST)
        sender.close()
    assert (server.connections, len(server.requests)) == (1, 3)


def test_a_server_that_closes_after_each_answer_is_no_failure() -> None:
    with RawServer(answer(200, OK, {"Connection": "close"})) as server:
        sender = HttpTransport(Connection(server.url, KEY, 1.0))
        for _ in range(3):
            sender.send(POST)
        sender.close()
    assert len(server.requests) == 3


def test_nothing_is_sent_twice() -> None:
    def cut(server: RawServer, connection: socket.socket, request: bytes) -> None:
        raise ConnectionAbortedError  # closes the connection

    for script in (cut, answer(503), answer(429), answer(408)):
        with RawServer(script) as server:
            failure(send_blocking, server.url)
        assert len(server.requests) == 1


def test_httpx_logs_nothing_about_our_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with RawServer(answer(200, OK)) as server:
        send_blocking(server.url)
        send_async(server.url)
    assert [r for r in caplog.records if r.name.startswith(("httpx", "httpcore"))] == []


# --- the deadline ---------------------------------------------------------------------------


def drip(data: bytes) -> Script:
    def script(server: RawServer, connection: socket.socket, request: bytes) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            server.pause(0.02)

    return script


def stall(server: RawServer, connection: socket.socket, request: bytes) -> None:
    server.pause(30)


def endless(server: RawServer, connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1\r\nx\r\n")
        server.pause(0.01)


SLOW: dict[str, Script] = {
    "answers nothing": stall,
    "drips its headers": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\nX-Pad: " + b"x" * 9999),
    "drips its body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999),
    "never ends": endless,
}


@both
@pytest.mark.parametrize("script", SLOW.values(), ids=SLOW)
def test_deadline_holds_for_a_server_that(script: Script, send: Send) -> None:
    with RawServer(script) as server:
        start = time.monotonic()
        error = failure(send, server.url)
        taken = time.monotonic() - start
    assert isinstance(error, TransientError)
    assert error.message == f"no answer from {server.url} within 0.6 s"
    assert TIMEOUT - 0.05 <= taken <= TIMEOUT + GRACE


@both
@pytest.mark.parametrize("pace", [0.0, 0.002], ids=["not at all", "slowly"])
def test_deadline_holds_for_a_server_that_reads(pace: float, send: Send) -> None:
    def read(server: RawServer, connection: socket.socket, request: bytes) -> None:
        while pace:
            connection.recv(4096)
            server.pause(pace)
        server.pause(30)

    with RawServer(read, reads=False) as server:
        start = time.monotonic()
        error = failure(send, server.url, Request("POST", "/x", bytes(64 << 20)))
        taken = time.monotonic() - start
    assert isinstance(error, TransientError)
    assert taken <= TIMEOUT + GRACE


def test_a_client_of_the_users_is_held_to_the_deadline_and_left_open() -> None:
    with RawServer(SLOW["drips its body"]) as server, httpx.Client() as client:
        sender = HttpTransport(Connection(server.url, KEY, TIMEOUT), client)
        start = time.monotonic()
        with pytest.raises(TransientError):
            sender.send(POST)
        assert time.monotonic() - start <= TIMEOUT + GRACE
        sender.close()
        assert not client.is_closed


def test_a_closed_client_of_the_users_is_no_crash() -> None:
    client = httpx.Client()
    client.close()
    with pytest.raises(TransientError, match="has been closed"):
        HttpTransport(Connection("http://127.0.0.1:1", KEY, 1.0), client).send(POST)


# --- broken and hostile answers ---------------------------------------------------------------


def say(data: bytes) -> Script:
    def script(server: RawServer, connection: socket.socket, request: bytes) -> None:
        connection.sendall(data)
        raise ConnectionAbortedError

    return script


BROKEN: dict[str, Script] = {
    "closes at once": say(b""),
    "speaks no HTTP": say(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "ends inside the headers": say(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "ends inside the body": say(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"),
    "ends inside a chunk": say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}"),
    "lies in its Content-Length": say(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
    "sends 100,000 headers": say(b"HTTP/1.1 200 OK\r\n" + b"X-Pad: x\r\n" * 100_000 + b"\r\n{}"),
    "encodes as it likes": answer(200, OK, {"Content-Encoding": "br"}),
    "says gzip and sends none": answer(200, OK, {"Content-Encoding": "gzip"}),
    "cuts its gzip": answer(200, gzip.compress(OK)[:-9], {"Content-Encoding": "gzip"}),
}


@both
@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_transient_for_a_server_that(script: Script, send: Send) -> None:
    with RawServer(script) as server:
        assert isinstance(failure(send, server.url, POST, 5.0), TransientError)


def huge(server: RawServer, connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(bytes(1_000_000))


BOMB = gzip.compress(bytes(256 << 20), 1)
TOO_LONG: dict[str, Script] = {
    "1 GB": huge,
    "gzip bomb": answer(200, BOMB, {"Content-Encoding": "gzip"}),
    "one byte": answer(200, b" " * (64 << 10) + b"x"),
}


@both
@pytest.mark.parametrize("script", TOO_LONG.values(), ids=TOO_LONG)
def test_an_answer_beyond_its_bound_is_no_answer_and_takes_no_memory(
    script: Script, send: Send
) -> None:
    with RawServer(script) as server:
        send_blocking_warm(server)
        tracemalloc.start()
        error = failure(send, server.url, POST, 5.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert isinstance(error, TransientError)
    assert error.message == f"the answer of {server.url} is longer than 65,536 bytes"
    assert peak < 8 << 20


def send_blocking_warm(server: RawServer) -> None:
    """Load what is loaded on first use, so that it is not counted as memory of the answer."""
    with pytest.raises(TransientError):
        send_blocking(server.url, POST, 5.0)
    with pytest.raises(TransientError):
        send_async(server.url, POST, 5.0)


@both
def test_an_answer_at_its_bound_is_read(send: Send) -> None:
    body = b" " * (64 << 10)
    for script in (
        answer(200, body),
        answer(200, gzip.compress(body), {"Content-Encoding": "gzip"}),
    ):
        with RawServer(script) as server:
            assert send(server.url, POST, 5.0) == body
    with RawServer(answer(200, body * 4)) as server:
        assert send(server.url, Request("GET", "/x", max_answer=1 << 20), 5.0) == body * 4


@both
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed_and_is_no_success(status: int, send: Send) -> None:
    with (
        RawServer(answer(200, OK)) as other,
        RawServer(answer(status, b"", {"Location": f"{other.url}/x"})) as server,
    ):
        error = failure(send, server.url)
    assert isinstance(error, RejectedError)
    assert error.status == status
    assert other.url in error.message
    assert other.connections == 0


@both
def test_a_refused_connection_names_the_server_and_why(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    error = failure(send, url)
    assert isinstance(error, TransientError)
    assert error.status is None
    assert error.message.startswith(f"cannot reach {url}: ")


@both
def test_the_status_counts_even_if_its_message_never_ends(send: Send) -> None:
    head = b"HTTP/1.1 401 No\r\nContent-Length: 99\r\n\r\n"

    def script(server: RawServer, connection: socket.socket, request: bytes) -> None:
        connection.sendall(head + b"who are you?")
        server.pause(30)

    with RawServer(script) as server:
        error = failure(send, server.url)
    assert isinstance(error, AuthError)
    assert error.message == "who are you?"


# --- TLS --------------------------------------------------------------------------------------


@both
def test_deadline_holds_for_a_handshake(send: Send) -> None:
    def accept(server: RawServer, connection: socket.socket, request: bytes) -> None:
        server.pause(30)

    with RawServer(accept, reads=False) as server:
        start = time.monotonic()
        error = failure(send, server.url.replace("http:", "https:"))
        taken = time.monotonic() - start
    assert isinstance(error, TransientError)
    assert taken <= TIMEOUT + GRACE


@both
def test_f11_a_certificate_nobody_vouches_for_gets_nothing(send: Send, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    pem = str(tmp_path / "self.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run(  # noqa: S603 - our own command
        [openssl, *make, "-keyout", pem, "-out", pem], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    got = []

    def shake(server: RawServer, connection: socket.socket, request: bytes) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            got.append(secure.recv(1))

    with RawServer(shake, reads=False) as server:
        error = failure(send, f"https://localhost:{server.port}", POST, 5.0)
    assert isinstance(error, TransientError)
    assert "certificate verify failed" in error.message
    assert got in ([], [b""])


# --- proxies ----------------------------------------------------------------------------------


@both
def test_loopback_is_never_proxied(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(answer(200, OK)) as server, RawServer(answer(502)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert send(server.url) == OK
        assert send(server.url.replace("127.0.0.1", "localhost")) == OK
    assert proxy.connections == 0


@both
def test_other_hosts_are_reached_through_the_proxy(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answer(200, OK)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert send("http://collector.test") == OK
        assert proxy.requests[0].startswith(b"POST http://collector.test/v1/events ")
        monkeypatch.setenv("no_proxy", "collector.test")
        assert failure(send, "http://collector.test").message.startswith("cannot reach")
    assert proxy.connections == 1


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_login_is_an_auth_error(
    scheme: str, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answer(407)) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
        error = failure(send, f"{scheme}://collector.test")
    assert isinstance(error, AuthError)
    assert error.status == 407


def test_a_proxy_that_is_no_url_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "ftp://user:secret@proxy.test")
    with pytest.raises(ConfigError) as caught:
        HttpTransport(Connection("https://collector.test", KEY, 1.0))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("make", [HttpTransport, AsyncHttpTransport])
def test_a_socks_proxy_without_its_library_is_a_config_error(
    make: type[HttpTransport | AsyncHttpTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://proxy.test:1080")
    monkeypatch.setattr(transport, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"httpx\[socks\]"):
        make(Connection("https://collector.test", KEY, 1.0))
    make(Connection("http://127.0.0.1:1", KEY, 1.0))  # loopback needs no proxy


# --- the key ----------------------------------------------------------------------------------


EVERY_FAILURE = {**SLOW, **BROKEN, **TOO_LONG, "refuses": answer(401)}


@both
@pytest.mark.parametrize("script", EVERY_FAILURE.values(), ids=EVERY_FAILURE)
def test_s11_the_key_is_nowhere_in_a_failure(
    script: Script, send: Send, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with RawServer(script) as server:
        try:
            send(server.url)
        except TransportError as error:
            caught = error
    frames = traceback.TracebackException.from_exception(caught, capture_locals=True)
    assert KEY not in "".join(frames.format())
    assert KEY not in caplog.text
    cause: BaseException | None = caught
    while cause is not None:
        assert KEY not in f"{cause!r} {cause.args!r}"
        cause = cause.__cause__ or cause.__context__


def test_s11_frames_that_hold_the_headers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: object, buffer: bytes, timeout: float | None = None) -> None:
        raise httpcore.WriteTimeout from OSError("lost")

    monkeypatch.setattr(wire._Stream, "write", lost)
    with RawServer(stall) as server:
        error = failure(send_blocking, server.url)
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "".join(frames.format())
    assert "WriteTimeout" in text
    assert KEY not in text


# --- errors -----------------------------------------------------------------------------------

STATUSES = {
    TransientError: [408, 425, 429, 500, 502, 503, 504, 507, 520, 599],
    AuthError: [401, 403, 407],
    SessionNotFoundError: [404],
    ConflictError: [409],
    PayloadTooLargeError: [413],
    RejectedError: [304, 400, 402, 405, 406, 410, 415, 422, 451, 499, 501, 505, 600, 999],
}


@pytest.mark.parametrize(
    ("status", "kind"), [(status, kind) for kind, all_ in STATUSES.items() for status in all_]
)
def test_status_names_the_error(status: int, kind: type[TransportError]) -> None:
    error = error_for(status, {}, b'{"message": "no"}')
    assert type(error) is kind
    assert (error.status, error.message) == (status, "no")


def test_status_names_the_error_over_the_wire() -> None:
    for status, kind in ((404, SessionNotFoundError), (503, TransientError), (409, ConflictError)):
        with RawServer(answer(status, b'{"message": "no"}', {"Retry-After": "7"})) as server:
            error = failure(send_blocking, server.url)
        assert type(error) is kind
        assert getattr(error, "retry_after", 7.0) == 7.0


def in_seconds(seconds: float) -> str:
    moment = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return format_datetime(moment, usegmt=True)


RETRY_AFTER = {
    "2": 2.0,
    "0": 0.0,
    "1.5": 1.5,
    " 3 ": 3.0,
    "301": 300.0,
    "99999999": 300.0,
    "9" * 400: 300.0,
    "": None,
    "-1": None,
    "nan": None,
    "inf": None,
    "1e999": None,
    "soon": None,
    "1, 2": None,
    "٣": None,
    "Mon, 32 Foo 2026 99:99:99 GMT": None,
    "Sun, 06 Nov 1994 08:49:37 GMT": None,
}


@pytest.mark.parametrize(("text", "seconds"), RETRY_AFTER.items())
def test_f24_retry_after(text: str, seconds: float | None) -> None:
    error = error_for(429, {"retry-after": text}, b"")
    assert isinstance(error, TransientError)
    assert error.retry_after == seconds


def test_f24_retry_after_as_a_date() -> None:
    error = error_for(503, {"retry-after": in_seconds(30)}, b"")
    assert isinstance(error, TransientError)
    assert error.retry_after == pytest.approx(30, abs=2)
    far = error_for(503, {"retry-after": in_seconds(1e6)}, b"")
    assert isinstance(far, TransientError)
    assert far.retry_after == 300


def test_f28_a_date_is_read_by_the_servers_clock() -> None:
    headers = {"retry-after": in_seconds(7230), "date": in_seconds(7200)}  # two hours ahead of us
    error = error_for(503, headers, b"")
    assert isinstance(error, TransientError)
    assert error.retry_after == 30


MESSAGES = [
    (
        b'{"statusCode": 400, "message": "events[1] is wrong", "success": false}',
        "events[1] is wrong",
    ),
    (b'{"message": "a\\u001b[31mb\\nc"}', "a [31mb c"),
    (b'{"message": 7}', '{"message": 7}'),
    (b"", "Bad Request"),
    (b"\xff\xfe\x00", "��"),
    (b"<html><style>p {}</style><h1>502</h1>\n<p>Bad   Gateway</p>", "502 Bad Gateway"),
    (b"x" * 1000, "x" * 199 + "…"),
    (b"\x1b]0;title\x07\xc2\x9b31m \xe2\x80\xaeabc", "]0;title 31m abc"),
]


@pytest.mark.parametrize(("body", "message"), MESSAGES)
def test_message_is_the_contracts_or_a_short_clean_excerpt(body: bytes, message: str) -> None:
    assert error_for(400, {}, body).message == message


def test_a_key_that_a_page_repeats_is_masked() -> None:
    with RawServer(answer(400, f"<pre>Authorization: Bearer {KEY}</pre>".encode())) as server:
        error = failure(send_blocking, server.url, GET)
    assert error.message == "Authorization: Bearer hh_…abcd"


# --- stated success ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>ok</html>",
        b'{"success": tr',
        b"[]",
        b"true",
        b"{}",
        b'{"success": false, "message": "disk full"}',
        b'{"success": null}',
        b"[" * 100_000,
    ],
)
def test_f17_only_a_stated_success_counts(body: bytes) -> None:
    with pytest.raises(TransientError) as caught:
        parsed(body)
    assert caught.value.status == 200


def test_f17_what_counts() -> None:
    assert parsed(b'{"success": true, "event_ids": []}') == {"success": True, "event_ids": []}
    assert parsed(b'{"events": []}', "events") == {"events": []}
    assert parsed(b"{}", None) == {}
    with pytest.raises(TransientError, match="disk full"):
        parsed(b'{"success": false, "message": "disk full"}')


def test_exports_exist() -> None:
    assert sorted(transport.__all__, key=lambda n: (not n.isupper(), n)) == transport.__all__
    assert all(hasattr(transport, name) for name in transport.__all__)
