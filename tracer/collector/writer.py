"""The one thread that writes: it commits together what waits together (group commit)."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from tracer.collector.store import UNAVAILABLE, RefusedError

__all__ = ["Writer"]

T = TypeVar("T")
logger = logging.getLogger(__name__)

MAX_WAITING = 1024  # requests; small ones, more than clients on one machine have under way
MAX_WAITING_BYTES = 64 << 20  # two bodies of the largest size, as the memory bound of the process
GROUP_REQUESTS = 64  # one transaction stays short enough to answer its first request soon
GROUP_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    size: int
    answer: Future[Any]


class Writer:
    """Runs work on one connection, in order; a future is done only after its commit."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._connection = connection
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()  # protects the three counters below, nothing else
        self._waiting = 0
        self._waiting_bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tracer-collector-writer")
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T], size: int) -> Future[T]:
        """Queue `work`, which runs inside a transaction of its own or shared with others.

        Args:
            size: bytes the work holds in memory, for the bound on what waits.
        Raises: RefusedError: 503, too much waits already, or the writer is closed.
        """
        with self._lock:
            full = self._waiting >= self._max_waiting or (
                self._waiting > 0 and self._waiting_bytes + size > self._max_waiting_bytes
            )
            if not (full or self._closed):
                self._waiting += 1
                self._waiting_bytes += size
                answer: Future[T] = Future()
                answer.set_running_or_notify_cancel()  # a client that goes away cancels nothing
                self._jobs.put(_Job(work, size, answer))
                return answer
        if self._closed:
            raise RefusedError(UNAVAILABLE, "the collector is stopping", retry_after=1)
        raise RefusedError(
            UNAVAILABLE, "more waits to be written than the collector may hold", retry_after=1
        )

    def close(self) -> None:
        """Commit what was submitted, then end the thread; the connection stays open."""
        with self._lock:
            self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            if group:
                try:
                    self._commit(group)
                except Exception as error:  # without this thread nothing is written any more
                    logger.exception("a group of writes failed")
                    undone = [job for job in group if not job.answer.done()]
                    self._settle(undone, [error] * len(undone))

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Wait for a job and take what waits behind it; the flag says no more will come."""
        job = self._jobs.get()
        group: list[_Job] = []
        size = 0
        while job is not None:
            group.append(job)
            size += job.size
            if len(group) == GROUP_REQUESTS or size >= GROUP_BYTES:
                return group, False
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return group, False
        return group, True

    def _commit(self, group: list[_Job]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # another process holds the lock, or the disk is gone
            self._settle(group, [_unavailable(error)] * len(group))
            return
        try:
            outcomes = [self._perform(job) for job in group]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if len(group) > 1:  # one request must not fail those it happened to wait with
                for job in group:
                    self._commit([job])
            else:
                self._settle(group, [_unavailable(error)])
        else:
            self._settle(group, outcomes)

    def _perform(self, job: _Job) -> Any:
        """Run one job so that its failure leaves the jobs before it in the transaction."""
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            outcome = job.work(connection)
        except sqlite3.OperationalError:
            raise  # full, locked, unreadable: the whole transaction may be gone
        except Exception as error:  # noqa: BLE001 - the request gets it as its answer
            connection.execute("ROLLBACK TO job")
            outcome = error
        connection.execute("RELEASE job")
        return outcome

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite rolls back by itself after some errors
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _settle(self, group: list[_Job], outcomes: list[Any]) -> None:
        with self._lock:
            self._waiting -= len(group)
            self._waiting_bytes -= sum(job.size for job in group)
        for job, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)


def _unavailable(error: sqlite3.Error) -> RefusedError:
    return RefusedError(UNAVAILABLE, f"the database cannot be written now: {error}", retry_after=1)
