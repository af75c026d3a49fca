"""One event that is too large alone, made smaller. The background alone comes here."""

from __future__ import annotations

from typing import Any

import orjson

from tracer.cut import compact, cut
from tracer.event import OBJECTS, object_json, shorten

__all__ = ["trimmed"]


def trimmed(event: bytes, max_bytes: int) -> bytes | None:
    """Return an event in at most `max_bytes`, its largest fields cut and marked as the caller does.

    Returns: None when it does not fit even so, or when a field would have to go without a marker.
    """
    members: dict[str, Any] = orjson.loads(event)
    fields = {name: compact(value) for name, value in members.items()}
    large = {name: field for name, field in fields.items() if name in OBJECTS}
    room = max_bytes - len(object_json(fields)) + sum(map(len, large.values()))
    cut_fields = shorten(large, room, cut)
    if any(field == b"{}" != large[name] for name, field in cut_fields.items()):
        return None
    shorter = object_json({**fields, **cut_fields})  # in their order: metadata stays last
    return shorter if len(shorter) <= max_bytes else None
