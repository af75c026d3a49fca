"""Connections are refused, reset, stalled, cut: every event arrives, and doubt is counted."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from fakes import Answer, ContractServer, Seen
from programs import assert_books, wait_until
from proxy import CLOSE, PASS, REFUSE, STALL, SWALLOW, Fault, Proxy, close_after, cut_at, drip
from tracers import tracer_for, work


def is_batch(request: bytes) -> bool:
    return b"/events/batch " in request.split(b"\r\n", 1)[0]


def test_f7_resets_at_random_bytes_of_the_request(mode: str, tmp_path: Path) -> None:
    draw = random.Random(7)  # noqa: S311 - no secret
    left = 200

    def plan(number: int, request: bytes) -> Fault:
        nonlocal left
        # every other one: what is sent again at once may be cut, too
        if not left or draw.random() < 0.5:
            return PASS
        left -= 1
        return cut_at(draw.randrange(1, 4000))

    with ContractServer() as server, Proxy(server.port, plan) as proxy:
        t = tracer_for(proxy.url, mode, tmp_path, batch_size=10)
        ids: set[str] = set()
        while left:
            ids |= set(work(t, 10, "x" * 300))
            t.flush(20)
        wait_until(lambda: t.flush(20).ok, 30)
        assert proxy.faults == 200
        assert set(server.events) == ids
        assert t.shutdown(20).ok
        assert t.stats().delivered == len(ids)
        assert t.stats().dropped == {}
        assert_books(t.stats())


def test_f8_answers_that_are_lost_are_counted_as_doubt(mode: str, tmp_path: Path) -> None:
    left = 200

    def plan(number: int, request: bytes) -> Fault:
        nonlocal left
        if not is_batch(request) or not left:
            return PASS
        left -= 1
        return SWALLOW

    with ContractServer() as server, Proxy(server.port, plan) as proxy:
        t = tracer_for(proxy.url, mode, tmp_path)
        ids = set(work(t, 20, "x" * 300))
        while left:
            assert not t.flush(20).ok
            assert t.stats().delivered == 0, "only a parsed acknowledgement counts"
        # behind the last of the lost answers
        ids |= set(work(t, 5, "x" * 300))
        wait_until(lambda: t.flush(20).ok, 30)
        stats = t.stats()
        assert stats.ambiguous_resends == 200
        assert stats.delivered == 25
        assert set(server.events) == ids
        assert len(server.batches()) == 201
        assert server.resent == 200 * 20
        assert t.shutdown(20).ok
        assert_books(t.stats())


def lost_for(seconds: float, mode: str, tmp_path: Path) -> None:
    """Every answer is lost for a while, before a server that stores whatever comes."""
    lost = threading.Event()

    def plan(number: int, request: bytes) -> Fault:
        return SWALLOW if is_batch(request) and not lost.is_set() else PASS

    with ContractServer() as server, Proxy(server.port, plan) as proxy:
        t = tracer_for(proxy.url, mode, tmp_path, batch_size=50, flush_interval=0.5)
        timer = threading.Timer(seconds, lost.set)
        timer.start()
        ids: set[str] = set()
        while not lost.is_set():
            ids |= set(work(t, 40, "x" * 300))
            lost.wait(0.2)
        timer.join()
        wait_until(lambda: t.flush(20).ok, 60)
        assert t.shutdown(20).ok
        stats = t.stats()
        assert set(server.events) == ids
        assert stats.ambiguous_resends == proxy.faults > 1
        assert 0 < server.resent <= 50 * stats.ambiguous_resends
        assert stats.delivered == len(ids)
        assert_books(stats)


def test_f9_every_answer_is_lost_for_a_while(mode: str, tmp_path: Path) -> None:
    lost_for(1.5, mode, tmp_path)


@pytest.mark.slow
def test_f9_every_answer_is_lost_for_twenty_seconds(mode: str, tmp_path: Path) -> None:
    lost_for(20, mode, tmp_path)


@pytest.mark.parametrize("how", ["after each answer", "on the next request"])
def test_f10_a_server_that_closes_its_connections(how: str, mode: str, tmp_path: Path) -> None:
    """It says nothing of it: who sends next may find the connection open, and then closed."""
    seen = 0

    def plan(number: int, request: bytes) -> Fault:
        nonlocal seen
        seen += 1
        if how == "after each answer":
            return CLOSE
        return PASS if seen % 2 else REFUSE  # the second request of a connection

    with ContractServer() as server, Proxy(server.port, plan) as proxy:
        t = tracer_for(proxy.url, mode, tmp_path, batch_size=1)
        ids = set(work(t, 1000, "x" * 300))
        assert t.flush(60).ok, "no request needed a second look"
        stats = t.stats()
        assert set(server.events) == ids
        assert server.resent == 0
        assert stats.delivered == 1000
        assert stats.attempts == 1001 + stats.retries
        assert stats.retries <= proxy.connections - 1, "one for each connection that was closed"
        if how == "on the next request":
            assert proxy.faults == stats.retries > 400
            # one of them carried the `create` or followed it: it was sent, and nobody answered
            assert stats.ambiguous_resends == proxy.faults
        assert t.shutdown(20).ok
        assert_books(t.stats())


@pytest.mark.parametrize("idle", [0.0, 0.001, 0.01, 0.05])
def test_f10_a_connection_closed_at_its_idle_limit_costs_no_wait(
    idle: float, tmp_path: Path
) -> None:
    """Just before the limit, at it, and behind it."""
    pause = threading.Event()
    with (
        ContractServer() as server,
        Proxy(server.port, lambda number, _: close_after(idle)) as proxy,
    ):
        t = tracer_for(proxy.url, "D", tmp_path)
        for n in range(30):
            work(t, 1, "x" * 300)
            assert t.flush(20).ok
            pause.wait(idle * (0.8 + n / 60))
        assert len(server.events) == 30
        assert t.stats().retries <= proxy.connections
        assert t.shutdown(20).ok


def test_a_new_connection_that_is_reset_is_no_stale_one(tmp_path: Path) -> None:
    with ContractServer() as server, Proxy(server.port, lambda number, _: REFUSE) as proxy:
        t = tracer_for(proxy.url, "D", tmp_path)
        work(t, 1, "x" * 300)
        assert not t.flush(20).ok
        assert t.stats().attempts == proxy.faults == 1
        proxy.plan = lambda number, request: PASS
        assert t.flush(20).ok
        assert t.shutdown(20).ok


def test_what_was_never_sent_leaves_no_doubt(mode: str, tmp_path: Path) -> None:
    """Nobody listens; then the server says 503. Neither stored anything."""
    t = tracer_for("http://127.0.0.1:9", mode, tmp_path)
    work(t, 3, "x" * 300)
    for _ in range(3):
        assert not t.flush(20).ok
    assert t.stats().attempts >= 3
    assert t.stats().ambiguous_resends == 0
    t.shutdown(0.1)
    refused = iter([True] * 3)

    def busy(seen: Seen) -> Answer | None:
        return Answer(503) if seen.is_batch and next(refused, False) else None

    with ContractServer(busy) as server:
        t = tracer_for(server.url, mode, tmp_path)
        work(t, 3, "x" * 300)
        wait_until(lambda: t.flush(20).ok)
        assert len(server.batches()) == 4
        assert t.stats().ambiguous_resends == 0
        assert t.shutdown(20).ok


@pytest.mark.parametrize("fault", [STALL, drip(5)], ids=["stall", "drip"])
def test_f6_an_answer_that_does_not_come_in_time_leaves_doubt(fault: Fault, tmp_path: Path) -> None:
    slow = iter([True])

    def plan(number: int, request: bytes) -> Fault:
        return fault if is_batch(request) and next(slow, False) else PASS

    with ContractServer() as server, Proxy(server.port, plan) as proxy:
        t = tracer_for(proxy.url, "D", tmp_path, timeout=0.5)
        ids = set(work(t, 3, "x" * 300))
        result = t.flush(20)
        assert not result.ok
        assert 0.4 < result.seconds < 3
        assert t.flush(20).ok
        assert set(server.events) == ids
        assert (server.resent, t.stats().ambiguous_resends) == (3, 1)
        assert t.shutdown(20).ok
        assert_books(t.stats())
