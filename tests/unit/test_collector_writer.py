"""The writing thread: groups, bounds, and failures that stay with their request."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tracer.collector.store import RefusedError
from tracer.collector.writer import Writer

WAIT = 10.0  # seconds


class Setup:
    """A writer whose thread can be held inside a job."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=0
        )
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("CREATE TABLE t (x UNIQUE)")
        self.statements: list[str] = []
        self.connection.set_trace_callback(self.statements.append)
        self.writer = Writer(self.connection, max_waiting=10, max_waiting_bytes=100)

    def hold(self) -> tuple[threading.Event, Future[None]]:
        entered, go_on = threading.Event(), threading.Event()

        def work(db: sqlite3.Connection) -> None:
            entered.set()
            assert go_on.wait(WAIT)

        held = self.writer.submit(work, 1)
        assert entered.wait(WAIT)
        return go_on, held

    def values(self) -> list[int]:
        return [x for (x,) in self.connection.execute("SELECT x FROM t ORDER BY x")]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path / "t.db")
    yield made
    made.writer.close()
    made.connection.close()


def insert(x: int) -> Callable[[sqlite3.Connection], int]:
    def work(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO t VALUES (?)", (x,))
        return x

    return work


def test_what_waits_together_is_committed_together(setup: Setup) -> None:
    go_on, _ = setup.hold()
    answers = [setup.writer.submit(insert(x), 1) for x in range(5)]
    go_on.set()
    assert [a.result(WAIT) for a in answers] == [0, 1, 2, 3, 4]
    assert setup.statements.count("COMMIT") == 2  # the held job's, and one for the five


def test_an_answer_comes_after_the_commit(setup: Setup) -> None:
    seen: list[bool] = []
    answer = setup.writer.submit(insert(1), 1)
    answer.add_done_callback(lambda _: seen.append("COMMIT" in setup.statements))
    answer.result(WAIT)
    setup.writer.close()
    assert seen == [True]


def test_a_failing_job_leaves_the_others_in_its_transaction(setup: Setup) -> None:
    def refuse(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t VALUES (99)")
        raise RefusedError(404, "not here")

    go_on, _ = setup.hold()
    before, refused = setup.writer.submit(insert(1), 1), setup.writer.submit(refuse, 1)
    again, after = setup.writer.submit(insert(1), 1), setup.writer.submit(insert(2), 1)
    go_on.set()
    assert (before.result(WAIT), after.result(WAIT)) == (1, 2)
    with pytest.raises(RefusedError, match="not here"):
        refused.result(WAIT)
    with pytest.raises(sqlite3.IntegrityError):
        again.result(WAIT)
    assert setup.values() == [1, 2]
    assert setup.statements.count("COMMIT") == 2


def test_a_job_that_breaks_the_transaction_fails_alone(setup: Setup) -> None:
    def broken(db: sqlite3.Connection) -> None:
        db.execute("SELECT * FROM nothing")

    go_on, _ = setup.hold()
    good, bad = setup.writer.submit(insert(1), 1), setup.writer.submit(broken, 1)
    more = setup.writer.submit(insert(2), 1)
    go_on.set()
    assert (good.result(WAIT), more.result(WAIT)) == (1, 2)
    with pytest.raises(RefusedError) as caught:
        bad.result(WAIT)
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    assert setup.values() == [1, 2]


def test_too_many_requests_are_refused_until_some_are_done(setup: Setup) -> None:
    go_on, _ = setup.hold()
    answers = [setup.writer.submit(insert(x), 1) for x in range(9)]
    with pytest.raises(RefusedError) as caught:
        setup.writer.submit(insert(100), 1)
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    go_on.set()
    for answer in answers:
        answer.result(WAIT)
    assert setup.writer.submit(insert(100), 1).result(WAIT) == 100


def test_too_many_bytes_are_refused_but_one_large_request_is_not(setup: Setup) -> None:
    assert setup.writer.submit(insert(1), 5000).result(WAIT) == 1
    go_on, held = setup.hold()
    fits = setup.writer.submit(insert(2), 90)
    with pytest.raises(RefusedError, match="more waits"):
        setup.writer.submit(insert(3), 20)
    go_on.set()
    held.result(WAIT)
    assert fits.result(WAIT) == 2


def test_a_locked_database_is_a_503_and_writing_goes_on_afterwards(
    setup: Setup, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RefusedError, match="locked") as caught:
            setup.writer.submit(insert(1), 1).result(WAIT)
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        other.execute("ROLLBACK")
    finally:
        other.close()
    assert setup.writer.submit(insert(1), 1).result(WAIT) == 1


def test_a_full_disk_is_a_503_and_writing_goes_on_afterwards(setup: Setup) -> None:
    def large(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t VALUES (zeroblob(1000000))")

    def limit(pages: int) -> Callable[[sqlite3.Connection], None]:
        def work(db: sqlite3.Connection) -> None:
            db.execute(f"PRAGMA max_page_count={pages}")

        return work

    setup.writer.submit(limit(20), 1).result(WAIT)
    with pytest.raises(RefusedError, match="full") as caught:
        setup.writer.submit(large, 1).result(WAIT)
    assert caught.value.status == 503
    assert setup.writer.submit(insert(1), 1).result(WAIT) == 1
    setup.writer.submit(limit(1000), 1).result(WAIT)
    setup.writer.submit(large, 1).result(WAIT)


def test_close_commits_what_was_submitted_and_takes_no_more(setup: Setup) -> None:
    go_on, _ = setup.hold()
    answers = [setup.writer.submit(insert(x), 1) for x in range(5)]
    threading.Timer(0.05, go_on.set).start()
    setup.writer.close()
    assert [a.result(0) for a in answers] == [0, 1, 2, 3, 4]
    with pytest.raises(RefusedError, match="stopping") as caught:
        setup.writer.submit(insert(6), 1)
    assert caught.value.status == 503
