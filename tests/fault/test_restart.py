"""Fault F73: whatever ends the work of the background thread, it goes on, and nothing is lost."""

from __future__ import annotations

import ctypes
import gc
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import ContractServer
from programs import assert_books, wait_until
from tracers import work

from tracer import Tracer
from tracer.delivery import Delivery
from tracer.flusher import MAX_RESTARTS, Flusher

THROWN: list[type[BaseException]] = [SystemExit, KeyboardInterrupt, MemoryError, RecursionError]


def tracer_of(server: ContractServer, mode: str, directory: Path, **options: Any) -> Tracer:
    return Tracer(server_url=server.url, durable=mode == "D", spool_dir=directory, **options)


def flusher_of(t: Tracer) -> Flusher:
    assert t._flusher is not None
    return t._flusher


def throw(t: Tracer, error: type[BaseException]) -> None:
    """Raise `error` in the thread that sends, at whatever line it is."""
    for thread in list(flusher_of(t)._threads.values()):
        assert thread.ident is not None
        reached = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(error)
        )
        assert reached == 1


@pytest.mark.parametrize("error", THROWN)
def test_f73_an_exception_thrown_into_the_thread_stops_it_for_a_second_at_most(
    error: type[BaseException], server: ContractServer, mode: str, tmp_path: Path
) -> None:
    t = tracer_of(server, mode, tmp_path, flush_interval=3600)
    ids = set(work(t, 5))
    assert t.flush(10).ok
    throw(t, error)
    flusher_of(t).notify()  # it sleeps: only what wakes it lets it see
    wait_until(lambda: flusher_of(t).restarts == 1)
    began = time.monotonic()
    ids |= set(work(t, 5))
    assert t.flush(10).ok, "also who asks while it pauses is answered"
    assert time.monotonic() - began <= 1
    assert set(server.events) == ids
    assert t.stats().flusher_restarts == 1
    assert t.shutdown(10).ok
    assert_books(t.stats())
    assert server.resent == 0


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
# thrown while a connection is being opened, it leaves the socket to the collector of garbage
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_f73_exceptions_thrown_at_random_moments_lose_nothing(
    rounds: int, server: ContractServer, mode: str, tmp_path: Path
) -> None:
    chosen, pause = random.Random(1), threading.Event()  # noqa: S311 - no secret is made of it
    for _ in range(rounds):
        t = tracer_of(server, mode, tmp_path, batch_size=10)
        ids = set(work(t))
        for _ in range(MAX_RESTARTS - 1):
            for _ in range(chosen.randrange(5)):
                ids |= set(work(t, 20))
                pause.wait(chosen.random() * 0.01)
            throw(t, chosen.choice(THROWN))
        ids |= set(work(t, 20))
        wait_until(lambda t=t: t.flush(2).ok, 5)  # type: ignore[misc]  # bound above
        assert ids <= set(server.events)
        assert t.stats().delivered == len(ids)
        assert t.shutdown(10).ok
        assert_books(t.stats())
    gc.collect()


def test_f73_a_failure_of_ours_is_survived(
    server: ContractServer,
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[BaseException] = [MemoryError("no more"), RecursionError(), SystemExit(1)]
    real = Delivery.send

    def send(self: Delivery, frames: Any) -> None:
        if failures:
            raise failures.pop(0)
        real(self, frames)

    monkeypatch.setattr(Delivery, "send", send)
    t = tracer_of(server, mode, tmp_path, flush_interval=0.5)
    ids = set(work(t, 50))
    wait_until(lambda: set(server.events) == ids, 20)
    assert len([r for r in caplog.records if "goes on" in r.getMessage()]) == 1
    assert flusher_of(t).restarts == 3
    assert t.shutdown(10).ok
    assert_books(t.stats())
    assert server.resent == 0


def test_f73_a_flush_does_not_wait_for_a_broken_thread(
    server: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(self: Delivery, frames: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Delivery, "send", send)
    t = Tracer(server_url=server.url, spool_dir=tmp_path)
    work(t, 5)
    result = t.flush(20)
    assert (result.ok, result.spooled) == (False, 5)
    assert result.reason == "RuntimeError: a bug"
    assert result.seconds < 20
    monkeypatch.undo()
    ended = t.shutdown(20)
    assert ended.seconds < 20
    assert_books(t.stats())


def test_f73_a_failure_that_comes_back_costs_no_processor(
    server: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def send(self: Delivery, frames: Any) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("a bug")

    monkeypatch.setattr(Delivery, "send", send)
    t = Tracer(server_url=server.url, spool_dir=tmp_path)
    monkeypatch.setattr("tracer.flusher.RESTART_PAUSE", 0.01)
    work(t)
    t.flush(1)
    wait_until(lambda: calls == MAX_RESTARTS, 20)
    work(t, 20_000)  # rotates, which wakes it
    assert not t.flush(0.5).ok
    assert calls <= MAX_RESTARTS + 1
    assert not t.shutdown(0.2).ok
    assert_books(t.stats())
