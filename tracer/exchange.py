"""Requests of the background: counted, read, and remembered where their outcome is unknown."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from tracer.answers import named_events, parsed
from tracer.errors import AuthError, TransientError, TransportError
from tracer.frame import EVENT_ID
from tracer.segment import Frame
from tracer.transport import MAX_ANSWER, Request, Transport
from tracer.voice import log

__all__ = ["Exchange", "event_id_of"]

CREATE_ANSWER = 4 << 20  # bytes; the answer to `create` repeats the whole session
QUIET = 60.0  # seconds between two log lines about the same kind of failure
MAX_DOUBTFUL = 100  # attempts; each is sent again first of all, so that one or two are in doubt

_ID = slice(len('{"event_id":"'), len('{"event_id":"') + EVENT_ID)


class Exchange:
    """Ask the server one thing at a time, over whatever transport there is now.

    Attributes:
        retries: requests repeated at once because an idle connection had been closed.
        ambiguous_resends: attempts of unknown outcome whose events were sent again.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.attempts = self.retries = self.bytes_sent = self.ambiguous_resends = 0
        self.last_error: str | None = None
        self.last_success: float | None = None  # Unix seconds
        self._doubtful: deque[frozenset[tuple[bytes, int]]] = deque(maxlen=MAX_DOUBTFUL)
        self._said: dict[type[Exception], float] = {}

    def request(
        self,
        method: str,
        path: str,
        body: bytes,
        states: str = "success",
        frames: Sequence[Frame] = (),
        *,
        names_events: bool = False,
        again: bool = True,
    ) -> dict[str, Any]:
        """Send one request and return its parsed answer.

        An idle connection that turns out to be closed costs one more request at once and no wait
        (RFC 9112 §9.3.1): every request of ours may arrive twice and count once.

        Args:
            states: the member of the answer that must be there.
            frames: the events in it. An answer that names less than these is none; `names_events`
                says that it has to name them.
        """
        if frames and self._doubtful:
            self._count_resends(frames)
        try:
            answer = self._once(method, path, body, states)
            if frames:
                _check_names(answer, frames, required=names_events)
            return answer
        except TransientError as error:
            if error.unknown and frames:
                self._doubtful.append(frozenset(map(_identity, frames)))
            if not (error.stale and again):
                raise
        self.retries += 1
        return self.request(
            method, path, body, states, frames, names_events=names_events, again=False
        )

    def _once(self, method: str, path: str, body: bytes, states: str) -> dict[str, Any]:
        self.attempts += 1
        self.bytes_sent += len(body)
        limit = CREATE_ANSWER if states == "session_id" else MAX_ANSWER
        answer = parsed(self.transport.send(Request(method, path, body, limit)), states)
        self.last_success = time.time()
        self._said.pop(AuthError, None)
        return answer

    def _count_resends(self, frames: Sequence[Frame]) -> None:
        sent = set(map(_identity, frames))
        for attempt in [attempt for attempt in self._doubtful if not sent.isdisjoint(attempt)]:
            self._doubtful.remove(attempt)
            self.ambiguous_resends += 1

    def note(self, error: TransportError, what: str) -> None:
        """Keep the error for `stats`; log its kind at most once a minute, with `what` it means.

        A refused key is said once, until a key works.
        """
        self.last_error = str(error)
        kind, now = type(error), time.monotonic()
        said = self._said.get(kind)
        if said is None or (now - said >= QUIET and kind is not AuthError):
            self._said[kind] = now
            status = "" if error.status is None else f" (status {error.status})"
            log.warning("sending failed%s: %s; %s", status, error, what)


def event_id_of(frame: Frame) -> str:
    """Return the id of an event, with which recorder.py begins its JSON."""
    return str(frame.payload[_ID], "ascii", "replace")


def _check_names(answer: dict[str, Any], frames: Sequence[Frame], *, required: bool) -> None:
    named = named_events(answer)
    if named is None:
        if not required:
            return
        named = frozenset[str]()
    stored = named.intersection(map(event_id_of, frames))
    if len(stored) < len(frames):
        raise TransientError(
            f"the answer names {len(stored)} of {len(frames)} events",
            200,
            unknown=True,
            stored=stored,
        )


def _identity(frame: Frame) -> tuple[bytes, int]:
    # not its place: a frame may be copied forward between two attempts
    return frame.session, frame.sequence
