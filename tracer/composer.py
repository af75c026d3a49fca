"""The JSON of an event, masked, within its bounds: what the recorder writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.encode import Encoder, encode
from tracer.event import Fields, event_json, mask_fields, merge, object_json, shorten
from tracer.spans import Span

if TYPE_CHECKING:
    from tracer.redact import Redactor

__all__ = ["INTERRUPTED", "Composer"]

INTERRUPTED = "interrupted: process ended"


class Composer:
    """Put the fields of one event, session or update together."""

    def __init__(
        self, encoder: Encoder, redactor: Redactor | None, max_bytes: int, source: str | None
    ) -> None:
        """Prepare what every event has.

        Args:
            max_bytes: bound on the JSON of one; its largest fields are cut first.
            source: the `source` of every one.
        """
        self._encoder = encoder
        self._redactor = redactor
        self._max_bytes = max_bytes
        self.source = None if source is None else encode(source)
        self._source_member = "" if source is None else f'"source":{encode(source).decode()},'

    def event(
        self, span: Span, start_ms: int, duration_ns: int | None, fields: Fields
    ) -> tuple[bytes, bytes]:
        """Return the JSON of an event in two pieces.

        Args:
            duration_ns: None for one that has not ended.
        """
        # a root event names no parent: the session's id would orphan it if the server answers
        # `create` with another one
        parent = "" if span.parent_id is None else f'"parent_id":"{span.parent_id}",'
        place = (
            f'"event_id":"{span.id}","session_id":"{span.session.id}",{parent}{self._source_member}'
        )
        shape, redactor = span.shape, self._redactor
        ours, rest = event_json(shape, place, start_ms, duration_ns, fields)
        # one look at all fields together, since nearly no event holds a secret
        if redactor is not None and redactor.suspects(rest):
            shape, fields = shape.masked(redactor), mask_fields(fields, redactor)
            ours, rest = event_json(shape, place, start_ms, duration_ns, fields)
        excess = len(ours) + len(rest) - self._max_bytes
        if excess > 0:
            room = sum(map(len, fields.values())) - excess
            fields = shorten(fields, room, self._encoder.cut)
            ours, rest = event_json(shape, place, start_ms, duration_ns, fields)
        return ours, rest

    def unfinished(self, span: Span) -> bytes:
        """Return the event of an open span as it is to be sent if the process dies now."""
        fields = {**span.fields, "error": encode(INTERRUPTED)}
        merge(fields, {"metadata": {"tracer": {"interrupted": True}}}, self._encoder)
        return b"".join(self.event(span, span.start_ms, None, fields))

    def fields(self, fields: Fields) -> Fields:
        """Return what may be written of a session or an update."""
        redactor = self._redactor
        if redactor is not None and redactor.suspects(object_json(fields)):
            fields = mask_fields(fields, redactor)
        return shorten(fields, self._max_bytes, self._encoder.cut)
