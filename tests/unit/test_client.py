"""The API as methods: what each sends, what counts as an answer, what is refused before sending."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from threading import Event
from typing import Any, cast

import pytest
from raw_server import RawServer, answer

from tracer import client
from tracer.client import AsyncClient, Client, request_for
from tracer.errors import ConfigError, SessionNotFoundError, TransientError
from tracer.schema import OPERATIONS, Operation

ID = "7f0c3f0e-6e2c-4b0a-9d43-1d2f3a4b5c6d"
EVENT: dict[str, Any] = {"event_type": "tool", "inputs": {"q": 1}}
STORED = json.dumps({"event_id": ID, "session_id": ID}).encode()

Call = Callable[[Any], Any]

# one row a method: the call, method and path, the body sent, the answer
CALLS: dict[str, tuple[Call, str, Any, dict[str, Any]]] = {
    "sessions.create": (
        lambda c: c.sessions.create(session_name="chat", start_time=1.5, children_ids=["a"]),
        "POST /v1/sessions",
        {"session_name": "chat", "start_time": 1.5, "children_ids": ["a"]},
        {"session_id": ID},
    ),
    "sessions.create_event_batch": (
        lambda c: c.sessions.create_event_batch(ID, (EVENT,)),
        f"POST /v1/sessions/{ID}/events/batch",
        {"events": [EVENT]},
        {"success": True},
    ),
    "events.create": (
        lambda c: c.events.create(**EVENT, error=None),
        "POST /v1/events",
        {**EVENT, "error": None},
        {"success": True, "event_id": ID},
    ),
    "events.create_batch": (
        lambda c: c.events.create_batch([EVENT], single_session=False),
        "POST /v1/events/batch",
        {"events": [EVENT], "single_session": False},
        {"success": True, "event_ids": [ID]},
    ),
    "events.update": (
        lambda c: c.events.update(ID, feedback={"rating": 5}),
        f"PUT /v1/events/{ID}",
        {"feedback": {"rating": 5}},
        {"success": True},
    ),
    "events.get": (
        lambda c: c.events.get("a/b ?#é"),
        "GET /v1/events/a%2Fb%20%3F%23%C3%A9",
        None,
        {"event": {"event_id": ID}},
    ),
    "events.search": (
        lambda c: c.events.search(
            [{"field": "source", "operator": "exists"}],
            date_range={"start_time": "2026-01-01"},
            limit=2,
            page=1,
            ignore_order=True,
        ),
        "POST /v1/events/search",
        {
            "filters": [{"field": "source", "operator": "exists"}],
            "dateRange": {"start_time": "2026-01-01"},
            "limit": 2,
            "page": 1,
            "ignore_order": True,
        },
        {"events": [], "totalEvents": 0},
    ),
}


def call_blocking(url: str, call: Call) -> Any:
    with Client("hh_key", url, 5.0) as found:
        return call(found)


def call_async(url: str, call: Call) -> Any:
    async def run() -> Any:
        async with AsyncClient("hh_key", url, 5.0) as found:
            return await cast("Awaitable[Any]", call(found))

    return asyncio.run(run())


both = pytest.mark.parametrize("run", [call_blocking, call_async], ids=["blocking", "async"])
OPERATION = {f"{o.group}.{o.name}": o for o in OPERATIONS}


def test_every_operation_has_a_row() -> None:
    assert CALLS.keys() == OPERATION.keys()


@both
@pytest.mark.parametrize("name", CALLS)
def test_method_sends_what_the_contract_says(name: str, run: Callable[..., Any]) -> None:
    call, line, body, said = CALLS[name]
    with RawServer(answer(200, json.dumps(said).encode())) as server:
        assert run(server.url, call) == said
    head, _, sent = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"{line} HTTP/1.1\r\n".encode())
    assert (json.loads(sent) if sent else None) == body


@both
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("said", [b"", b"<html/>", b"{}", b"[]", b'{"success": false}'])
def test_f17_no_stated_success_is_no_success(
    said: bytes, name: str, run: Callable[..., Any]
) -> None:
    with RawServer(answer(200, said)) as server, pytest.raises(TransientError):
        run(server.url, CALLS[name][0])
    assert len(server.requests) == 1


def test_call_makes_any_operation() -> None:
    with RawServer(answer(200, STORED)) as server:
        with Client("hh_key", server.url) as blocking:
            assert blocking.call(OPERATION["sessions.create"], {"source": "x"})["event_id"] == ID
        call_async(server.url, lambda c: c.call(OPERATION["sessions.create"], {"source": "x"}))
    assert [r.partition(b"\r\n\r\n")[2] for r in server.requests] == [b'{"source":"x"}'] * 2


def test_many_tasks_share_one_client() -> None:
    async def calls(url: str) -> Any:
        async with AsyncClient("hh_key", url, 10.0) as found:
            return await asyncio.gather(*(found.events.get(str(n)) for n in range(50)))

    with RawServer(answer(200, b'{"event": {}}')) as server:
        assert asyncio.run(calls(server.url)) == [{"event": {}}] * 50
    asked = {int(request.split(b" ")[1].rpartition(b"/")[2]) for request in server.requests}
    assert asked == set(range(50))


def test_a_cancelled_call_leaves_the_client_usable() -> None:
    held, go_on = Event(), Event()

    def hold_the_first(server: RawServer, connection: socket.socket, request: bytes) -> None:
        if b"/first" in request:
            held.set()
            go_on.wait(10)
        answer(200, b'{"event": {}}')(server, connection, request)

    async def run(url: str) -> Any:
        async with AsyncClient("hh_key", url, 10.0) as found:
            call = asyncio.create_task(found.events.get("first"))
            assert await asyncio.to_thread(held.wait, 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            go_on.set()
            return await found.events.get("second")

    with RawServer(hold_the_first) as server:
        assert asyncio.run(run(server.url)) == {"event": {}}


def test_an_event_that_is_not_there() -> None:
    with (
        RawServer(answer(404, b'{"message": "no such event"}')) as server,
        pytest.raises(SessionNotFoundError, match="no such event") as caught,
    ):
        call_blocking(server.url, lambda c: c.events.get(ID))
    assert caught.value.status == 404


WRONG: list[tuple[Call, type[Exception], str]] = [
    (lambda c: c.sessions.create(session_nam="x"), TypeError, "no field session_nam; allowed are"),
    (lambda c: c.events.create(inputs={}), TypeError, "needs the field event_type"),
    (lambda c: c.sessions.create(start_time="now"), ValueError, "start_time must be a number"),
    (lambda c: c.sessions.create(start_time=float("nan")), ValueError, "a number, not nan"),
    (lambda c: c.sessions.create(start_time=True), ValueError, "a number, not boolean"),
    (lambda c: c.sessions.create(children_ids=[1]), ValueError, r"children_ids\[0\] must be"),
    (
        lambda c: c.events.create(event_type="agent", inputs={}),
        ValueError,
        "event_type must be one of chain, model, tool, session, not 'agent'",
    ),
    (
        lambda c: c.sessions.create_event_batch(ID, [EVENT, {"inputs": 1, "x": 2}]),
        ValueError,
        r"events\[1\] lacks the required field event_type; events\[1\].inputs must be",
    ),
    (lambda c: c.sessions.create(metadata={"x": object()}), TypeError, "written as JSON"),
    (lambda c: c.sessions.create(metadata={"x": 2**64}), TypeError, "written as JSON"),
    (lambda c: c.sessions.create(session_name="\ud800"), TypeError, "written as JSON"),
    (lambda c: c.events.get(7), ValueError, "event_id must be a string"),
    (lambda c: c.events.get(""), ValueError, "event_id must not be ''"),
    (lambda c: c.events.update("..", outputs={}), ValueError, "event_id must not be '..'"),
]


@both
@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_what_is_wrong_is_refused_before_sending(
    call: Call, kind: type[Exception], message: str, run: Callable[..., Any]
) -> None:
    with RawServer(answer(200, STORED)) as server, pytest.raises(kind, match=message):
        run(server.url, call)
    assert server.connections == 0


def test_answers_are_bounded_by_operation() -> None:
    bounds = {
        name: request_for(operation, fields_for(operation)).max_answer
        for name, operation in OPERATION.items()
    }
    assert bounds.pop("sessions.create") == 4 << 20
    assert bounds.pop("events.get") == 4 << 20
    assert bounds.pop("events.search") == 64 << 20
    assert set(bounds.values()) == {64 << 10}


def fields_for(operation: Operation) -> dict[str, Any]:
    some: dict[str, Any] = {"session_id": ID, "event_id": ID, "events": [EVENT], **EVENT}
    return {name: some[name] for name in operation.flat_required()}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_without_key_and_url_nothing_is_called(kind: type[Client | AsyncClient]) -> None:
    with pytest.raises(ConfigError, match="no API key: set HH_API_KEY"):
        kind()
    with pytest.raises(ConfigError, match="argument base_url: must be a http"):
        kind("hh_key", "ftp://x")
    with pytest.raises(ConfigError, match="plain http beyond loopback"):
        kind("hh_key", "http://example.test")
    kind("hh_key", "http://example.test", allow_http=True)


def test_methods_keep_name_and_description() -> None:
    assert Client("k").sessions.create.__doc__ == AsyncClient("k").sessions.create.__doc__
    for group, names in (
        (Client("k").sessions, ["create", "create_event_batch"]),
        (Client("k").events, ["create", "create_batch", "update", "get", "search"]),
    ):
        assert all(getattr(group, name).__doc__ for name in names)


def test_exports_are_sorted() -> None:
    assert sorted(client.__all__) == client.__all__
