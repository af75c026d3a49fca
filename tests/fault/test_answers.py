"""Answers that are none: redirects, HTML, bombs, wishes to come back later."""

from __future__ import annotations

import contextlib
import gzip
import re
import resource
import socket
import statistics
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import pytest
from fakes import Answer, ContractServer, Seen
from programs import assert_books, environment, spawn, wait_until
from raw_server import RawServer, Script, answer
from tenacity import RetryCallState
from tracers import tracer_for, work

from tracer.retry import BASE, SPREAD

OK = b'{"success":true,"session_id":"00000000-0000-4000-8000-000000000001"}'
LATE = 0.5  # seconds a busy machine may be late


# -- what is no acknowledgement --------------------------------------------------------------

UNPARSABLE: dict[str, bytes] = {
    "HTML": b"<!doctype html><title>ok</title>",
    "nothing": b"",
    "no success": b'{"success":false}',
    "null": b'{"success":null}',
    "half an object": b'{"success":tr',
    "a list": b'[{"success":true}]',
    "no ids": b'{"success":true,"event_ids":[]}',
    "other ids": b'{"success":true,"event_ids":["x","y","z"]}',
}


@pytest.mark.parametrize(
    ("where", "body"),
    [
        pytest.param(where, body, id=f"{where}-{what}")
        for where in ("create", "batch", "update")
        for what, body in UNPARSABLE.items()
        if where != "update" or b"event_ids" not in body  # an update has none to name
    ],
)
def test_f17_what_states_no_success_is_none(
    where: str, body: bytes, mode: str, tmp_path: Path
) -> None:
    broken = True

    def verdict(seen: Seen) -> Answer | None:
        kind = "batch" if seen.is_batch else "update" if seen.method == "PUT" else "create"
        return Answer(200, body=body) if broken and kind == where else None

    with ContractServer(verdict) as server:
        t = tracer_for(server.url, mode, tmp_path)
        with t.session("s"):
            ids = work(t, 3)
        for _ in range(3):
            result = t.flush(20)
            assert not result.ok
            assert result.delivered == (3 if where == "update" else 0)
            assert result.dropped == {}
            assert_books(t.stats())
        assert (server.events == {}) == (where != "update")
        broken = False
        assert t.flush(20).ok
        assert set(server.events) == set(ids)
        assert server.resent == 0
        assert server.updates
        assert t.stats().ambiguous_resends == (3 if where == "batch" else 0)
        assert t.shutdown(20).ok
        assert_books(t.stats())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["another origin", "the same origin"])
def test_f18_a_redirect_is_not_followed_and_delivers_nothing(
    where: str, status: int, mode: str, tmp_path: Path
) -> None:
    with RawServer(answer(200, OK)) as elsewhere:
        target = f"{elsewhere.url}/v1/x" if where == "another origin" else "/elsewhere"
        with ContractServer(
            lambda s: Answer(status, {"Location": target}, b"") if s.is_batch else None
        ) as server:
            t = tracer_for(server.url, mode, tmp_path, api_key="hh_canary_1234")
            work(t, 5)
            assert t.flush(20).ok
            assert not [s for s in server.seen if s.path == "/elsewhere"]
            stats = t.stats()
            assert (stats.delivered, stats.dropped) == (0, {"rejected": 5})
            assert "which is not followed" in str(stats.last_error)
            assert t.shutdown(20).ok
            assert_books(t.stats())
        assert elsewhere.connections == 0, "neither the key nor a body went there"


def test_f20_a_session_that_is_gone_costs_itself_and_99_others_nothing(tmp_path: Path) -> None:
    gone: set[str] = set()

    def verdict(seen: Seen) -> Answer | None:
        return Answer(404) if seen.is_batch and seen.session_ids & gone else None

    with ContractServer(verdict) as server:
        t = tracer_for(server.url, "D", tmp_path, batch_size=5000)
        found: dict[str, list[str]] = {}
        for n in range(100):
            with t.session(f"session {n}") as session:
                found[session.id] = work(t, 3)
        gone.add(list(found)[50])
        assert t.flush(30).ok
        (lost,) = gone
        assert set(server.events) == {i for s, ids in found.items() if s != lost for i in ids}
        mine = [s for s in server.seen if not s.is_across and lost in s.path + str(s.body)]
        kinds = "".join("u" if s.method == "PUT" else "e" if s.is_batch else "c" for s in mine)
        assert kinds == "cece" + "u", "one re-create, one retry"
        assert t.stats().dropped == {"session_gone": 3}
        assert t.stats().delivered == 297
        assert t.shutdown(20).ok
        assert_books(t.stats())


# -- come back later -------------------------------------------------------------------------


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


WISHES: dict[str, tuple[str | None, float | None]] = {
    "2": ("2", 2.0),
    "a date": ("in 3 s", 2.0),  # in whole seconds: up to one early
    "a past date": ("in -60 s", None),
    "-1": ("-1", None),
    "nan": ("nan", None),
    "inf": ("inf", None),
    "1e999": ("1e999", None),
    "junk": ("soon", None),
    "absent": (None, None),
}


@pytest.mark.parametrize(("text", "least"), WISHES.values(), ids=WISHES)
@pytest.mark.parametrize(("where", "status"), [("create", 503), ("batch", 429)])
def test_f24_the_next_request_on_any_endpoint_waits(
    where: str, text: str | None, least: float | None, status: int, tmp_path: Path
) -> None:
    said = iter([True])

    def verdict(seen: Seen) -> Answer | None:
        if (where == "batch") != seen.is_batch or not next(said, False):
            return None
        if text is None:
            return Answer(status)
        wish = http_date(float(text.split()[1])) if text.startswith("in ") else text
        return Answer(status, {"Retry-After": wish})

    with ContractServer(verdict) as server:
        t = tracer_for(server.url, "D", tmp_path)
        ids = work(t, 3)
        t._flusher.notify()  # type: ignore[union-attr]  # it has one: there is a server
        wait_until(lambda: len(server.events) == 3, 20)
        refused = next(n for n, s in enumerate(server.seen) if s.is_batch or where == "create")
        waited = server.seen[refused + 1].moment - server.seen[refused].moment
        if least is None:
            assert BASE / 2 <= waited <= BASE + LATE
        else:
            assert least <= waited <= least + 1 + SPREAD + LATE
        assert set(server.events) == set(ids)
        assert t.shutdown(20).ok
        assert_books(t.stats())


