"""A batch becomes requests: sessions are opened, events sent, updates put, outcomes settled."""

from __future__ import annotations

from tracer.buffer import Buffer
from tracer.clock import UUID_FORM
from tracer.deadletters import DeadLetters
from tracer.errors import (
    AuthError,
    ConflictError,
    PayloadTooLargeError,
    RejectedError,
    SessionNotFoundError,
    TransientError,
    TransportError,
)
from tracer.exchange import Exchange
from tracer.opened import OpenedSessions, wire_id_of
from tracer.segment import (
    DEAD,
    DELIVERED,
    DROPPED,
    ENDS,
    EVENT,
    EVENT_ID,
    SESSION,
    SUPERSEDED,
    UPDATE,
    Frame,
)
from tracer.transport import Transport
from tracer.updates import merged

__all__ = ["Delivery"]


class Delivery:
    """Send frames of one buffer, remember which sessions are open, settle what is decided.

    Raises TransientError and AuthError to whoever decides when to try again; every other outcome
    is decided here. What is settled before an error stays settled.
    """

    def __init__(
        self, buffer: Buffer, transport: Transport, dead: DeadLetters | None = None
    ) -> None:
        """Send over `transport`; keep a copy of what is refused for good in `dead`, if there is."""
        self._buffer = buffer
        self._dead = dead
        self.exchange = Exchange(transport)
        self._sessions = OpenedSessions(self.exchange, self.note)

    def send(self, frames: list[Frame]) -> None:
        """Per session: `create`, events, updates; all updates last, they may cross sessions."""
        events: dict[bytes, list[Frame]] = {}
        for frame in frames:
            if frame.kind == SESSION:
                self._open(frame)
            elif frame.kind == EVENT:
                events.setdefault(frame.session, []).append(frame)
        for session, batch in events.items():
            self._deliver(session, batch)
        changes: dict[tuple[bytes, bytes], list[Frame]] = {}
        for frame in frames:
            if frame.kind == UPDATE:
                event_id = frame.payload[:EVENT_ID]
                changes.setdefault((frame.session, event_id), []).append(frame)
            elif frame.kind not in (SESSION, EVENT):  # of another version; left, it would stay
                self._buffer.settle([frame], DROPPED)
        for several in changes.values():
            self._update(several)

    def _open(self, frame: Frame) -> None:
        opened = self._sessions.open(frame.session, frame.payload)
        if opened is None:
            self._buffer.settle([frame], SUPERSEDED)
        else:
            self._buffer.settle([frame], DROPPED if opened.refused else DELIVERED)

    def _deliver(self, session: bytes, frames: list[Frame]) -> None:
        """Send events of one session; split what is too large, find what is refused."""
        opened = self._sessions.get(session)
        if opened is not None and opened.refused:
            self._give_up(frames, opened.refused, opened.error)
            return
        path = f"/v1/sessions/{self._sessions.wire_id(session)}/events/batch"
        body = b'{"events":[%b]}' % b",".join([frame.payload for frame in frames])
        try:
            self.exchange.request("POST", path, body, frames=frames)
        except ConflictError:
            pass  # stored already
        except SessionNotFoundError as error:
            self.note(error)
            self._sessions.reopen(session, error)
            self._deliver(session, frames)
            return
        except (PayloadTooLargeError, RejectedError) as error:
            self._narrow_down(session, frames, error)
            return
        self._buffer.settle(frames, DELIVERED)
        if opened is not None:
            opened.reopened = False

    def _narrow_down(self, session: bytes, frames: list[Frame], error: TransportError) -> None:
        """Halve a refused batch, so that what is wrong with one event costs that event alone."""
        splits = isinstance(error, PayloadTooLargeError) or error.status in (400, 422)
        if splits and len(frames) > 1:
            middle = len(frames) // 2
            self._deliver(session, frames[:middle])
            self._deliver(session, frames[middle:])
        else:
            self.note(error)
            reason = "too_large" if isinstance(error, PayloadTooLargeError) else "rejected"
            self._give_up(frames, reason, error)

    def _give_up(self, frames: list[Frame], reason: str, error: TransportError | None) -> None:
        """Drop events of one session for good; where there is a journal, keep a copy of them."""
        kept = 0
        if self._dead is not None:
            wire_id = self._sessions.wire_id(frames[0].session)
            status, message = (None, "") if error is None else (error.status, error.message)
            events = [frame.payload for frame in frames]
            kept = self._dead.add(reason, status, message, wire_id, events)
        self._buffer.settle(frames[:kept], DEAD, reason)
        self._buffer.settle(frames[kept:], DROPPED, reason)

    def _update(self, frames: list[Frame]) -> None:
        """Change one event once, however many changes wait; one that is refused costs itself."""
        session, payload = frames[0].session, frames[0].payload
        event_id, body = str(payload[:EVENT_ID], "ascii", "replace"), payload[EVENT_ID:]
        if len(frames) > 1:
            together = merged([frame.payload[EVENT_ID:] for frame in frames])
            if together is None:
                self._update_one_by_one(frames)
                return
            body = together
        outcome = DELIVERED
        try:
            if not (UUID_FORM.fullmatch(event_id) and body.startswith(b"{")):  # no path of ours
                raise RejectedError(f"an update names no event: {event_id!r}")
            if event_id == wire_id_of(session):
                event_id = self._sessions.wire_id(session)
            self.exchange.request("PUT", f"/v1/events/{event_id}", body)
        except (TransientError, AuthError):
            raise
        except ConflictError:
            pass  # stored already
        except (PayloadTooLargeError, RejectedError) as error:
            if len(frames) > 1:
                self._update_one_by_one(frames)
                return
            self.note(error)
            outcome = DROPPED
        except TransportError as error:
            self.note(error)
            outcome = DROPPED
        self._buffer.settle(frames, outcome)
        if any(frame.flags & ENDS for frame in frames):
            self._sessions.forget(session)

    def _update_one_by_one(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._update([frame])

    def note(self, error: TransportError) -> None:
        """Keep the error for `stats`; log its kind at most once a minute."""
        kept = "the journal keeps the events" if self._buffer.durable else "events wait in memory"
        waits = isinstance(error, (TransientError, AuthError))
        self.exchange.note(error, kept if waits else "see stats().dropped")
