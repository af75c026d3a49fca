"""Fault F82: counters are exact whatever threads do at once, with or without a GIL."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import ContractServer
from programs import assert_books

from tracer import Tracer
from tracer.counts import Counts

THREADS = 8
EACH = 100_000


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter is able to."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(work: Callable[[int], None]) -> None:
    """Run `work` in 8 threads that begin together."""
    begin = threading.Barrier(THREADS)

    def wait_and_work(number: int) -> None:
        begin.wait(20)
        work(number)

    threads = [threading.Thread(target=wait_and_work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_f82_eight_threads_count_a_hundred_thousand_each_exactly() -> None:
    """`x += 1` loses some on builds without a GIL, and may on those with one: this does not.

    Runs the same on every build; no build without a GIL was at hand when it was written.
    """
    counts = Counts()

    def count(number: int) -> None:
        for _ in range(EACH):
            counts.add("all")
        counts.add(number)

    at_once(count)
    own = [(number, 1) for number in range(THREADS)]
    assert sorted(counts.items(), key=str) == sorted([("all", THREADS * EACH), *own], key=str)
    assert counts.total() == THREADS * EACH + THREADS


@pytest.mark.parametrize("mode", ["D", "M"])
@pytest.mark.parametrize("each", [1000, pytest.param(EACH, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_f82_the_books_of_eight_threads_are_exact(each: int, mode: str, tmp_path: Path) -> None:
    """Recorded, refused and delivered, while a ninth thread looks at the books all the time."""
    with ContractServer() as server:
        t = Tracer(
            server_url=server.url, durable=mode == "D", spool_dir=tmp_path / "spool", max_queue=5000
        )
        ids: list[str] = []
        done, wrong = threading.Event(), list[str]()

        def record(_: int) -> None:
            for _ in range(each):
                with t.tool("work") as span:
                    pass
                ids.append(span.id)

        def look() -> None:
            took = 0.001
            while not done.wait(10 * took):  # a look walks over all that waits
                began = time.monotonic()
                s = t.stats()
                took = time.monotonic() - began
                placed = s.delivered + s.queued + s.in_flight + s.spooled + sum(s.dropped.values())
                if abs(s.recorded - placed) > THREADS:
                    wrong.append(repr(s))

        watcher = threading.Thread(target=look)
        watcher.start()
        at_once(record)
        assert t.flush(600).ok
        done.set()
        watcher.join()
        assert wrong == []
        stats = t.stats()
        assert stats.recorded == len(ids) == len(set(ids)) == THREADS * each
        assert stats.dropped.keys() <= ({"queue_full"} if mode == "M" else set())
        assert stats.delivered == stats.recorded - sum(stats.dropped.values())
        assert server.events.keys() <= set(ids)
        assert len(server.events) == stats.delivered
        assert server.resent == 0
        assert t.shutdown(20).ok
        assert_books(t.stats())
