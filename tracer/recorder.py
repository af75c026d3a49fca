"""A call begins, a call ends: one frame. Sessions are opened and closed the same way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

from tracer.buffer import Buffer
from tracer.callables import Bind, processed
from tracer.clock import UUID_FORM, Clock, IdSource, wire_session_id
from tracer.composer import Composer
from tracer.context import CURRENT, Link, OwnWork, nearest, restore
from tracer.counts import value_of
from tracer.encode import Encoder, encode
from tracer.errors import Guard
from tracer.event import (
    Encoded,
    Fields,
    Shape,
    merge,
    object_json,
)
from tracer.failures import details, is_cancellation, text_of
from tracer.frame import ENDS, EVENT, OPEN, SESSION, SUPERSEDED, UPDATE
from tracer.spans import NOTHING, Session, Span

if TYPE_CHECKING:
    from tracer.redact import Redactor

__all__ = [
    "Recorder",
    "RecorderSource",
]

MAX_EVENT_BYTES = 1 << 20
MAX_JOINED = 1000  # sessions of other processes that are remembered; one forgotten is created again


class Recorder:
    """Turn calls into frames of one buffer; no method raises because of a value or a failure.

    `epoch` counts forks: what was opened in the parent process is ended by the parent alone.
    """

    def __init__(
        self,
        buffer: Buffer,
        guard: Guard,
        *,
        source: str | None,
        session_name: str,
        session_id: str | None = None,
        clock: Clock | None = None,
        capture_inputs: bool = True,
        capture_outputs: bool = True,
        tracebacks: bool = True,
        sample_rate: float = 1.0,
        ids: IdSource | None = None,
        encoder: Encoder | None = None,
        redactor: Redactor | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """Record into `buffer`; outside any session into one named `session_name`."""
        self.buffer = buffer
        self.encoder = encoder or Encoder(max_event_bytes)
        self._composer = Composer(self.encoder, redactor, max_event_bytes, source)
        self._takes_inputs, self._takes_outputs = capture_inputs, capture_outputs
        self._tracebacks = tracebacks
        self._sampled_below = sample_rate * 2.0**32
        self.guard = guard
        self.clock = clock or Clock()
        self.ids = ids or IdSource()
        self.epoch = 0
        self.reentrant = count()  # what our own work would have recorded
        self.on_fork: Callable[[], None] = _nothing
        self._pid = os.getpid()
        self._forking = False
        self._joined: dict[tuple[str, str], Session] = {}
        self.open: dict[str, Span] = {}  # by id; what the background looks at, and `enrich_span`
        self.default = self._new_session(session_name, session_id, None, {})

    # -- events ------------------------------------------------------------------------------

    def begin(
        self,
        shape: Shape,
        bind: Bind | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        *,
        detached: bool = False,
        parent: Span | Session | None = None,
    ) -> Span | None:
        """Open a span and make it current.

        Args:
            bind: turns `args` and `kwargs` into the named inputs of a decorated call.
            fields: the fields of a context manager.
            detached: do not make it current.
            parent: open it below this one instead of what is current.
        Returns: None inside `suppress()`, in a session that is not sampled, or when it fails.
        """
        span = None
        try:
            if self._forking:
                self._notice_fork()
            up = link = CURRENT.get()
            if link is not None and (link.ended or link.owner is not self):
                link = nearest(self)
            if parent is not None and (link is None or link.owner is not None):
                link = parent
            if link is None:
                session, parent_id = self.default, None
            elif isinstance(link, Span):
                session, parent_id = link.session, link.id
            elif isinstance(link, Session):
                session, parent_id = link, None
            else:
                if isinstance(link, OwnWork):
                    next(self.reentrant)
                return None
            if not session.sampled:
                return None
            if session.announced[0] != self.epoch:  # also lets the background begin its work
                self._announce(session)
            span = Span(self, up, shape, session, parent_id, {})
            if bind is not None:
                takes = shape.takes_inputs
                if self._takes_inputs if takes is None else takes:
                    span.fields["inputs"] = self.encoder.object(bind(args, kwargs or {}))
            elif fields:
                merge(span.fields, fields, self.encoder)
            span.start_ms = self.clock.wall_ns() // 1_000_000
            span.started = self.clock.monotonic_ns()
            self.open[span.id] = span
            if not detached:  # last: whatever is raised before, nobody would ever end it
                CURRENT.set(span)
        except RecursionError:  # there is no room for a call, not even to the guard
            self.guard.count += 1
            return None
        except BaseException as error:
            if span is not None:  # an interrupt behind `CURRENT.set`
                span.ended = True
                self.open.pop(span.id, None)
                if CURRENT.get() is span:
                    CURRENT.set(span.up)
            if not isinstance(error, Exception):
                raise
            self.guard.caught("the beginning of a span", error)
            return None
        return span

    def end(self, span: Span, outputs: Any = NOTHING, error: BaseException | None = None) -> None:
        """Close a span, restore what was current before it, write its event."""
        try:
            duration = self.clock.monotonic_ns() - span.started
            if span.ended:
                return
            span.ended = True
            restore(span)
            if self._forking:
                self._notice_fork()
            if span.epoch != self.epoch:  # a forked child leaves it to the parent
                return
            fields, interrupt = span.fields, None
            if outputs is not NOTHING and "outputs" not in fields:  # `Span.set` has the last word
                interrupt = self._take_outputs(span, outputs)
            if interrupt is not None:
                error = interrupt
            if error is not None:
                self._take_error(span, error)
            if span.noted is not None:
                merge(fields, {"metadata": span.noted}, self.encoder)
            self._write_event(span, span.start_ms, duration)
            if interrupt is not None:
                raise interrupt
        except RecursionError:  # there is no room for a call, not even to the guard
            span.ended = True
            self.guard.count += 1
        except Exception as failure:  # noqa: BLE001 - ours, not the user's: the guard logs it once
            span.ended = True
            restore(span)  # whatever failed may have come before that
            self.guard.caught("the end of a span", failure)
        finally:  # after its event is written: until then it counts as open
            self.open.pop(span.id, None)

    def _take_outputs(self, span: Span, outputs: Any) -> BaseException | None:
        """Keep what a call returned, as far as its decorator and the tracer want it kept.

        Returns: the interrupt that a value's serializer raised, for after the event is written.
        """
        shape = span.shape
        takes, process = shape.takes_outputs, shape.process_outputs
        try:
            if self._takes_outputs if takes is None else takes:
                if process is not None:
                    outputs = processed(process, outputs, "process_outputs")
                if type(outputs) is Encoded:
                    span.fields["outputs"] = bytes(outputs)  # orjson reads no subclass
                else:
                    span.fields["outputs"] = self.encoder.object(outputs)
        except Exception:
            raise
        except BaseException as interrupt:  # noqa: BLE001 - see above
            return interrupt
        return None

    def _take_error(self, span: Span, error: BaseException) -> None:
        """Record what was raised: text, and in the metadata type, message and where."""
        if "error" not in span.fields:
            span.fields["error"] = self.encoder.value(text_of(error))
        if is_cancellation(error):
            span.note(cancelled=True)
        elif self._tracebacks:
            span.noted = {**(span.noted or {}), "exception": details(error)}

    def log_event(
        self, shape: Shape, start_ms: int, duration_ms: float, fields: Mapping[str, Any]
    ) -> str | None:
        """Write an event for something that already happened, below what is current now."""
        span = self.begin(shape, fields=fields)
        if span is None:
            return None
        with self.guard.during("log_event"):
            span.ended = True
            restore(span)
            self._write_event(span, start_ms, int(duration_ms * 1e6))
        self.open.pop(span.id, None)
        return span.id

    def _write_event(self, span: Span, start_ms: int, duration_ns: int) -> None:
        session = span.session
        ours, rest = self._composer.event(span, start_ms, duration_ns, span.fields)
        next(session.recorded)
        self.buffer.write(EVENT, session.key, ours + rest)
        frame = span.journaled
        if frame is not None:  # nobody may take it for interrupted, should the process die now
            with suppress(ValueError):  # its segment is gone
                frame.segment.settle(frame, SUPERSEDED)

    def journal_open(self, span: Span) -> bool:
        """Write what is known of an open span; tell whether it is in the journal.

        By the background, for those open a second.
        """
        body = self._composer.unfinished(span)
        return not span.ended and self.buffer.write(OPEN, span.session.key, span.id.encode() + body)

    # -- sessions ----------------------------------------------------------------------------

    def open_session(
        self,
        name: str,
        session_id: str | None,
        fields: Mapping[str, Any],
        *,
        detached: bool = False,
    ) -> Session | None:
        """Make a session current; its frame is written with its first event. None: suppressed."""
        try:
            if self._forking:
                self._notice_fork()
            up = CURRENT.get()
            link = nearest(self)
            if link is not None and link.owner is None:
                return None
            session = self._new_session(name, session_id, up, fields)
            if not detached:
                CURRENT.set(session)
        except Exception as error:  # noqa: BLE001 - ours, not the user's: the guard logs it once
            self.guard.caught("the beginning of a session", error)
            return None
        return session

    def close_session(self, session: Session, error: BaseException | None = None) -> None:
        """End a session: restore what was current, send `end_time`, `duration` and the error."""
        with self.guard.during("the end of a session"):
            if session.ended:
                return
            session.ended = True
            restore(session)
            if self._forking:
                self._notice_fork()
            if session.epoch != self.epoch or not session.sampled:
                return
            duration = (self.clock.monotonic_ns() - session.started) / 1e6
            given: dict[str, Any] = {
                "end_time": session.start_ms + int(duration),
                "duration": round(duration, 3),
            }
            telemetry = {"recorded": value_of(session.recorded)}
            metadata: dict[str, Any] = {"tracer": {"telemetry": telemetry}}
            if error is not None:
                metadata["error"] = text_of(error)
            given["metadata"] = metadata
            self.update(session, session.id, given, ENDS)

    def update(
        self, session: Session, event_id: str, given: Mapping[str, Any], flags: int = 0
    ) -> None:
        """Write a change to an event of `session`, or to itself: it goes out after the events."""
        if not UUID_FORM.fullmatch(event_id):
            raise ValueError(f"event_id must be the id of an event, not {event_id[:40]!r}")
        if not session.sampled:
            return
        if self._forking:
            self._notice_fork()
        if session.announced[0] != self.epoch:
            self._announce(session)
        fields: Fields = {}
        merge(fields, given, self.encoder)
        fields = self._composer.fields(fields)
        self.buffer.write(UPDATE, session.key, event_id.encode() + object_json(fields), flags)

    def joined(self, session_id: str, name: str | None = None) -> Session:
        """Return a handle on a session that was opened elsewhere: it is joined, not opened.

        With its name this process creates it as well: who comes first opens it.
        """
        session = self._new_session(name or "", session_id, None, {})
        if name is None:
            session.announced = (self.epoch, b"")
        else:
            if len(self._joined) >= MAX_JOINED:
                self._joined.clear()
            # every handle has the body of the first: one body is sent once
            session.announced = self._joined.setdefault((session_id, name), session).announced
        return session

    def close_default(self) -> None:
        """End the default session, if anything was recorded in it."""
        if self.default.announced[0] == self.epoch:
            self.close_session(self.default)

    def _new_session(
        self, name: str, session_id: str | None, up: Link | None, fields: Mapping[str, Any]
    ) -> Session:
        session_id = None if session_id is None else str(session_id)  # a UUID is natural here
        found = wire_session_id(session_id) if session_id else self.ids.new()
        session = Session(self, up, name, found)
        session.sampled = crc32(session.key) < self._sampled_below
        body: Fields = {"session_id": encode(found), "session_name": encode(name)}
        if self._composer.source is not None:
            body["source"] = self._composer.source
        body["start_time"] = encode(session.start_ms)
        merge(body, fields, self.encoder)
        if session_id and found != session_id.lower():
            merge(body, {"metadata": {"client_session_id": session_id}}, self.encoder)
        session.announced = (-1, object_json(self._composer.fields(body)))
        return session

    def _announce(self, session: Session) -> None:
        _, body = session.announced
        self.buffer.write(SESSION, session.key, body)
        # only now: whoever sees it announced may rely on the frame being there
        session.announced = (self.epoch, body)

    # -- fork --------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """From here on look at the pid: an earlier hook of the user may record in the child."""
        self._forking = True

    def after_fork_in_parent(self) -> None:
        """Back to the fast path."""
        self._forking = False

    def after_fork_in_child(self) -> None:
        """Start empty: new ids, new segments, and whatever listens on `on_fork`."""
        self._notice_fork()
        self._forking = False
        self.on_fork()

    def _notice_fork(self) -> None:
        pid = os.getpid()
        if pid != self._pid:
            self._pid = pid
            self.epoch += 1
            self.open = {}  # the parent ends them
            self.ids.renew()
            self.buffer.after_fork_in_child()


def _nothing() -> None:
    """Do nothing: nobody listens for forks."""


class RecorderSource(Protocol):
    """Where a call finds its recorder; None: switched off, or `pending` until the first call."""

    recorder: Recorder | None
    pending: bool

    def start(self) -> Recorder | None: ...
