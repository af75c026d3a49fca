"""Programs run as processes of their own, waiting for what they do, and counting what arrived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from tracer.books import Stats

__all__ = [
    "Finished",
    "assert_books",
    "assert_exact",
    "environment",
    "run",
    "spawn",
    "stored",
    "wait_until",
]

ROOT = Path(__file__).parents[1]
STEP = 0.01  # seconds between two looks at a condition

# Reads the collector's file without its help: what is printed was really stored.
READER = """
import json, sqlite3, sys
from uuid import UUID

rows = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True).execute(
    "SELECT event_id, session_id, parent_id, event_type, event_name, inputs, outputs, metadata,"
    " duration, end_time FROM events"
)
for event_id, session_id, parent_id, *rest in rows:
    ids = [
        str(UUID(bytes=i)) if isinstance(i, bytes) else i
        for i in (event_id, session_id, parent_id)
    ]
    print(json.dumps([*ids, *rest]))
"""


def wait_until(condition: Callable[[], object], seconds: float = 20.0, what: str = "") -> None:
    """Return as soon as `condition()` is true; fail when it is not within `seconds`."""
    until = time.monotonic() + seconds
    pause = Event()
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what or condition}"
        pause.wait(STEP)


def environment(**extra: str | os.PathLike[str]) -> dict[str, str]:
    """Return an environment for a program of ours: this tree first, none of the user's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HH_")}
    return {**kept, "PYTHONPATH": str(ROOT), **{k: os.fspath(v) for k, v in extra.items()}}


def spawn(
    source: str, *arguments: object, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start `source` as a Python program; its output is kept in pipes."""
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(env or environment()),
    )


@dataclass(frozen=True)
class Finished:
    """How a program ended: exit code, output, seconds it ran."""

    code: int
    out: str
    err: str
    seconds: float


def run(
    source: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    seconds: float = 60.0,
) -> Finished:
    """Run `source` to its end; a program that hangs is killed, and fails the test."""
    started = time.monotonic()
    process = spawn(source, *arguments, env=env)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"hung for {seconds} s\n{out[-2000:]}\n{err[-4000:]}") from None
    return Finished(process.returncode, out, err, time.monotonic() - started)


@dataclass(frozen=True)
class Stored:
    """One row of the collector's table."""

    event_id: str
    session_id: str
    parent_id: str | None
    event_type: str
    name: str
    inputs: Any
    outputs: Any
    metadata: Any
    duration: float | None
    end_time: float | None


def stored(db: Path, *, sessions: bool = False) -> list[Stored]:
    """Return what a second process finds in the collector's file; session rows only on demand."""
    found = run(READER, db)
    assert found.code == 0, found.err
    rows = []
    for line in found.out.splitlines():
        values = json.loads(line)
        values[5:8] = [json.loads(v) if v else None for v in values[5:8]]
        rows.append(Stored(*values))
    return [row for row in rows if (row.event_type == "session") == sessions]


def assert_exact(rows: list[Stored], expected: set[str]) -> None:
    """Every expected event is there once, and nothing else."""
    counted = Counter(row.event_id for row in rows)
    twice = [event_id for event_id, number in counted.items() if number > 1]
    missing, foreign = expected - counted.keys(), counted.keys() - expected
    assert not missing, f"{len(missing)} of {len(expected)} are missing"
    assert not twice, f"{len(twice)} of {len(expected)} are there twice"
    assert not foreign, f"{len(foreign)} are there that nobody recorded"


def assert_books(stats: Stats) -> None:
    """Every event is in exactly one place of the accounting."""
    placed = stats.delivered + stats.queued + stats.in_flight + stats.spooled
    assert stats.recorded + stats.adopted_in == placed + sum(stats.dropped.values()), stats
