"""A batch becomes requests: sessions are opened, events sent, updates put, outcomes settled."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from tracer.across import MAX_EVENTS, Across
from tracer.buffer import Buffer
from tracer.changes import Changes
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
from tracer.exchange import Exchange, event_id_of
from tracer.frame import (
    DEAD,
    DELIVERED,
    DROPPED,
    EVENT,
    EVENT_ID,
    KINDS,
    OPEN,
    SESSION,
    SUPERSEDED,
    UPDATE,
)
from tracer.narrowing import Breaker, SizeLimit
from tracer.opened import OpenedSessions, Refusal
from tracer.segment import Frame
from tracer.transport import Transport
from tracer.trim import trimmed

__all__ = ["Delivery"]

MAX_TRIMS = 4  # of one event; the last has 4 % of its size

_Refused = tuple[bytes, list[Frame], Refusal]  # session, events, why


class Delivery:
    """Send frames of one buffer, remember which sessions are open, settle what is decided.

    Raises TransientError and AuthError to whoever decides when to try again; every other outcome
    is decided here. What is settled before an error stays settled.
    """

    def __init__(
        self,
        buffer: Buffer,
        transport: Transport,
        dead: DeadLetters | None = None,
        on_error: Callable[[TransportError], object] = lambda _: None,
    ) -> None:
        """Send over `transport`; keep a copy of what is refused for good in `dead`, if there is.

        Args:
            on_error: called with every error.
        """
        self._on_error = on_error
        self._buffer = buffer
        self._dead = dead
        self._limit = SizeLimit()
        self._breaker = Breaker()
        self.trimmed = 0  # events that were cut because the server took them no larger
        self.exchange = Exchange(transport)
        self._sessions = OpenedSessions(self.exchange, self.note)
        self._across = Across(self.exchange)
        self._changes = Changes(buffer, self.exchange, self._sessions, self.note)

    @property
    def trouble(self) -> str | None:
        """Why it looks as if nothing that is sent will be taken; None: it does not."""
        if not self._breaker.is_open:
            return None
        return f"the server refuses everything: {self.exchange.last_error}"

    def send(self, frames: list[Frame]) -> None:
        """Per session: `create`, events, updates; all updates last, they may cross sessions."""
        events: dict[bytes, list[Frame]] = {}
        for frame in frames:
            if frame.kind == SESSION:
                self._open(frame)
            elif frame.kind == EVENT:
                events.setdefault(frame.session, []).append(frame)
            elif frame.kind == OPEN:  # a dead process was in the midst of it
                event = frame._replace(payload=frame.payload[EVENT_ID:])
                events.setdefault(frame.session, []).append(event)
        self._send_across(events)
        refused: list[_Refused] = []
        for session, batch in events.items():
            refused += self._deliver(session, batch)
        for one_batch in refused:  # only now: the others must not wait for it
            self._narrow_down(*one_batch)
        self._changes.send([frame for frame in frames if frame.kind == UPDATE])
        for frame in frames:
            if frame.kind not in KINDS:  # of another version; it would stay
                self._buffer.settle([frame], DROPPED)

    def _open(self, frame: Frame) -> None:
        opened = self._sessions.open(frame.session, frame.payload)
        if opened is None:
            self._buffer.settle([frame], SUPERSEDED)
        else:
            self._buffer.settle([frame], DROPPED if opened.refused else DELIVERED)

    def _send_across(self, events: dict[bytes, list[Frame]]) -> None:
        """Send events of many sessions together, and take those that are stored out of `events`."""
        may = [session for session in events if self._sessions.may_cross(session)]
        if not self._across.suits(len(may)):
            return
        waiting = [frame for session in may for frame in events[session]]
        while waiting:
            number = min(self._limit.count(waiting), MAX_EVENTS)
            part, size = waiting[:number], _size(waiting[:number])
            with self._settling(part):
                error = self._across.post(part)
            if error is not None:
                self.note(error)
                if isinstance(error, PayloadTooLargeError):
                    self._limit.refused(size)
                stored = error.stored if isinstance(error, TransientError) else frozenset[str]()
                self._settle_named(part, stored)
                waiting = [frame for frame in waiting if event_id_of(frame) not in stored]
                break
            self._accept(part, size)
            waiting = waiting[number:]
        left = dict.fromkeys(map(id, waiting))
        for session in may:
            events[session] = [frame for frame in events[session] if id(frame) in left]

    def _deliver(self, session: bytes, frames: list[Frame]) -> list[_Refused]:
        """Send events of one session in as many requests as it takes; return what was refused."""
        refused: list[_Refused] = []
        while frames:
            number = self._limit.count(frames)
            part = frames[:number]
            refusal = self._post(session, part)
            if refusal is not None and refusal.reason == "too_large":
                self._limit.refused(_size(part))
                if number > 1 and not self._breaker.is_open:
                    continue  # fewer of them
            if refusal is not None and self._breaker.is_open:
                return [*refused, (session, frames, refusal)]
            if refusal is not None:
                refused.append((session, part, refusal))
            frames = frames[number:]
        return refused

    def _post(self, session: bytes, frames: list[Frame]) -> Refusal | None:
        """Make one request of events of one session; create a vanished session once."""
        body = b'{"events":[%b]}' % b",".join([frame.payload for frame in frames])
        while True:
            opened = self._sessions.get(session)
            if opened is not None and opened.refused:
                return opened.refused
            path = f"/v1/sessions/{self._sessions.wire_id(session)}/events/batch"
            try:
                with self._settling(frames):
                    self.exchange.request("POST", path, body, frames=frames)
            except SessionNotFoundError as error:
                self.note(error)
                self._sessions.reopen(session, error)
                continue
            except PayloadTooLargeError as error:
                self._breaker.refused()
                return Refusal("too_large", error, splits=True)
            except RejectedError as error:
                self._breaker.refused()
                return Refusal("rejected", error, splits=error.status in (400, 422))
            except ConflictError:
                pass  # stored already
            break
        self._accept(frames, _size(frames))
        if opened is not None:
            opened.reopened = False
        return None

    def _accept(self, frames: list[Frame], size: int) -> None:
        self._buffer.settle(frames, DELIVERED)
        self._breaker.accepted()
        self._limit.accepted(size)

    @contextmanager
    def _settling(self, frames: list[Frame]) -> Generator[None, None, None]:
        """Settle what an answer names as stored, though all in all it is no success."""
        try:
            yield
        except TransientError as error:
            self._settle_named(frames, error.stored)
            raise

    def _settle_named(self, frames: list[Frame], stored: frozenset[str]) -> None:
        if stored:
            named = [frame for frame in frames if event_id_of(frame) in stored]
            self._buffer.settle(named, DELIVERED)

    def _narrow_down(self, session: bytes, frames: list[Frame], refusal: Refusal) -> None:
        """Find what is wrong with a refused batch, so that it costs the events concerned alone."""
        if not refusal.splits:
            self._give_up(session, frames, refusal)
        elif len(frames) == 1:
            if refusal.reason == "too_large" and not self._breaker.is_open:
                self._trim(session, frames[0], refusal)
            else:
                self._give_up(session, frames, refusal)
        elif self._breaker.is_open:
            self._ask_about_one(session, frames, refusal)
        else:
            middle = len(frames) // 2
            for half in (frames[:middle], frames[middle:]):
                for refused in self._deliver(session, half):
                    self._narrow_down(*refused)

    def _ask_about_one(self, session: bytes, frames: list[Frame], refusal: Refusal) -> None:
        """Let the last event of a batch speak for all, as long as the server refuses everything."""
        for refused in self._deliver(session, frames[-1:]):
            self._narrow_down(*refused)
        if self._breaker.is_open:
            self._give_up(session, frames[:-1], refusal)
            return
        for refused in self._deliver(session, frames[:-1]):
            self._narrow_down(*refused)

    def _trim(self, session: bytes, frame: Frame, refusal: Refusal) -> None:
        """Send an event that is too large alone in ever smaller sizes, its large fields cut."""
        for _ in range(MAX_TRIMS):
            shorter = trimmed(frame.payload, self._limit.room)
            if shorter is None:
                break
            found = self._post(session, [frame._replace(payload=shorter)])
            if found is None:
                self.trimmed += 1
                return
            refusal = found
            if refusal.reason != "too_large":
                break
            self._limit.refused(len(shorter) + 1)
        self._give_up(session, [frame], refusal)

    def _give_up(self, session: bytes, frames: list[Frame], refusal: Refusal) -> None:
        """Drop events of one session for good; where there is a journal, keep a copy of them."""
        error, reason, kept = refusal.error, refusal.reason, 0
        self.note(error)
        if self._dead is not None:
            events = [frame.payload for frame in frames]
            wire_id = self._sessions.wire_id(session)
            kept = self._dead.add(reason, error.status, error.message, wire_id, events)
        self._buffer.settle(frames[:kept], DEAD, reason)
        self._buffer.settle(frames[kept:], DROPPED, reason)

    def note(self, error: TransportError) -> None:
        """Keep the error for `stats`; log its kind at most once a minute."""
        durable = self._buffer.writer.durable
        kept = "the journal keeps the events" if durable else "events wait in memory"
        waits = isinstance(error, (TransientError, AuthError))
        self.exchange.note(error, kept if waits else "see stats().dropped")
        self._on_error(error)


def _size(frames: list[Frame]) -> int:
    """Return the bytes of events in a request, with the commas between them."""
    return sum(len(frame.payload) + 1 for frame in frames)
