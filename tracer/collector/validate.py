"""Bodies of the writing requests to rows: what is refused, and what the server fills in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

from tracer.clock import wall_ms
from tracer.collector.decode import Decoder, object_text
from tracer.collector.store import OBJECTS, Addition, RefusedError, Row, id_key, id_text
from tracer.schema import Event, EventBatch, EventUpdate, Session, SessionEventBatch, fields_of

__all__ = [
    "PROJECT",
    "UNKNOWN",
    "Batch",
    "event",
    "event_batch",
    "path_id",
    "session",
    "session_batch",
    "update",
]

UNKNOWN = "unknown"  # what the contract calls a session or a source without a name
PROJECT = "local"  # organisation, workspace and project of everything in a local store

# `POST /v1/sessions` replaces these instead of refusing them.
_LENIENT = frozenset(
    ("session_id", "event_name", "session_name", "source", "start_time", "end_time")
)
_session = Decoder(Session, _LENIENT)
_session_batch = Decoder(SessionEventBatch)
_event = Decoder(Event)
_event_batch = Decoder(EventBatch)
_update = Decoder(EventUpdate)


@dataclass(frozen=True, slots=True)
class Batch:
    """What `POST /v1/events/batch` is to store, and the ids its answer names."""

    addition: Addition
    event_ids: list[str | None]
    session_id: str | None


def path_id(text: str, name: str) -> bytes:
    """Return the key of an id in a path. Raises: RefusedError: 400, it is no UUID."""
    key = id_key(text)
    if key is None:
        raise RefusedError(400, f"{name} in the path must be a UUID, not {text!r}")
    return key


def session(body: bytes) -> Row:
    """Read the body of `POST /v1/sessions`; every property has something to fall back on."""
    found = _session.decode(body)
    given = found.session_id
    key = (id_key(given) if isinstance(given, str) else None) or uuid4().bytes
    start, end = _number(found.start_time), _number(found.end_time)
    name = _text(found.event_name) or _text(found.session_name)
    objects = {n: object_text(getattr(found, n, None), "", n) for n in OBJECTS}
    return _session_row(
        key, name, _text(found.source), start, end, found.duration, found.children_ids, objects
    )


def session_batch(body: bytes, session_key: bytes) -> list[Row]:
    """Read the body of `POST /v1/sessions/{session_id}/events/batch`.

    Every event gets the session of the path, whatever its body says.
    """
    events = _session_batch.decode(body).events
    return [_event_row(e, f"events[{i}].", session_key) for i, e in enumerate(events)]


def event(body: bytes) -> Addition:
    """Read the body of `POST /v1/events`; without a session_id the event gets a new session."""
    found = _event.decode(body)
    key = uuid4().bytes if found.session_id is None else _key(found.session_id, "session_id")
    row = _event_row(found, "", key)
    return Addition([row], _missing_sessions([row], None))


def event_batch(body: bytes) -> Batch:
    """Read the body of `POST /v1/events/batch`."""
    found = _event_batch.decode(body)
    single = bool(found.single_session)
    shared = _shared_session(found.events) if single else None
    rows: list[Row] = []
    for index, item in enumerate(found.events):
        where = f"events[{index}]."
        if shared is None and item.session_id is None:
            raise RefusedError(
                400, f"{where}session_id is missing: every event names its session, a UUID"
            )
        rows.append(_event_row(item, where, shared or _key(item.session_id, f"{where}session_id")))
    addition = Addition(rows, _missing_sessions(rows, found.session_properties), merge=single)
    return Batch(addition, [id_text(row[0]) for row in rows], id_text(shared))


def update(body: bytes) -> dict[str, Any]:
    """Read the body of `PUT /v1/events/{event_id}`: column to new value, objects to merge."""
    found = _update.decode(body)
    changes: dict[str, Any] = {}
    for name in fields_of(EventUpdate):
        value = getattr(found, name)
        if value is None:
            continue
        if name in OBJECTS:
            changes[name] = object_text(value, "", name)
        else:
            changes[name] = _array(value) if name == "children_ids" else value
    return changes


def _event_row(found: Any, where: str, session_key: bytes) -> Row:
    given = found.event_id
    key = uuid4().bytes if given is None else _key(given, f"{where}event_id")
    parent: bytes | str | None = session_key
    if found.parent_id is not None:
        parent = id_key(found.parent_id) or found.parent_id
    if key == session_key:
        if found.event_type != "session":
            raise RefusedError(
                400, f"{where}event_id is the session's own id; only its session event has that"
            )
        parent = None
    start = found.start_time
    return (
        key,
        session_key,
        parent,
        found.event_type,
        found.event_name or UNKNOWN,
        found.source or UNKNOWN,
        found.project_id or PROJECT,
        wall_ms() if start is None else start,
        found.end_time,
        found.duration,
        found.error,
        _array(found.children_ids),
        object_text(found.config, where, "config"),
        object_text(found.inputs, where, "inputs"),
        object_text(found.outputs, where, "outputs"),
        object_text(found.metadata, where, "metadata"),
        object_text(found.feedback, where, "feedback"),
        object_text(found.metrics, where, "metrics"),
        object_text(found.user_properties, where, "user_properties"),
    )


def _session_row(
    key: bytes,
    name: str | None,
    source: str | None,
    start: float | None,
    end: float | None,
    duration: float | None,
    children_ids: list[str] | None,
    objects: dict[str, str | None],
) -> Row:
    started = wall_ms() if start is None else start
    names = ("session", name or UNKNOWN, source or UNKNOWN, PROJECT)
    times = (started, end, duration)
    payload = (objects.get(n) for n in OBJECTS)
    return (key, key, None, *names, *times, None, _array(children_ids), *payload)


def _missing_sessions(rows: list[Row], properties: Any) -> list[Row]:
    """Return the rows of the sessions these events are in, but for those among the events."""
    sent = {row[0] for row in rows if row[0] == row[1]}
    keys = dict.fromkeys(row[1] for row in rows if row[1] not in sent)
    name = source = start = None
    objects: dict[str, str | None] = {}
    if properties is not None:
        name, start = properties.session_name, properties.start_time
        where = "session_properties."
        objects = {
            n: object_text(getattr(properties, n), where, n)
            for n in ("metadata", "user_properties")
        }
    return [_session_row(k, name, source, start, None, None, None, objects) for k in keys]


def _shared_session(events: list[Any]) -> bytes:
    """Return the one session of `single_session`: the first one named, else a new one."""
    for index, item in enumerate(events):
        if item.session_id is not None:
            return _key(item.session_id, f"events[{index}].session_id")
    return uuid4().bytes


def _key(text: str, where: str) -> bytes:
    key = id_key(text)
    if key is None:
        raise RefusedError(400, f"{where} must be a UUID, not {text[:80]!r}")
    return key


def _array(values: list[str] | None) -> str | None:
    return None if values is None else msgspec.json.encode(values).decode()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