def test_f24_no_wish_silences_for_longer_than_five_minutes(tmp_path: Path) -> None:
    with ContractServer(lambda _: Answer(503, {"Retry-After": "99999999"})) as server:
        t = tracer_for(server.url, "D", tmp_path)
        work(t)
        waits: list[float] = []
        flusher = t._flusher
        assert flusher is not None
        pause = flusher._pause

        def watched(state: RetryCallState) -> None:
            waits.append(state.upcoming_sleep)
            pause(state)

        flusher._retry.before_sleep = watched
        assert not t.flush(20).ok
        assert 300 <= waits[0] <= 300 + SPREAD
        assert not t.shutdown(20).ok
        assert len(server.seen) == 1


# -- hostile answers -------------------------------------------------------------------------


def endless(server: RawServer, connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"4\r\n    \r\n")
        server.pause(0.01)


def huge(server: RawServer, connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b" " * 1_000_000)


def headers(server: RawServer, connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"X-Pad: x\r\n" * 100_000 + b"\r\n" + OK)


def lying(server: RawServer, connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + OK)
    server.pause(30)


HOSTILE: dict[str, Script] = {
    "1 GB": huge,
    "a gzip bomb": answer(200, gzip.compress(bytes(256 << 20), 1), {"Content-Encoding": "gzip"}),
    "endless chunks": endless,
    "100,000 headers": headers,
    "a lying Content-Length": lying,
}


def peak(*, anew: bool = False) -> int:
    """Return the most memory that was resident, since the last call with `anew` if Linux allows."""
    with contextlib.suppress(OSError):
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("where", ["create", "batch"])
@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
def test_f26_a_hostile_answer_takes_neither_memory_nor_time(
    script: Script, where: str, tmp_path: Path
) -> None:
    hostile = True

    def say(server: RawServer, connection: socket.socket, request: bytes) -> None:
        is_batch = b"/events/batch " in request.split(b"\r\n", 1)[0]
        if hostile and is_batch == (where == "batch"):
            script(server, connection, request)
            raise ConnectionAbortedError
        answer(200, OK)(server, connection, request)

    with RawServer(say) as server:
        t = tracer_for(server.url, "D", tmp_path, timeout=1.0)
        work(t, 3)
        before = peak(anew=True)
        result = t.flush(20)
        assert not result.ok
        assert (result.delivered, result.spooled) == (0, 3)
        assert result.seconds <= 1.0 + LATE
        assert peak() - before <= 8 << 20
        hostile = False
        assert t.flush(20).ok
        assert t.stats().delivered == 3
        assert t.shutdown(20).ok
        assert_books(t.stats())


# -- a herd ----------------------------------------------------------------------------------

CLIENT = """
import threading
import tracer
t = tracer.init(session_name="client", flush_interval=0.5)
for _ in range(20):
    with t.tool("work"):
        pass
print("recorded", flush=True)
threading.Event().wait(280)  # until it is killed
"""


def assert_no_herd(seen: list[Seen], recovery: float, clients: int) -> None:
    """Clients come back one after another, each at its own time."""
    after = [s for s in seen if s.moment >= recovery]
    first: dict[str, float] = {}
    for one in after:
        if one.path == "/v1/sessions":
            first.setdefault(one.body["session_id"], one.moment - recovery)
    delays = sorted(first.values())
    assert len(delays) == clients
    assert statistics.pstdev(delays) >= 0.2 * statistics.mean(delays)
    moments = sorted(s.moment for s in after)
    mean = len(moments) / max(moments[-1] - moments[0], 1)
    most = max(sum(m <= x < m + 1 for x in moments) for m in moments)
    assert most <= 3 * mean


def test_f27_clients_return_one_after_another(tmp_path: Path) -> None:
    down = True
    with ContractServer(lambda _: Answer(503) if down else None) as server:
        tracers = [
            tracer_for(server.url, "M", tmp_path, flush_interval=0.5, session_name=str(n))
            for n in range(20)
        ]
        ids = {event_id for t in tracers for event_id in work(t, 5)}
        threading.Event().wait(1.2)  # of 503: several attempts of each
        recovery, down = time.monotonic(), False
        wait_until(lambda: len(server.events) == len(ids), 20)
        assert_no_herd(server.seen, recovery, 20)
        gaps = [b.moment - a.moment for a, b in pairwise(server.seen)]
        assert max(gaps) < 5
        for t in tracers:
            assert t.shutdown(20).ok


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_f27_fifty_processes_return_after_a_minute(tmp_path: Path) -> None:
    down = True
    with ContractServer(lambda _: Answer(503) if down else None) as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool", HH_DURABLE="0")
        clients = [spawn(CLIENT, env=env) for _ in range(50)]
        try:
            for client in clients:
                assert client.stdout is not None
                assert client.stdout.readline() == "recorded\n"
            threading.Event().wait(60)
            recovery, down = time.monotonic(), False
            wait_until(lambda: len(server.events) == 50 * 20, 60)
            assert_no_herd(server.seen, recovery, 50)
        finally:
            for client in clients:
                client.kill()
                client.communicate()
