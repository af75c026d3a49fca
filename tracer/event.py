"""The finished record: an event, a session or an update as the JSON that goes over the wire.

`metadata` is always the last member of an event, so that what the background adds to it is
spliced in before the two closing braces; nobody encodes an event twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from typing import Any

import orjson

from tracer.callables import Capture
from tracer.encode import Encoder, encode, encode_object
from tracer.failures import text_of
from tracer.schema import EVENT_TYPES

__all__ = ["OBJECTS", "Encoded", "Fields", "Shape", "event_json", "mask_fields", "merge"]
__all__ += ["object_json", "shape_of", "shorten"]

Mask = Callable[[bytes], bytes]  # one field as JSON -> the same with its secrets masked
Fields = dict[str, bytes]  # name of a field -> its value as JSON, encoded when it was given

# The members of an event that are objects: given twice, they merge.
OBJECTS = frozenset(
    ("inputs", "outputs", "config", "metrics", "feedback", "user_properties", "metadata")
)


class Encoded(bytes):
    """A JSON object that was put together from values encoded one by one."""

    __slots__ = ()


class Shape:
    """What every event of one decorated function, or of one name, has in common."""

    __slots__ = (
        "config",
        "event_type",
        "head",
        "metadata",
        "name",
        "process_outputs",
        "tail",
        "takes_inputs",
        "takes_outputs",
    )

    def __init__(
        self,
        event_type: str,
        name: str,
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        capture: Capture = Capture(),  # noqa: B008 - frozen
    ) -> None:
        self.takes_inputs, self.takes_outputs = capture.inputs, capture.outputs
        self.process_outputs = capture.process_outputs
        if event_type not in EVENT_TYPES:
            allowed = ", ".join(EVENT_TYPES)
            raise ValueError(f"event_type must be one of {allowed}, not {event_type!r}")
        self.event_type = event_type
        self.name = name
        self.head = f'"event_type":"{event_type}","event_name":{encode(name).decode()}'
        settings = None if config is None else encode_object(config)
        self._set(settings, b"{}" if metadata is None else encode_object(metadata))

    def _set(self, config: bytes | None, metadata: bytes) -> None:
        self.config, self.metadata = config, metadata
        settings = b"" if config is None else b',"config":%b' % config
        self.tail = b'%b,"metadata":%b}' % (settings, metadata)

    def masked(self, mask: Mask) -> Shape:
        """Return the same with config and metadata masked."""
        other = copy(self)
        other._set(None if self.config is None else mask(self.config), mask(self.metadata))
        return other


@lru_cache(maxsize=1024)  # names given to context managers are few; one per request is not kept
def shape_of(event_type: str, name: str) -> Shape:
    """Return the shape of events without config and metadata of their own."""
    return Shape(event_type, name)


def merge(fields: Fields, given: Mapping[str, Any], encoder: Encoder) -> None:
    """Add what is `given` to `fields`, as it is now; an object merges into one already there."""
    for name, value in given.items():
        if value is None:
            continue
        if name == "error":
            fields[name] = encoder.value(_error_text(value))
        elif name not in OBJECTS:
            fields[name] = encode(value)
        elif name in fields:
            fields[name] = _merged(fields[name], encoder.object(value))
        else:
            fields[name] = encoder.object(value)


def _error_text(error: Any) -> str:
    # the server takes text alone: an exception object given to `Span.set` would cost the event
    if isinstance(error, BaseException):
        return text_of(error)
    return error if isinstance(error, str) else encode(error).decode()


def _merged(old: bytes, new: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(old), **orjson.loads(new)})


def event_json(
    shape: Shape, place: str, start_ms: int, duration_ns: int | None, fields: Fields
) -> tuple[bytes, bytes]:
    """Return one event as the server takes it in two pieces: what is ours, and what was recorded.

    `metadata` is last.

    Args:
        place: the members that say where it belongs: ids and source, as JSON with a comma behind.
        duration_ns: None for one that has not ended.
        fields: every other member.
    """
    if duration_ns is None:
        head = f'{{{place}{shape.head},"start_time":{start_ms},"inputs":'.encode()
    else:
        end_ms = start_ms + duration_ns // 1_000_000
        head = (
            f'{{{place}{shape.head},"start_time":{start_ms},"end_time":{end_ms},'
            f'"duration":{duration_ns / 1e6:.3f},"inputs":'
        ).encode()
    inputs, outputs = fields.get("inputs", b"{}"), fields.get("outputs")
    if len(fields) == 2 and outputs is not None and "inputs" in fields:  # nearly every call
        return head, b"".join((inputs, b',"outputs":', outputs, shape.tail))
    config, metadata = fields.get("config"), fields.get("metadata")
    if shape.config is not None:
        config = shape.config if config is None else _merged(shape.config, config)
    metadata = shape.metadata if metadata is None else _merged(shape.metadata, metadata)
    members = [
        b',"%b":%b' % (name.encode(), value)
        for name, value in fields.items()
        if name not in ("inputs", "config", "metadata")
    ]
    if config is not None:
        members.append(b',"config":%b' % config)
    return head, b"".join((inputs, *members, b',"metadata":', metadata, b"}"))


def mask_fields(fields: Fields, mask: Mask) -> Fields:
    """Return the fields with those masked that hold the program's values."""
    return {
        name: mask(value) if name in OBJECTS or name == "error" else value
        for name, value in fields.items()
    }


def shorten(fields: Fields, max_bytes: int, cut: Callable[[bytes, int], bytes]) -> Fields:
    """Return the fields in at most `max_bytes` altogether: the largest are cut, to one size."""
    room, waiting = max_bytes, len(fields)
    found = dict(fields)
    for name, value in sorted(fields.items(), key=lambda item: len(item[1])):
        share = max(room // waiting, 0)
        if len(value) > share:
            found[name] = value = cut(value, share)
        room -= len(value)
        waiting -= 1
    return found


def object_json(fields: Fields) -> bytes:
    """Return an object of `fields`: the body of a `create`, or of a `PUT`."""
    members = [b'"%b":%b' % (name.encode(), value) for name, value in fields.items()]
    return b"{%b}" % b",".join(members)
