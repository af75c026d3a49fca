"""The file of the embedded store: private, ours, of a version we know, and held by one."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from uuid import uuid4

import pytest

from tracer.collector import validate
from tracer.collector.database import APPLICATION_ID, MIGRATIONS, open_reader
from tracer.collector.sqlite import SqliteStore
from tracer.collector.store import Addition
from tracer.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o377])
def test_files_are_private_from_the_start_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "state" / "tracer" / "collector.db"
    before = os.umask(umask)
    try:
        store = SqliteStore(path)
        try:
            store.open_session(validate.session(b"{}"), 2).result(10)
            files = list(path.parent.iterdir())
            assert {f.name for f in files} >= {"collector.db", "collector.db-wal"}
            assert {f.name: oct(mode(f)) for f in files if mode(f) & 0o077} == {}
        finally:
            store.close()
    finally:
        os.umask(before)
    assert {mode(path.parent), mode(path.parent.parent)} == {0o700}
    assert mode(path) == 0o600


def test_a_new_file_has_our_version_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "collector.db"
    store = SqliteStore(path)
    try:
        settings = {
            name: store._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("user_version", "application_id", "journal_mode", "synchronous")
        }
        reader = open_reader(path)
        checkpoint = reader.execute("PRAGMA wal_autocheckpoint").fetchone()[0]
        reader.close()
    finally:
        store.close()
    assert settings == {
        "user_version": len(MIGRATIONS),
        "application_id": APPLICATION_ID,
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
    }
    assert checkpoint == 0


def test_closing_leaves_one_file_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "collector.db"
    store = SqliteStore(path)
    store.open_session(validate.session(b"{}"), 2).result(10)
    store.close()
    assert {f.name for f in tmp_path.iterdir()} == {"collector.db", "collector.db.lock"}
    store = SqliteStore(path)
    try:
        count = store._connection.execute("SELECT count(*) FROM events").fetchone()
    finally:
        store.close()
    assert count == (1,)


def test_closing_writes_the_wal_back_also_while_another_program_reads(tmp_path: Path) -> None:
    path = tmp_path / "collector.db"
    store = SqliteStore(path)
    store.open_session(validate.session(b"{}"), 2).result(10)
    other = sqlite3.connect(path)
    try:
        other.execute("SELECT count(*) FROM events").fetchall()
        store.close()
        assert (tmp_path / "collector.db-wal").stat().st_size == 0
    finally:
        other.close()


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        SqliteStore(path).close()
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is no database " * 100)
    assert "not a database" in refused(path)
    assert path.read_text().startswith("this is no database")


@pytest.mark.parametrize("version", [0, 1])
def test_a_database_of_another_program_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE events (x)")
    other.execute(f"PRAGMA user_version={version}")
    other.close()
    before = path.read_bytes()
    assert "another program" in refused(path)
    assert path.read_bytes() == before


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    SqliteStore(path).close()
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    newer.close()
    assert f"has version {len(MIGRATIONS) + 1}" in refused(path)


def test_a_directory_a_missing_target_and_a_file_as_directory_are_refused(tmp_path: Path) -> None:
    assert "no regular file" in refused(tmp_path)
    dangling = tmp_path / "link.db"
    dangling.symlink_to(tmp_path / "elsewhere.db")
    refused(dangling)
    assert not (tmp_path / "elsewhere.db").exists()
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "collector.db")


def test_one_database_serves_one_collector_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "collector.db"
    store = SqliteStore(path)
    try:
        assert "another collector" in refused(path)
    finally:
        store.close()
    SqliteStore(path).close()


def test_events_that_come_again_are_counted_and_change_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "collector.db")
    try:
        session = uuid4()
        first, second = (
            f'{{"event_type":"tool","event_id":"{uuid4()}","inputs":{{}}}}' for _ in range(2)
        )
        for events in (first, f"{first},{second},{second}"):
            body = f'{{"events":[{events}]}}'.encode()
            rows = validate.session_batch(body, session.bytes)
            store.add(Addition(rows, []), len(body)).result(10)
        assert store.duplicates == 2
    finally:
        store.close()
