"""Updates become requests: `PUT /v1/events/{event_id}`, once for each event."""

from __future__ import annotations

from collections.abc import Callable

from tracer.buffer import Buffer
from tracer.clock import UUID_FORM
from tracer.errors import (
    AuthError,
    ConflictError,
    PayloadTooLargeError,
    RejectedError,
    TransientError,
    TransportError,
)
from tracer.exchange import Exchange
from tracer.frame import DELIVERED, DROPPED, ENDS, EVENT_ID
from tracer.opened import OpenedSessions, wire_id_of
from tracer.segment import Frame
from tracer.updates import merged, with_losses

__all__ = ["Changes"]


class Changes:
    """Send the updates of one buffer and settle them; the end of a session lets go of it.

    Raises TransientError and AuthError; a change that is refused for good is dropped.
    """

    def __init__(
        self,
        buffer: Buffer,
        exchange: Exchange,
        sessions: OpenedSessions,
        note: Callable[[TransportError], None],
    ) -> None:
        self._buffer = buffer
        self._exchange = exchange
        self._sessions = sessions
        self._note = note

    def send(self, frames: list[Frame]) -> None:
        """Change each event once, however many changes to it wait."""
        changes: dict[tuple[bytes, bytes], list[Frame]] = {}
        for frame in frames:
            changes.setdefault((frame.session, frame.payload[:EVENT_ID]), []).append(frame)
        for several in changes.values():
            self._send_one(several)

    def _send_one(self, frames: list[Frame]) -> None:
        """Change one event once, however many changes wait; one that is refused costs itself."""
        session, payload = frames[0].session, frames[0].payload
        event_id, body = str(payload[:EVENT_ID], "ascii", "replace"), payload[EVENT_ID:]
        if len(frames) > 1:
            together = merged([frame.payload[EVENT_ID:] for frame in frames])
            if together is None:
                self._one_by_one(frames)
                return
            body = together
        ends = any(frame.flags & ENDS for frame in frames)
        if ends and (lost := self._buffer.losses_of(session)):
            body = with_losses(body, lost)
        outcome = DELIVERED
        try:
            if not (UUID_FORM.fullmatch(event_id) and body.startswith(b"{")):  # no path of ours
                raise RejectedError(f"an update names no event: {event_id!r}")
            if event_id == wire_id_of(session):
                event_id = self._sessions.wire_id(session)
            self._exchange.request("PUT", f"/v1/events/{event_id}", body)
        except (TransientError, AuthError):
            raise
        except ConflictError:
            pass  # stored already
        except (PayloadTooLargeError, RejectedError) as error:
            if len(frames) > 1:
                self._one_by_one(frames)
                return
            self._note(error)
            outcome = DROPPED
        except TransportError as error:
            self._note(error)
            outcome = DROPPED
        self._buffer.settle(frames, outcome)
        if ends:
            self._sessions.forget(session)
            self._buffer.forget_losses(session)

    def _one_by_one(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._send_one([frame])
