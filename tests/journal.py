"""What a tracer has written, read back from its segments and checked against the contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracer.buffer import Buffer
from tracer.check import problems
from tracer.config import Config
from tracer.frame import EVENT, EVENT_ID, SESSION, UPDATE
from tracer.key import Key
from tracer.schema import Event, EventUpdate, Session, json_schema
from tracer.segment import Frame
from tracer.surroundings import Surroundings, segment_source
from tracer.tracer import Source, Tracer

_SCHEMAS: dict[type, dict[str, Any]] = {
    kind: json_schema(kind) for kind in (Event, EventUpdate, Session)
}


class Kept:
    """Empties nothing: in the place of a flusher."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def flush(self, timeout: float) -> None:
        """Return at once: everything is in the journal."""

    def stop(self, timeout: float) -> None:
        if not self._buffer.writer.closed:
            self._buffer.refuse_writes()
            self._buffer.close()

    def after_fork_in_child(self) -> None:
        """Do nothing: there is no thread."""


@contextmanager
def local_tracer(directory: Path, **options: Any) -> Iterator[Tracer]:
    """Run a tracer that keeps everything in the journal below `directory`, without a flusher.

    Who reads the journal would else do so beside a thread that tends it.
    """
    config = Config.resolve(local=True, spool_dir=directory, **options)
    source, _ = segment_source(config, Key(config, wanted=False))
    buffer = Buffer(source, config.max_queue, config.max_queue_bytes)
    tracer = Tracer.of(config, Source(), Surroundings(buffer, Kept(buffer)))
    try:
        yield tracer
    finally:
        tracer.shutdown(1.0)


def events(written: Tracer | Buffer) -> list[dict[str, Any]]:
    """Return the events in the order written; each fits the contract and ends with `metadata`."""
    found = []
    for frame in _frames(written, EVENT):
        members = json.loads(frame.payload, object_pairs_hook=_without_doubles)
        assert list(members)[-1] == "metadata"
        assert frame.payload.endswith(b"}}")
        assert frame.session.hex() == members["session_id"].replace("-", "")
        found.append(_checked(members, Event))
    return found


def sessions(written: Tracer | Buffer) -> list[dict[str, Any]]:
    """Return the bodies of the `create`s in the order written."""
    return [_checked(json.loads(f.payload), Session) for f in _frames(written, SESSION)]


def updates(written: Tracer | Buffer) -> list[tuple[str, dict[str, Any]]]:
    """Return the updates in the order written: the event's id and what to merge into it."""
    return [
        (
            str(f.payload[:EVENT_ID], "ascii"),
            _checked(json.loads(f.payload[EVENT_ID:]), EventUpdate),
        )
        for f in _frames(written, UPDATE)
    ]


def by_name(written: Tracer | Buffer) -> dict[str, dict[str, Any]]:
    """Return the events by name, where each name occurs once."""
    found = events(written)
    named = {event["event_name"]: event for event in found}
    assert len(named) == len(found)
    return named


def only(written: Tracer | Buffer) -> dict[str, Any]:
    """Return the one event there is."""
    (event,) = events(written)
    return event


def _frames(written: Tracer | Buffer, kind: int) -> list[Frame]:
    buffer = written if isinstance(written, Buffer) else written._buffer
    return [frame for frame in buffer.read(1 << 30, 1 << 40) if frame.kind == kind]


def _checked(value: dict[str, Any], record: type) -> dict[str, Any]:
    assert list(problems(value, _SCHEMAS[record])) == []
    return value


def _without_doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    assert len(found) == len(members), "a member occurs twice"
    return found
