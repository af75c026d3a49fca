"""The embedded store: one SQLite file, one connection that writes, a few that read."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tracer.collector.database import open_reader, open_writer
from tracer.collector.files import FileLock, prepare_file
from tracer.collector.search import compile_search
from tracer.collector.store import COLUMNS, OBJECTS, Addition, RefusedError, Row, Search, id_text
from tracer.collector.writer import Writer

__all__ = ["SqliteStore"]

T = TypeVar("T")

READERS = 4  # searches at once; each may scan the table, and there are cores to leave alone
SEARCH_SECONDS = 10.0  # a scan of a million events takes less; one of more needs narrowing
PROGRESS_STEPS = 10_000  # SQLite instructions between looks at the clock, well below 1 ms

_ALL = ", ".join(COLUMNS)
_SELECT = f"SELECT {_ALL} FROM events"  # noqa: S608 - column names of ours
_INSERT = (
    f"INSERT INTO events ({_ALL}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 - column names of ours
    "ON CONFLICT (event_id) DO NOTHING"
)
_EVENT_ID, _SESSION_ID, _TYPE = map(COLUMNS.index, ("event_id", "session_id", "event_type"))
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class SqliteStore:
    """Sessions and events in one file.

    Every method returns a future. One of a write is done after the commit, so that what it
    acknowledges survives the process and, with `synchronous=FULL`, the machine.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the database.

        Raises: ConfigError: no database of ours, too new, in use, or not to be opened.
        """
        self.duplicates = 0  # events that came again; written by the writer thread alone
        prepare_file(path)
        self._lock = FileLock(path)
        try:
            self._connection = open_writer(path)
        except BaseException:
            self._lock.release()
            raise
        self._path = path
        self._writer = Writer(self._connection)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="tracer-collector-reader")
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []

    def close(self) -> None:
        """Commit what waits, write the WAL back into the database and close it."""
        self._writer.close()
        self._pool.shutdown()
        for reader in self._readers:
            reader.close()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError:
            pass  # nothing is lost: the next start reads the WAL
        finally:
            self._connection.close()
            self._lock.release()

    def open_session(self, row: Row, size: int) -> Future[Row]:
        """Store a session, or merge into the one of that id; the future holds what is stored."""
        return self._writer.submit(lambda db: _open_session(db, row, merge=True), size)

    def add_to_session(self, session_id: bytes, events: list[Row], size: int) -> Future[None]:
        """Store events of one session; 404 when it is not there."""

        def work(db: sqlite3.Connection) -> None:
            found = _find(db, session_id)
            if found is None or not _is_session(found):
                raise RefusedError(404, f"there is no session {id_text(session_id)}")
            self._insert(db, events)

        return self._writer.submit(work, size)

    def add(self, addition: Addition, size: int) -> Future[None]:
        """Store events and those of their sessions that are not there yet."""

        def work(db: sqlite3.Connection) -> None:
            for row in addition.sessions:
                _open_session(db, row, merge=addition.merge)
            self._insert(db, addition.events)

        return self._writer.submit(work, size)

    def update(self, event_id: bytes, changes: Mapping[str, Any], size: int) -> Future[None]:
        """Merge objects into a stored event, key by key at the top; replace anything else."""

        def work(db: sqlite3.Connection) -> None:
            found = _find(db, event_id)
            if found is None:
                raise RefusedError(404, f"there is no event {id_text(event_id)}")
            _change(db, found, changes)

        return self._writer.submit(work, size)

    def get(self, event_id: bytes) -> Future[Row | None]:
        """Read one event."""
        return self._read(lambda db: _find(db, event_id))

    def search(self, search: Search, encode: Callable[[list[Row], int], T]) -> Future[T]:
        """Read a page of events and how many match in all.

        Args:
            encode: makes the answer of both, on the reading thread.
        """

        def work(db: sqlite3.Connection) -> T:
            deadline = time.monotonic() + SEARCH_SECONDS
            db.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
            try:
                return encode(*_search(db, search))
            except sqlite3.OperationalError as error:
                if time.monotonic() > deadline:
                    raise RefusedError(
                        400,
                        f"the search took longer than {SEARCH_SECONDS:.0f} s; narrow it with "
                        "dateRange, session_id or event_type",
                    ) from error
                raise
            finally:
                db.set_progress_handler(None, 0)

        return self._read(work)

    def _insert(self, db: sqlite3.Connection, events: list[Row]) -> None:
        before = db.total_changes
        db.executemany(_INSERT, events)
        self.duplicates += len(events) - (db.total_changes - before)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        return self._pool.submit(lambda: work(self._reader()))

    def _reader(self) -> sqlite3.Connection:
        reader: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if reader is None:
            reader = self._local.connection = open_reader(self._path)
            self._readers.append(reader)
        return reader


def _find(db: sqlite3.Connection, event_id: bytes) -> Row | None:
    row: Row | None = db.execute(f"{_SELECT} WHERE event_id = ?", (event_id,)).fetchone()
    return row


def _is_session(row: Row) -> bool:
    return bool(row[_SESSION_ID] == row[_EVENT_ID] and row[_TYPE] == "session")


def _open_session(db: sqlite3.Connection, row: Row, *, merge: bool) -> Row:
    found = _find(db, row[_EVENT_ID])
    if found is None:
        db.execute(_INSERT, row)
    elif not _is_session(found):
        raise RefusedError(
            400, f"session_id {id_text(row[_EVENT_ID])} is the event_id of a {found[_TYPE]} event"
        )
    elif merge:
        new = dict(zip(COLUMNS, row, strict=True))
        names = ("metadata", "user_properties")
        _change(db, found, {name: new[name] for name in names if new[name] is not None})
    else:
        return found
    return _find(db, row[_EVENT_ID]) or row


def _change(db: sqlite3.Connection, found: Row, changes: Mapping[str, Any]) -> None:
    old = dict(zip(COLUMNS, found, strict=True))
    values = {
        name: _merged(old[name], value) if name in OBJECTS and old[name] is not None else value
        for name, value in changes.items()
    }
    if values:
        assignments = ", ".join(f"{name} = ?" for name in values)
        db.execute(
            f"UPDATE events SET {assignments} WHERE event_id = ?",  # noqa: S608 - column names of ours
            (*values.values(), found[_EVENT_ID]),
        )


def _merged(old: str, new: str) -> str:
    return msgspec.json.encode(_members.decode(old) | _members.decode(new)).decode()


def _search(db: sqlite3.Connection, search: Search) -> tuple[list[Row], int]:
    where, parameters = compile_search(search)
    offset = (search.page - 1) * search.limit
    db.execute("BEGIN")  # page and total are read from one snapshot
    try:
        rows: list[Row] = db.execute(
            f"{_SELECT} {where} ORDER BY start_time DESC, id DESC LIMIT ? OFFSET ?",
            (*parameters, search.limit, offset),
        ).fetchall()
        if len(rows) < search.limit and (rows or offset == 0):
            return rows, offset + len(rows)  # the last page knows the total: no second scan
        counted = db.execute(f"SELECT count(*) FROM events {where}", parameters)  # noqa: S608 - made of columns and marks
        return rows, int(counted.fetchone()[0])
    finally:
        db.execute("COMMIT")
