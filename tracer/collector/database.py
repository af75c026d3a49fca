"""Open the SQLite file: its schema, migrations, and what each connection is set to."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tracer.errors import ConfigError

__all__ = ["APPLICATION_ID", "MIGRATIONS", "open_reader", "open_writer"]

APPLICATION_ID = 0x74726372  # "trcr": tells our files from other SQLite files
BUSY_SECONDS = 1.0  # another process may hold the lock; then 503 says so, nobody hangs
CHECKPOINT_PAGES = 1000  # 4 MiB of WAL: 4,000 cost p99 67 ms instead of 32 and gained nothing
CACHE_KIB = 32 << 10  # the upper levels of the indexes of a million events fit
READER_CACHE_KIB = 4 << 10

# One script for each version of the file; a released one is never changed. NUMERIC columns give
# whole numbers back as such. Every index ends in `id`, so newest first is a backwards walk.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        event_id BLOB NOT NULL UNIQUE,
        session_id BLOB NOT NULL,
        parent_id,
        event_type TEXT NOT NULL,
        event_name TEXT NOT NULL,
        source TEXT NOT NULL,
        project_id TEXT NOT NULL,
        start_time NUMERIC NOT NULL,
        end_time NUMERIC,
        duration NUMERIC,
        error TEXT,
        children_ids TEXT,
        config TEXT,
        inputs TEXT,
        outputs TEXT,
        metadata TEXT,
        feedback TEXT,
        metrics TEXT,
        user_properties TEXT
    );
    CREATE INDEX events_by_time ON events (start_time);
    CREATE INDEX events_by_session ON events (session_id, start_time);
    CREATE INDEX events_by_type ON events (event_type, start_time);
    """,
)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the connection that writes and checkpoints, and bring the file to the newest version.

    Raises: ConfigError: the file is none of ours, newer than this version, or unusable.
    """
    try:
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise ConfigError(f"cannot open the database {path}: {error}") from error
    try:
        _check(connection, path)
        _configure(connection, path)
        _migrate(connection)
    except sqlite3.Error as error:
        connection.close()
        raise ConfigError(f"cannot use the database {path}: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that can only read and never checkpoints."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # closed by the thread that closes the store
    )
    # SQLite below 3.51.3 may corrupt a WAL database when connections write and checkpoint at the
    # same time; one connection does both, all others do neither.
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}")
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = _number(connection, "PRAGMA user_version")
    owner = _number(connection, "PRAGMA application_id")
    tables = _number(connection, "SELECT count(*) FROM sqlite_master")
    if owner != APPLICATION_ID and (version or tables):
        raise ConfigError(f"{path} is a database of another program; name another file")
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"{path} has version {version}, this program knows {len(MIGRATIONS)} at most; "
            "update it, or name another file"
        )


def _configure(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise ConfigError(f"the file system of {path} cannot hold a database in WAL mode")
    for setting in (
        "synchronous=FULL",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        f"cache_size=-{CACHE_KIB}",
        "mmap_size=0",
        "temp_store=MEMORY",
        "foreign_keys=OFF",
    ):
        connection.execute(f"PRAGMA {setting}")


def _migrate(connection: sqlite3.Connection) -> None:
    version = _number(connection, "PRAGMA user_version")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")  # a migration is there as a whole or not at all
        try:
            for statement in script.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={number}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])
