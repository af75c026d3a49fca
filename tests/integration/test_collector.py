"""The collector as a process: every endpoint, every refusal, and what outlives kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from collector_process import CollectorProcess

from tracer.schema import OPERATIONS, Event, SessionAnswer, fields_of, required_of

WAIT = 20.0  # seconds until a condition counts as never met
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    with CollectorProcess.start(tmp_path_factory.mktemp("collector") / "c.db") as started:
        yield started


@pytest.fixture
def http(collector: CollectorProcess) -> Iterator[httpx.Client]:
    with client(collector) as opened:
        yield opened


def client(collector: CollectorProcess, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=collector.url, trust_env=False, timeout=WAIT, **options)


def event(**fields: Any) -> dict[str, Any]:
    return {"event_type": "tool", "inputs": {}, **fields}


def open_session(http: httpx.Client, **fields: Any) -> str:
    answer = http.post("/v1/sessions", json=fields)
    assert answer.status_code == 200, answer.text
    session_id: str = answer.json()["session_id"]
    return session_id


def read(http: httpx.Client, event_id: str) -> dict[str, Any]:
    answer = http.get(f"/v1/events/{event_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["event"]
    return found


def assert_refused(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert set(content) == {"statusCode", "message", "success", "errorCode"}
    assert (content["statusCode"], content["success"]) == (status, False)
    assert content["errorCode"].isupper()
    for word in words:
        assert word in content["message"]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        pause.wait(0.01)


# --- sessions ---


def test_a_session_is_answered_whole(http: httpx.Client) -> None:
    answer = http.post("/v1/sessions", json={"session_name": "chat", "inputs": {"q": 1}}).json()
    assert tuple(answer) == tuple(fields_of(SessionAnswer))
    assert answer["event_id"] == answer["session_id"]
    assert UUID(answer["session_id"]).version == 4
    assert (answer["event_type"], answer["event_name"], answer["source"]) == (
        "session",
        "chat",
        "unknown",
    )
    assert (answer["inputs"], answer["outputs"], answer["children_ids"]) == ({"q": 1}, {}, [])
    assert abs(answer["start_time"] - time.time() * 1000) < 60_000
    assert answer["error"] is answer["end_time"] is answer["duration"] is None


def test_posting_a_session_again_merges_two_fields_and_nothing_else(http: httpx.Client) -> None:
    session_id = str(uuid4())
    first = http.post(
        "/v1/sessions",
        json={
            "session_id": session_id, "session_name": "first", "start_time": 1000,
            "metadata": {"a": 1, "b": {"x": 1}}, "inputs": {"q": 1},
        },
    ).json()  # fmt: skip
    second = http.post(
        "/v1/sessions",
        json={
            "session_id": session_id, "session_name": "second", "start_time": 2000,
            "metadata": {"b": {"y": 2}, "c": 3}, "user_properties": {"u": 1}, "inputs": {"q": 2},
        },
    ).json()  # fmt: skip
    expected = {"metadata": {"a": 1, "b": {"y": 2}, "c": 3}, "user_properties": {"u": 1}}
    assert second == {**first, **expected}
    assert http.post("/v1/sessions", json={"session_id": session_id}).json() == second


def test_a_session_cannot_take_the_id_of_an_event(http: httpx.Client) -> None:
    event_id = http.post("/v1/events", json=event()).json()["event_id"]
    answer = http.post("/v1/sessions", json={"session_id": event_id})
    assert_refused(answer, 400, event_id, "tool event")


# --- events ---


def test_a_batch_is_stored_with_the_session_of_the_path(http: httpx.Client) -> None:
    session_id, event_id = open_session(http), str(uuid4())
    full = event(
        event_id=event_id, session_id=str(uuid4()), event_type="model", event_name="answer",
        source="test", project_id="p", parent_id=str(uuid4()), children_ids=["x"],
        config={"model": "m"}, inputs={"q": "é"}, outputs={"a": [1, 2.5, None]}, error="bad",
        start_time=1.5, end_time=2.5, duration=1.0, metadata={"cost": 1e-7},
        feedback={"rating": 5}, metrics={"n": 1}, user_properties={"id": "u"},
    )  # fmt: skip
    answer = http.post(f"/v1/sessions/{session_id}/events/batch", json={"events": [full]})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert set(full) == set(fields_of(Event))
    assert read(http, event_id) == {**full, "session_id": session_id}


def test_an_event_sent_again_changes_nothing(http: httpx.Client) -> None:
    session_id, event_id = open_session(http), str(uuid4())
    url = f"/v1/sessions/{session_id}/events/batch"
    assert http.post(url, json={"events": [event(event_id=event_id, event_name="1")]}).is_success
    before = read(http, event_id)
    new = str(uuid4())
    again = [event(event_id=event_id, event_name="2"), event(event_id=new)]
    assert http.post(url, json={"events": again}).json() == {"success": True}
    assert read(http, event_id) == before
    assert read(http, new)["session_id"] == session_id
    mine = {"filters": [{"field": "session_id", "operator": "is", "value": session_id}]}
    assert http.post("/v1/events/search", json=mine).json()["totalEvents"] == 3


def test_a_rejected_batch_stores_nothing(http: httpx.Client) -> None:
    session_id, event_id = open_session(http), str(uuid4())
    events = [event(event_id=event_id), event(inputs=1)]
    answer = http.post(f"/v1/sessions/{session_id}/events/batch", json={"events": events})
    assert_refused(answer, 400, "events[1].inputs must be an object")
    assert_refused(http.get(f"/v1/events/{event_id}"), 404, event_id)


def test_a_batch_across_sessions_makes_those_that_are_missing(http: httpx.Client) -> None:
    known, missing = open_session(http, session_name="known"), str(uuid4())
    ids = [str(uuid4()) for _ in range(3)]
    sessions = (known, missing, missing)
    events = [event(event_id=i, session_id=s) for i, s in zip(ids, sessions, strict=True)]
    answer = http.post("/v1/events/batch", json={"events": events}).json()
    assert answer == {"event_ids": ids, "success": True}
    assert read(http, missing)["event_name"] == "unknown"
    assert read(http, known)["event_name"] == "known"
    assert read(http, ids[2])["parent_id"] == missing


def test_a_single_session_takes_all_events(http: httpx.Client) -> None:
    body = {
        "events": [event(), event()],
        "single_session": True,
        "session_properties": {"session_name": "one", "metadata": {"a": 1}},
    }
    answer = http.post("/v1/events/batch", json=body).json()
    session = read(http, answer["session_id"])
    assert (session["event_name"], session["metadata"]) == ("one", {"a": 1})
    for event_id in answer["event_ids"]:
        assert read(http, event_id)["session_id"] == answer["session_id"]


def test_a_single_event_is_stored(http: httpx.Client) -> None:
    session_id, event_id = str(uuid4()), str(uuid4())
    answer = http.post("/v1/events", json=event(event_id=event_id, session_id=session_id))
    assert answer.json() == {"success": True, "event_id": event_id}
    assert read(http, session_id)["event_type"] == "session"
    lonely = http.post("/v1/events", json=event()).json()["event_id"]
    assert read(http, read(http, lonely)["session_id"])["event_name"] == "unknown"


def test_an_update_merges_objects_and_replaces_the_rest(http: httpx.Client) -> None:
    session_id = open_session(http, metadata={"a": 1, "b": {"x": 1}}, children_ids=["old"])
    url = f"/v1/events/{session_id}"
    change = {
        "metadata": {"b": {"y": 2}, "c": 3}, "outputs": {"o": 1}, "config": {"k": 1},
        "feedback": {"f": 1}, "metrics": {"m": 1}, "user_properties": {"u": 1},
        "duration": 12.5, "end_time": 99, "children_ids": ["new"],
    }  # fmt: skip
    before = read(http, session_id)
    assert http.put(url, json=change).json() == {"success": True}
    expected = {**before, **change, "metadata": {"a": 1, "b": {"y": 2}, "c": 3}}
    assert read(http, session_id) == expected
    assert http.put(url, json={"feedback": {"g": 2}}).is_success
    assert read(http, session_id) == {**expected, "feedback": {"f": 1, "g": 2}}
    assert http.put(url, json={}).json() == {"success": True}


def test_a_search_finds_events_and_sessions_newest_first(http: httpx.Client) -> None:
    session_id = open_session(http, start_time=1_000)
    events = [event(start_time=1_000 + n, event_name=str(n)) for n in (2, 1, 3)]
    http.post(f"/v1/sessions/{session_id}/events/batch", json={"events": events})
    request: dict[str, Any] = {
        "filters": [{"field": "session_id", "operator": "is", "value": session_id}],
        "dateRange": {"start_time": "1970-01-01T00:00:01Z", "end_time": "1970-01-01T00:00:02Z"},
        "ignore_order": True,
    }
    answer = http.post("/v1/events/search", json=request).json()
    assert [e["event_name"] for e in answer["events"]] == ["3", "2", "1", "unknown"]
    assert [e["event_type"] for e in answer["events"]] == ["tool"] * 3 + ["session"]
    assert answer["totalEvents"] == 4
    for found in answer["events"]:
        assert required_of(Event) <= set(found) <= set(fields_of(Event))
    second = http.post("/v1/events/search", json={**request, "limit": 3, "page": 2}).json()
    assert (len(second["events"]), second["totalEvents"]) == (1, 4)


def test_a_large_batch_is_read_beside_the_event_loop(http: httpx.Client) -> None:
    session_id = open_session(http)
    events = [event(inputs={"text": "x" * 4000}) for _ in range(500)]
    answer = http.post(f"/v1/sessions/{session_id}/events/batch", json={"events": events})
    assert answer.json() == {"success": True}


# --- what is refused ---

ID = "00000000-0000-4000-8000-00000000dead"
BATCH = f"/v1/sessions/{ID}/events/batch"
REFUSALS: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/v1/sessions", [], 400, "the request must be an object"),
    ("POST", "/v1/sessions", {"session": {}}, 400, "unknown field 'session'"),
    ("POST", "/v1/sessions", {"inputs": 1}, 400, "inputs must be an object"),
    ("POST", BATCH, {"events": []}, 404, f"no session {ID}"),
    ("POST", BATCH, {"events": [event()], "x": 1}, 400, "unknown field 'x'; allowed are events"),
    ("POST", BATCH, {"events": [event(x=1)]}, 400, "events[0] has the unknown field 'x'"),
    ("POST", BATCH, {"events": [{"inputs": {}}]}, 400, "events[0] lacks"),
    ("POST", BATCH, {"events": [{"event_type": "tool"}]}, 400, "required field inputs"),
    ("POST", BATCH, {"events": [event(event_type="x")]}, 400, "chain, model, tool, session"),
    ("POST", BATCH, {"events": [event(event_id="x")]}, 400, "events[0].event_id must be a UUID"),
    ("POST", "/v1/sessions/x/events/batch", {"events": []}, 400, "session_id in the path"),
    ("POST", "/v1/events/batch", {"events": [event()]}, 400, "events[0].session_id is missing"),
    ("POST", "/v1/events/batch", {"events": [event(session_id="x")]}, 400, "must be a UUID"),
    ("POST", "/v1/events/batch", {"events": [], "is_single_session": True}, 400, "single_session"),
    ("POST", "/v1/events/batch", {"events": [], "session": {}}, 400, "session_properties"),
    ("POST", "/v1/events/batch", {"events": [event(project="p")]}, 400, "project_id"),
    ("POST", "/v1/events", {"event": event()}, 400, "unknown field 'event'"),
    ("POST", "/v1/events", event(event_id="x"), 400, "event_id must be a UUID"),
    ("PUT", f"/v1/events/{ID}", {"outputs": {}}, 404, f"no event {ID}"),
    ("PUT", f"/v1/events/{ID}", {"inputs": {}}, 400, "unknown field 'inputs'; allowed are"),
    ("PUT", f"/v1/events/{ID}", {"outputs": 1}, 400, "outputs must be an object"),
    ("PUT", "/v1/events/x", {"outputs": {}}, 400, "event_id in the path must be a UUID"),
    ("GET", f"/v1/events/{ID}", None, 404, f"no event {ID}"),
    ("GET", "/v1/events/x", None, 400, "must be a UUID, not 'x'"),
    ("GET", "/v1/events/..%2f..%2fetc%2fpasswd", None, 404, "there is no GET"),
    ("POST", "/v1/events/search", {"filters": [{"field": "x"}]}, 400, "operator"),
    (
        "POST",
        "/v1/events/search",
        {"filters": [{"field": "source", "operator": "near", "value": 1}]},
        400,
        "filters[0].operator must be one of exists, not exists",
    ),
    ("GET", "/", None, 404, "/openapi.json"),
    ("GET", "/v2/sessions", None, 404, "there is no GET /v2/sessions"),
    ("POST", "/v1/sessions/", {}, 404, "there is no POST /v1/sessions/"),
    ("GET", "/v1/sessions", None, 405, "GET /v1/sessions is not allowed"),
    ("DELETE", f"/v1/events/{ID}", None, 405, "is not allowed"),
    ("POST", "/openapi.json", {}, 405, "is not allowed"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    REFUSALS,
    ids=[f"{m} {p} {w[:25]}" for m, p, _, _, w in REFUSALS],
)
def test_a_refusal_says_why(
    http: httpx.Client, method: str, path: str, body: Any, status: int, words: str
) -> None:
    content = None if body is None else json.dumps(body)
    answer = http.request(method, path, content=content, headers=JSON if content else None)
    assert_refused(answer, status, words)


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({}, 415, "application/json"),
        ({"Content-Type": "text/plain"}, 415, "not 'text/plain'"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        ({"Content-Type": "application/jsonx"}, 415, "application/json"),
        ({**JSON, "Content-Encoding": "gzip"}, 415, "gzip"),
        ({**JSON, "Content-Encoding": "gzip, gzip"}, 415, "not supported"),
        ({**JSON, "Content-Encoding": "br"}, 415, "br"),
        ({**JSON, "Origin": "https://evil.example"}, 403, "other sites"),
        ({**JSON, "Origin": "null"}, 403, "other sites"),
        ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403, "other sites"),
        ({**JSON, "Sec-Fetch-Site": "same-site"}, 403, "other sites"),
    ],
)
def test_requests_of_the_wrong_kind_are_refused(
    http: httpx.Client, headers: dict[str, str], status: int, words: str
) -> None:
    answer = http.post("/v1/sessions", content=b"{}", headers=headers)
    assert_refused(answer, status, words)
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_the_collector_itself_is_let_in(
    collector: CollectorProcess, http: httpx.Client
) -> None:
    own = {**JSON, "Origin": collector.url, "Sec-Fetch-Site": "same-origin"}
    utf8 = {"Content-Type": "Application/JSON; charset=utf-8", "Content-Encoding": "identity"}
    for headers in (own, utf8):
        assert http.post("/v1/sessions", content=b"{}", headers=headers).status_code == 200


def test_a_body_over_the_limit_is_refused_announced_or_not(
    collector: CollectorProcess, http: httpx.Client
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(33):
            yield b" " * (1 << 20)

    announced = b"Content-Length: 99999999999\r\n"
    raw = exchange(collector, request_head(collector, b"POST", announced) + b"{")
    assert raw.startswith(b"HTTP/1.1 413 ")
    assert_refused(http.post("/v1/sessions", content=chunks(), headers=JSON), 413, "33,554,432")
    whole = b" " * (40 << 20)
    assert_refused(http.post("/v1/sessions", content=whole, headers=JSON), 413, "41,943,040")
    assert open_session(http)


def test_deep_nesting_is_refused_quickly(http: httpx.Client) -> None:
    deep = b'{"event_type":"tool","inputs":{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}}"
    assert_refused(http.post("/v1/events", content=deep, headers=JSON), 400, "nested")
    assert open_session(http)


def request_head(collector: CollectorProcess, method: bytes, *headers: bytes) -> bytes:
    host = f"Host: 127.0.0.1:{collector.port}\r\n".encode()
    kind = b"Content-Type: application/json\r\n"
    return method + b" /v1/sessions HTTP/1.1\r\n" + host + kind + b"".join(headers) + b"\r\n"


def exchange(collector: CollectorProcess, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", collector.port), WAIT) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))  # until it is closed


HOSTS: list[tuple[bytes, int]] = [
    (b"GET /openapi.json HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: evil.com:PORT\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: localhost.evil.com:PORT\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1.nip.io:PORT\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: evil.com@127.0.0.1\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: localhost.\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: 2130706433:PORT\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: 0.0.0.0:PORT\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: \r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.0\r\n\r\n", 421),
    (b"GET http://127.0.0.1/openapi.json HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: evil.com\r\nHost: 127.0.0.1\r\n\r\n", 400),
    (b"GET /openapi.json HTTP/1.1\r\nX-Forwarded-Host: localhost\r\nHost: evil.com\r\n\r\n", 421),
    (b"GET /openapi.json HTTP/1.1\r\nHost: LOCALHOST:PORT\r\n\r\n", 200),
    (b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
    (b"GET /openapi.json HTTP/1.1\r\nHost: [::1]:PORT\r\n\r\n", 200),
]


@pytest.mark.parametrize(("request_", "status"), HOSTS)
def test_only_names_of_this_machine_are_answered(
    collector: CollectorProcess, request_: bytes, status: int
) -> None:
    port = str(collector.port).encode()
    closing = request_.replace(b"PORT", port).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = exchange(collector, closing)
    assert int(answer.split()[1]) == status
    assert (b'"openapi"' in answer) == (status == 200)


def test_openapi_has_the_operations_of_the_schema(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    found = {(path, m.upper()) for path, methods in document["paths"].items() for m in methods}
    assert found == {(o.path, o.method) for o in OPERATIONS}


# --- tokens ---


def test_a_token_is_wanted_by_every_endpoint_of_v1(tmp_path: Path) -> None:
    with (
        CollectorProcess.start(tmp_path / "c.db", token="s3cret") as collector,  # noqa: S106 - made up
        client(collector) as http,
    ):
        for operation in OPERATIONS:
            path = operation.path.format(session_id=ID, event_id=ID)
            for given in (
                None,
                "Bearer wrong",
                "Bearer",
                "Basic s3cret",
                "Bearer s3cret2",
                "s3cret",
            ):
                headers = {**JSON, **({"Authorization": given} if given else {})}
                answer = http.request(operation.method, path, content=b"{}", headers=headers)
                assert_refused(answer, 401, "bearer token")
                assert answer.headers["www-authenticate"] == "Bearer"
        assert_refused(http.get("/v1/nothing"), 401)
        assert http.get("/openapi.json").status_code == 200
        assert http.post("/v1/sessions", json={}, headers=collector.headers).status_code == 200
        assert "s3cret" not in Path(f"/proc/{collector.pid}/cmdline").read_text()


def test_without_a_token_any_key_is_taken_on_loopback(http: httpx.Client) -> None:
    answer = http.post("/v1/sessions", json={}, headers={"Authorization": "Bearer hh_any"})
    assert answer.status_code == 200


def test_beyond_loopback_a_token_is_needed(tmp_path: Path) -> None:
    refused = CollectorProcess(tmp_path / "c.db", host="0.0.0.0")  # noqa: S104 - what is tested
    with pytest.raises(AssertionError, match="HH_COLLECTOR_TOKEN"):
        refused.launch()
    assert not (tmp_path / "c.db").exists()
    with (
        CollectorProcess.start(
            tmp_path / "c.db",
            host="0.0.0.0",  # noqa: S104 - what is tested
            token="t",  # noqa: S106 - made up
        ) as collector,
        httpx.Client(base_url=f"http://127.0.0.1:{collector.port}", trust_env=False) as http,
    ):
        named = {"Host": "collector.example", **collector.headers}
        assert http.post("/v1/sessions", json={}, headers=named).status_code == 200
        assert_refused(http.post("/v1/sessions", json={}), 401)


# --- life and death ---


def test_it_is_ready_when_it_says_so_and_says_nothing_else(tmp_path: Path) -> None:
    with CollectorProcess.start(tmp_path / "new" / "c.db") as collector, client(collector) as http:
        assert collector.ready_line == (
            f"tracer collector ready at {collector.url} (database: {tmp_path}/new/c.db)\n"
        )
        assert collector.port != 0
        open_session(http)
        assert_refused(http.get("/"), 404)
        assert collector.stderr() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with CollectorProcess.start(tmp_path / "c.db") as collector:
        with client(collector) as http:
            session_id = open_session(http)
            collector.send_signal(number)
            assert collector.wait() == 0
        assert not (tmp_path / "c.db-wal").exists()
        collector.restart()
        with client(collector) as http:
            assert read(http, session_id)["event_id"] == session_id


def test_a_running_request_is_finished_before_the_end(tmp_path: Path) -> None:
    body = b'{"session_id":"%s"}' % ID.encode()
    length = b"Content-Length: %d\r\n" % len(body)
    with CollectorProcess.start(tmp_path / "c.db") as collector:
        with socket.create_connection(("127.0.0.1", collector.port), WAIT) as connection:
            expect = b"Expect: 100-continue\r\n"
            connection.sendall(request_head(collector, b"POST", length, expect))
            assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")  # the request is running
            collector.send_signal(signal.SIGTERM)
            until(lambda: not listens(collector.port), "the collector stops listening")
            connection.sendall(body)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert collector.wait() == 0
        collector.restart()
        with client(collector) as http:
            assert read(http, ID)["event_id"] == ID


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), WAIT).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_port_or_a_database_in_use_is_said(collector: CollectorProcess, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot listen on 127"):
        CollectorProcess.start(tmp_path / "c.db", port=collector.port).kill()
    with pytest.raises(AssertionError, match="another collector uses the database"):
        CollectorProcess.start(collector.db).kill()


def test_f49_a_locked_database_is_a_503_and_reads_go_on(tmp_path: Path) -> None:
    with CollectorProcess.start(tmp_path / "c.db") as collector, client(collector) as http:
        session_id = open_session(http)
        other = sqlite3.connect(tmp_path / "c.db", isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            answer = http.post("/v1/sessions", json={})
            assert_refused(answer, 503, "locked")
            assert answer.headers["retry-after"] == "1"
            assert read(http, session_id)["event_type"] == "session"
            other.execute("ROLLBACK")
        finally:
            other.close()
        assert open_session(http)


class Ingest:
    """Posts batches until the collector is gone; knows which events were answered 200.

    With `kill_after` the thread that gets the answer of so many events kills the collector at
    once: what an answer promises must be true when it arrives.
    """

    def __init__(self, collector: CollectorProcess, kill_after: int | None = None) -> None:
        self._collector = collector
        self._pid = collector.pid
        self._kill_after = kill_after
        self._kill_once = threading.Lock()
        self.answered: list[str] = []
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._post, daemon=True) for _ in range(3)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        assert self.wrong == []

    def _post(self) -> None:
        with client(self._collector) as http:
            try:
                session_id = open_session(http)
                while True:
                    ids = [str(uuid4()) for _ in range(50)]
                    events = [event(event_id=i, inputs={"text": "x" * 500}) for i in ids]
                    url = f"/v1/sessions/{session_id}/events/batch"
                    answer = http.post(url, json={"events": events})
                    if answer.status_code != 200:
                        self.wrong.append(answer.text)
                        return
                    self.answered += ids  # one list operation: the threads share it
                    enough = self._kill_after is not None and (
                        len(self.answered) >= self._kill_after
                    )
                    # The first thread alone: later the process id may be another's.
                    if enough and self._kill_once.acquire(blocking=False):
                        os.kill(self._pid, signal.SIGKILL)
            except httpx.TransportError:
                return


def stored_ids(database: Path) -> set[str]:
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT event_id FROM events WHERE event_type = 'tool'")
        found = [str(UUID(bytes=key)) for (key,) in rows]
    finally:
        connection.close()
    assert len(found) == len(set(found))
    return set(found)


def test_f48_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    answered: set[str] = set()
    with CollectorProcess.start(tmp_path / "c.db") as collector:
        for round_ in range(5):
            if round_:
                collector.restart()
            ingest = Ingest(collector, kill_after=300 + 150 * round_)
            ingest.start()
            assert collector.wait() == -signal.SIGKILL
            ingest.join()
            answered.update(ingest.answered)
        collector.restart()
        with client(collector) as http:
            for event_id in list(answered)[:20]:
                assert read(http, event_id)["event_id"] == event_id
        assert collector.terminate() == 0
    assert len(answered) >= 3000
    assert answered <= stored_ids(tmp_path / "c.db")


def test_what_was_answered_survives_sigterm_under_load(tmp_path: Path) -> None:
    with CollectorProcess.start(tmp_path / "c.db") as collector:
        ingest = Ingest(collector)
        ingest.start()
        until(lambda: len(ingest.answered) >= 500, "events answered")
        assert collector.terminate() == 0
        ingest.join()
    assert set(ingest.answered) <= stored_ids(tmp_path / "c.db")
