"""A batch becomes requests: sessions are opened, events sent, updates put, outcomes settled."""

from __future__ import annotations

import re
import time
from typing import Any
from uuid import UUID

from tracer.answers import parsed
from tracer.buffer import Buffer
from tracer.clock import UUID_FORM
from tracer.errors import (
    AuthError,
    ConflictError,
    PayloadTooLargeError,
    RejectedError,
    SessionNotFoundError,
    TransientError,
    TransportError,
)
from tracer.frame import (
    DELIVERED,
    DROPPED,
    ENDS,
    EVENT,
    EVENT_ID,
    OPEN,
    SESSION,
    SUPERSEDED,
    UPDATE,
)
from tracer.segment import Frame
from tracer.transport import MAX_ANSWER, Request, Transport
from tracer.updates import merged
from tracer.voice import log

__all__ = ["Delivery"]

CREATE_ANSWER = 4 << 20  # bytes; the answer to `create` repeats the whole session
QUIET = 60.0  # seconds between two log lines about the same kind of failure

# The start of every session frame, as recorder.py writes it: enough to open the session with.
_ID_AND_NAME = re.compile(rb'{"session_id":"[^"]*","session_name":"(?:[^"\\]|\\.)*"')


class _Opened:
    """A session this process opened: the id the server answered with, and how to open it again."""

    def __init__(self, wire_id: str, body: bytes) -> None:
        self.wire_id = wire_id
        self.body = body
        self.reopened = False
        self.refused: str | None = None  # why its events are dropped

    def is_renamed(self, session: bytes) -> bool:
        """Tell whether the server answered with another id than `session`."""
        return self.wire_id != _wire_id(session)


class Delivery:
    """Send frames of one buffer, remember which sessions are open, settle what is decided.

    Raises TransientError and AuthError to whoever decides when to try again; every other outcome
    is decided here. What is settled before an error stays settled.
    """

    def __init__(self, buffer: Buffer, transport: Transport) -> None:
        self._buffer = buffer
        self.transport = transport
        self._opened: dict[bytes, _Opened] = {}
        self._said: dict[type[Exception], float] = {}
        self.attempts = self.bytes_sent = 0
        self.interrupted = 0  # spans of dead processes, sent as events of ours
        self.last_error: str | None = None
        self.last_success: float | None = None  # Unix seconds

    def send(self, frames: list[Frame]) -> None:
        """Per session: `create`, events, updates; all updates last, they may cross sessions."""
        events: dict[bytes, list[Frame]] = {}
        for frame in frames:
            if frame.kind == SESSION:
                self._open(frame)
            elif frame.kind == EVENT:
                events.setdefault(frame.session, []).append(frame)
            elif frame.kind == OPEN:  # a dead process was in the midst of it
                self.interrupted += 1
                event = frame._replace(payload=frame.payload[EVENT_ID:])
                events.setdefault(frame.session, []).append(event)
        for session, batch in events.items():
            self._deliver(session, batch)
        changes: dict[tuple[bytes, bytes], list[Frame]] = {}
        for frame in frames:
            if frame.kind == UPDATE:
                event_id = frame.payload[:EVENT_ID]
                changes.setdefault((frame.session, event_id), []).append(frame)
            elif frame.kind not in (
                SESSION,
                EVENT,
                OPEN,
            ):  # of another version; left, it would stay
                self._buffer.settle([frame], DROPPED)
        for several in changes.values():
            self._update(several)

    def _open(self, frame: Frame) -> None:
        known = self._opened.get(frame.session)
        if known is not None and (known.body == frame.payload or known.is_renamed(frame.session)):
            # two threads announced it at once; or its id would be replaced once more
            self._buffer.settle([frame], SUPERSEDED)
            return
        opened = _Opened(_wire_id(frame.session), frame.payload)
        self._create(opened)
        self._opened[frame.session] = opened  # only now: an error must not make it look open
        self._buffer.settle([frame], DROPPED if opened.refused else DELIVERED)

    def _create(self, opened: _Opened) -> None:
        """Open a session; when refused once more with id and name alone, then give it up."""
        shortest = _ID_AND_NAME.match(opened.body)
        bodies = [opened.body, shortest[0] + b"}"] if shortest else [opened.body]
        for body in bodies:
            try:
                answer = self._request("POST", "/v1/sessions", body, states="session_id")
            except ConflictError:
                return
            except (TransientError, AuthError):
                raise
            except TransportError as error:
                self.note(error)
            else:
                opened.wire_id = str(answer["session_id"])
                return
        opened.refused = "rejected"

    def _deliver(self, session: bytes, frames: list[Frame]) -> None:
        """Send events of one session; split what is too large, find what is refused."""
        opened = self._opened.get(session)
        if opened is not None and opened.refused:
            self._buffer.settle(frames, DROPPED, opened.refused)
            return
        wire_id = opened.wire_id if opened is not None else _wire_id(session)
        body = b'{"events":[%b]}' % b",".join([frame.payload for frame in frames])
        try:
            self._request("POST", f"/v1/sessions/{wire_id}/events/batch", body)
        except ConflictError:
            pass  # stored already
        except SessionNotFoundError as error:
            self.note(error)
            self._reopen(session)
            self._deliver(session, frames)
            return
        except (PayloadTooLargeError, RejectedError) as error:
            self._narrow_down(session, frames, error)
            return
        self._buffer.settle(frames, DELIVERED)
        if opened is not None:
            opened.reopened = False

    def _reopen(self, session: bytes) -> None:
        """Create a vanished session once; its second disappearance costs its events."""
        opened = self._opened.get(session)
        if opened is None:  # a dead process opened it, or it ended long ago
            body = b'{"session_id":"%b"}' % _wire_id(session).encode()
            opened = self._opened[session] = _Opened(_wire_id(session), body)
        if opened.reopened:
            opened.refused = "session_gone"
        else:
            self._create(opened)
            opened.reopened = True

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
            self._buffer.settle(frames, DROPPED, reason)

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
        opened = self._opened.get(session)
        outcome = DELIVERED
        try:
            if not (UUID_FORM.fullmatch(event_id) and body.startswith(b"{")):  # no path of ours
                raise RejectedError(f"an update names no event: {event_id!r}")
            if opened is not None and event_id == _wire_id(session):
                event_id = opened.wire_id
            self._request("PUT", f"/v1/events/{event_id}", body)
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
        ended = any(frame.flags & ENDS for frame in frames)
        if ended and opened is not None and not opened.is_renamed(session):
            self._opened.pop(session, None)  # late events find it on the server

    def _update_one_by_one(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._update([frame])

    def _request(
        self, method: str, path: str, body: bytes, states: str = "success"
    ) -> dict[str, Any]:
        self.attempts += 1
        self.bytes_sent += len(body)
        limit = CREATE_ANSWER if states == "session_id" else MAX_ANSWER
        answer = parsed(self.transport.send(Request(method, path, body, limit)), states)
        self.last_success = time.time()
        return answer

    def note(self, error: TransportError) -> None:
        """Keep the error for `stats`; log its kind at most once a minute."""
        self.last_error = str(error)
        now = time.monotonic()
        if now - self._said.get(type(error), -QUIET) >= QUIET:
            self._said[type(error)] = now
            kept = (
                "the journal keeps the events"
                if self._buffer.writer.durable
                else "events wait in memory"
            )
            what = kept if isinstance(error, (TransientError, AuthError)) else "see stats().dropped"
            status = "" if error.status is None else f" (status {error.status})"
            log.warning("sending failed%s: %s; %s", status, error, what)


def _wire_id(session: bytes) -> str:
    return str(UUID(bytes=session))
