"""The background thread: starts late, survives our failures, stops when told."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import Answer, ContractServer, Seen
from programs import assert_books, environment, run, wait_until
from tracers import work

from tracer import Tracer
from tracer.delivery import Delivery
from tracer.frame import SESSION, UPDATE
from tracer.opened import OpenedSessions

THREAD = "tracer-flusher"


def flushers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == THREAD]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Every test ends its tracers: what they leave would be seen by the next one."""
    before = set(flushers())
    yield
    gc.collect()
    wait_until(lambda: not set(flushers()) - before, what="the thread ends")


def test_no_thread_before_the_first_event_and_none_after_the_end(
    server: ContractServer, mode: str, tmp_path: Path
) -> None:
    before = len(flushers())
    t = Tracer(server_url=server.url, durable=mode == "D", spool_dir=tmp_path / "spool")
    assert len(flushers()) == before
    work(t)
    assert len(flushers()) == before + 1
    assert t.shutdown(10).ok
    wait_until(lambda: len(flushers()) == before)
    assert not list(tmp_path.glob("spool/*"))


def test_a_tracer_that_recorded_nothing_sends_nothing(
    server: ContractServer, tmp_path: Path
) -> None:
    t = Tracer(server_url=server.url, spool_dir=tmp_path)
    assert t.shutdown(10).ok
    work(t, 3)
    assert server.seen == []
    assert t.stats().dropped == {"shutdown": 3}
    assert_books(t.stats())


def test_a_busy_caller_is_not_followed_event_by_event(
    server: ContractServer, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = Tracer(
        server_url=server.url,
        durable=mode == "D",
        spool_dir=tmp_path,
        flush_interval=3600,
        batch_size=100,
        propagate_threads=False,  # the caller below is no child of the background
    )
    real = Delivery._deliver
    ids: set[str] = set()
    sizes: list[int] = []
    asked: list[bool] = []
    calling = threading.Lock()  # a flush is for what was recorded before it

    def deliver(self: Delivery, session: bytes, frames: Any) -> Any:
        sizes.append(len(frames))
        with calling:
            if len(sizes) < 50 and not asked:  # as a caller does meanwhile
                caller = threading.Thread(target=lambda: ids.update(set(work(t, 30))))
                caller.start()
                caller.join()
        return real(self, session, frames)

    monkeypatch.setattr(Delivery, "_deliver", deliver)
    for _ in range(10):
        ids.update(set(work(t, 100)))
        wait_until(lambda: t.stats().recorded - t.stats().delivered < 100)
    assert len(sizes) <= 22, "a drain may end in one that is not full, and no more follow it"
    with calling:
        asked.append(True)
    assert t.flush(10).ok, "who asks waits for no full batch"
    assert set(server.events) == ids
    assert t.shutdown(10).ok
    assert_books(t.stats())


class NoThread(threading.Thread):
    """What Python does when it is out of threads, and from 3.12 on at its end."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_f30_without_threads_nothing_is_lost(
    server: ContractServer, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.flusher.Thread", NoThread)
    t = Tracer(server_url=server.url, durable=mode == "D", spool_dir=tmp_path)
    ids = set(work(t, 5))
    result = t.flush(5)
    assert (result.ok, result.reason) == (False, "no thread can be started")
    assert_books(t.stats())
    monkeypatch.undo()
    assert t.flush(10).ok, "the next flush tries again"
    assert set(server.events) == ids
    ids |= set(work(t, 5))
    assert t.shutdown(10).ok
    assert set(server.events) == ids
    assert_books(t.stats())


def test_the_end_without_a_thread_sends_on_the_last_one(
    server: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = Tracer(server_url=server.url, spool_dir=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("tracer.flusher.Thread", NoThread)
        ids = set(work(t, 5))
        assert t.shutdown(10).ok
    assert set(server.events) == ids
    assert not list(tmp_path.iterdir())
    assert_books(t.stats())
    assert t.shutdown().ok


def test_a_second_end_repeats_why_the_first_was_not_complete(tmp_path: Path) -> None:
    t = Tracer(server_url="http://127.0.0.1:9", spool_dir=tmp_path)
    work(t, 3)
    first, second = t.shutdown(10), t.shutdown(10)
    assert (first.ok, first.spooled) == (second.ok, second.spooled) == (False, 3)
    assert first.reason == second.reason


def test_a_full_batch_does_not_wait_for_the_interval(
    server: ContractServer, mode: str, tmp_path: Path
) -> None:
    t = Tracer(
        server_url=server.url,
        durable=mode == "D",
        spool_dir=tmp_path,
        flush_interval=3600,
        batch_size=10,
    )
    work(t)
    assert t.flush(10).ok
    work(t, 30)
    wait_until(lambda: len(server.events) >= 11)
    assert t.shutdown(10).ok
    assert len(server.events) == 31
    assert_books(t.stats())


def test_a_tracer_nobody_uses_any_more_sends_what_it_holds(
    server: ContractServer, tmp_path: Path
) -> None:
    t = Tracer(server_url=server.url, spool_dir=tmp_path, flush_interval=3600)
    ids = set(work(t, 100))
    before = len(flushers())
    del t
    gc.collect()
    wait_until(lambda: set(server.events) == ids)
    wait_until(lambda: len(flushers()) < before)
    assert not list(tmp_path.iterdir())


def test_f63_many_tracers_leak_neither_threads_nor_files(
    server: ContractServer, tmp_path: Path
) -> None:
    ids = set()
    for _ in range(50):
        ids |= set(work(Tracer(server_url=server.url, spool_dir=tmp_path)))
    gc.collect()
    wait_until(lambda: set(server.events) == ids)
    wait_until(lambda: not flushers())
    assert not list(tmp_path.iterdir())


def test_the_thread_imports_nothing(server: ContractServer, tmp_path: Path) -> None:
    """A fork while a thread imports leaves a dead import lock in the child."""
    program = """
        import sys, threading, tracer
        imported = []
        def audit(event, args):
            if event == "import" and threading.current_thread().name == "tracer-flusher":
                imported.append(args[0])
        sys.addaudithook(audit)
        for _ in range(2):
            t = tracer.init(session_name=str(_))
            with t.session("s"), t.tool("work"): pass
            t.flush(10)
            t.shutdown(10)
        assert not imported, imported
        """
    for url in (server.url, server.url.replace("127.0.0.1", "localhost"), "http://127.0.0.1:9"):
        ended = run(program, env=environment(HH_API_URL=url, HH_SPOOL_DIR=tmp_path))
        assert ended.code == 0, ended.err


@pytest.mark.parametrize("ask", ["flush", "shutdown", "forget"])
def test_f62_the_thread_itself_may_ask(
    ask: str, server: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracers = [Tracer(server_url=server.url, spool_dir=tmp_path, flush_interval=3600)]
    results: list[Any] = []
    real = Delivery.send

    def send(self: Delivery, frames: Any) -> None:
        if not results and ask == "forget":  # the last reference dies here, as in a collection
            results.append(None)
            tracers.clear()
            gc.collect()
        elif not results:
            results.append(None)
            results[0] = getattr(tracers[0], ask)(20)
        real(self, frames)

    monkeypatch.setattr(Delivery, "send", send)
    ids = set(work(tracers[0], 3))
    before = set(flushers())
    tracers[0]._flusher.notify()  # type: ignore[union-attr]  # it has one: there is a server
    wait_until(lambda: set(server.events) == ids)
    if ask == "flush":
        assert tracers[0].shutdown(10).ok
    if ask != "forget":
        assert results[0].seconds < 20
        assert "cannot wait for itself" in results[0].reason
    wait_until(lambda: len(before & set(flushers())) < len(before), what="the thread ends")


# -- delivery: what the wire tests do not reach ------------------------------------------------


def frames_for(t: Tracer) -> Callable[..., bool]:
    return t._buffer.write


def test_a_session_announced_twice_is_created_once_and_another_body_merges(
    server: ContractServer, tmp_path: Path
) -> None:
    t = Tracer(server_url=server.url, spool_dir=tmp_path, flush_interval=3600)
    write, key = frames_for(t), bytes(15) + b"\1"
    name = "00000000-0000-0000-0000-000000000001"
    body = b'{"session_id":"%b","session_name":"a"}' % name.encode()
    for content in (body, body, body[:-1] + b',"metadata":{"b":1}}'):
        write(SESSION, key, content)
    assert t.flush(10).ok
    assert [seen.body.get("metadata") for seen in server.seen] == [None, {"b": 1}]
    assert t.shutdown(10).ok


def test_a_frame_of_an_unknown_kind_does_not_stay_for_ever(
    server: ContractServer, tmp_path: Path
) -> None:
    t = Tracer(server_url=server.url, spool_dir=tmp_path, flush_interval=3600)
    write = frames_for(t)
    write(9, bytes(16), b"{}")
    ids = set(work(t))
    assert t.shutdown(10).ok
    assert set(server.events) == ids
    assert not list(tmp_path.iterdir())


def test_a_failure_while_a_session_is_opened_does_not_make_it_look_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Any] = [RuntimeError("a bug"), Answer(503), Answer(503)]

    def verdict(seen: Seen) -> Answer | None:
        if failures and isinstance(failures[0], Answer):
            return Answer(failures.pop(0).status)
        return None

    real = OpenedSessions._create

    def create(self: OpenedSessions, opened: Any) -> None:
        if failures and isinstance(failures[0], RuntimeError):
            raise failures.pop(0)
        real(self, opened)

    monkeypatch.setattr(OpenedSessions, "_create", create)
    with ContractServer(verdict) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        ids = set(work(t, 3))
        wait_until(lambda: t.flush(10).ok)
        assert set(server.events) == ids
        assert [seen.path for seen in server.seen[:3]] == ["/v1/sessions"] * 3
        assert [s.body["session_name"] for s in server.seen if not s.is_batch][-1]
        assert t.shutdown(10).ok
        assert_books(t.stats())


def test_a_409_for_an_update_is_no_loss(tmp_path: Path) -> None:
    with ContractServer(lambda s: Answer(409) if s.method == "PUT" else None) as server:
        t = Tracer(server_url=server.url, spool_dir=tmp_path)
        with t.session("s"), t.tool("work"):
            pass
        assert t.shutdown(10).ok
        assert len([s for s in server.seen if s.method == "PUT"]) == 1
        assert t.stats().last_error is None


def test_kinds_are_told_apart_by_the_books(server: ContractServer, tmp_path: Path) -> None:
    t = Tracer(server_url=server.url, spool_dir=tmp_path, flush_interval=3600)
    write = frames_for(t)
    for kind in (UPDATE, UPDATE, UPDATE):
        write(kind, bytes(16), b"no id{}")
    ids = set(work(t))
    assert t.stats().recorded == 1
    assert_books(t.stats())
    assert t.shutdown(10).ok
    assert set(server.events) == ids
    assert t.stats().dropped == {}, "an update is no event"
    assert_books(t.stats())
