"""`Tracer`: everything below it wired together; the default one, the exit, the fork."""

from __future__ import annotations

import logging
import sys
import time
import weakref
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer import ends, fork, threads
from tracer.books import FlushResult, Stats
from tracer.buffer import Buffer
from tracer.callables import check_fields
from tracer.carrier import Extracted, extract, inject
from tracer.config import Config
from tracer.context import Suppress, Suppression, nearest
from tracer.counts import value_of
from tracer.decorators import SPAN_FIELDS, SpanFactory
from tracer.encode import Encoder
from tracer.errors import Guard
from tracer.event import shape_of
from tracer.key import Key
from tracer.logs import logging_filter
from tracer.propagate import bind_context
from tracer.recorder import Recorder
from tracer.schema import EventUpdate, fields_of
from tracer.sessions import SessionFactory
from tracer.spans import INERT_SPAN, Session, Span
from tracer.surroundings import Outlet, Surroundings, redactor_of, segment_source
from tracer.voice import log

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tracer.config import Options
    from tracer.decorators import SpanFields
    from tracer.flusher import Flusher

__all__ = ["Source", "Tracer"]

UPDATE_FIELDS = frozenset(fields_of(EventUpdate))


class Source:
    """Where decorated functions look for the recorder at the moment of a call.

    The default one changes with `init`; it keeps its tracer alive for what it decorated. Pickled
    with a function it leads nowhere: a tracer's threads, files and keys stay in their process.
    """

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self.tracer: Tracer | None = None
        self.pending = False

    def start(self) -> Recorder | None:
        """Return the recorder: there is nothing to wait for."""
        return self.recorder

    def running(self) -> Tracer:
        """Return the tracer it leads to; one that records nothing where there is none."""
        if self.pending:
            self.start()
        if self.tracer is None:
            self.tracer = Tracer.of(Config(disable_tracing=True), self)
        return self.tracer

    def __reduce__(self) -> Any:
        return Source, ()

    def __copy__(self) -> Source:
        return self  # copied inside a process, also deeply, what it decorated goes on recording

    def __deepcopy__(self, memo: object) -> Source:
        return self


class Tracer:
    """Record and send events of one configuration, independent of every other tracer.

    Its threads, files and key do not travel: it pickles, also within what it decorated, as a
    tracer that is switched off. One that `init` made pickles as the default tracer of the process
    that unpickles it.

    Args: the fields of `Config`, as keywords; what is None or missing comes from the environment.
    Raises: ConfigError: names the option, where it came from and what is allowed.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self._wire(Config.resolve(**options), Source())

    @classmethod
    def of(cls, config: Config, source: Source, surroundings: Surroundings | None = None) -> Tracer:
        """Build a tracer for a checked configuration, and make `source` lead to it."""
        tracer = cls.__new__(cls)
        tracer._wire(config, source, surroundings)
        return tracer

    def __reduce__(self) -> Any:
        return Source.running, (self._source,)

    def __copy__(self) -> Tracer:
        return self

    def __deepcopy__(self, memo: object) -> Tracer:
        return self

    def _wire(self, config: Config, source: Source, given: Surroundings | None = None) -> None:
        self.config = config
        self._source = source
        self.trace = SpanFactory(None, source)
        self.chain = SpanFactory("chain", source)
        self.model = SpanFactory("model", source)
        self.tool = SpanFactory("tool", source)
        self.session = SessionFactory(source)
        self._guard = Guard(log)
        self._flusher: Flusher | None = None
        self._outlet: Outlet | None = None
        self.is_closed = False
        sends = given is None and not (config.disable_tracing or config.is_local)
        key = Key(config, wanted=sends)
        if given is None:
            segments, self._mode = segment_source(config, key)
            self._buffer = Buffer(segments, config.max_queue, config.max_queue_bytes)
        else:
            self._buffer, self._mode = given.buffer, "M: nothing is sent"
        self._encoder = Encoder(config.max_event_bytes)
        self._redactor = redactor_of(config)
        self._recorder = Recorder(
            self._buffer,
            self._guard,
            source=config.source,
            session_name=config.session_name or _program_name(),
            session_id=config.session_id,
            capture_inputs=config.capture_inputs,
            capture_outputs=config.capture_outputs,
            tracebacks=config.tracebacks,
            encoder=self._encoder,
            redactor=self._redactor,
            max_event_bytes=config.max_event_bytes,
            sample_rate=config.sample_rate,
            clock=None if given is None else given.clock,
            ids=None if given is None else given.ids,
        )
        if config.disable_tracing:
            pass
        elif given is not None:
            self._outlet = given.outlet
        else:
            # httpx and tenacity take 100 ms: paid here, not by `import tracer`, and on this thread,
            # before there is one of ours (an import in a thread hangs forked children)
            from tracer.sending import flusher_of

            self._outlet = self._flusher = flusher_of(
                config, key, self._buffer, self._recorder, self._guard
            )
        if self._outlet is not None:
            self._recorder.on_fork = self._outlet.after_fork_in_child
        if config.propagate_threads and not config.disable_tracing:
            threads.install()
        source.tracer = self
        source.pending = False
        source.recorder = None if config.disable_tracing else self._recorder
        fork.watch(self._recorder)
        ends.watch(self)
        if config.handle_signals and not config.disable_tracing:
            ends.handle_signals()
        weakref.finalize(self, _let_go, self._buffer, self._outlet).atexit = False

    # -- life --------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> FlushResult:
        """Wait until everything recorded so far is settled or can only wait; never raises.

        Makes one attempt at once whatever the backoff says, but none before a `Retry-After`.

        Args:
            timeout: seconds; None for `shutdown_timeout`.
        """
        started = time.monotonic()
        patience = self.config.shutdown_timeout if timeout is None else timeout
        reason = self._outlet.flush(patience) if self._outlet is not None else None
        return self.stats().result(reason, time.monotonic() - started)

    def shutdown(self, timeout: float | None = None) -> FlushResult:
        """Flush, then stop for good; what is recorded afterwards is counted as dropped.

        Runs by itself at exit. In D what could not be sent stays in the journal, and the next
        start of a tracer with the same destination sends it.
        """
        started = time.monotonic()
        patience = self.config.shutdown_timeout if timeout is None else timeout
        if not self.is_closed:
            self.is_closed = True
            self._recorder.close_default()
        reason = None
        if self._outlet is not None:
            reason = self._outlet.stop(patience)
        else:
            _let_go(self._buffer, None)
        return self.stats().result(reason, time.monotonic() - started)

    def finish(self, started: float) -> None:
        """Shut down because the process ends, within what is left of `shutdown_timeout`."""
        passed = time.monotonic() - started
        done = self.shutdown(max(self.config.shutdown_timeout - passed, 0))
        lost = done.queued + done.dropped.get("shutdown", 0)
        if lost:  # no loss is silent, and nobody can ask `stats` any more
            log.warning("%d events waited in memory only and are lost: %s", lost, done.reason)

    def stats(self) -> Stats:
        """Return the books of this process at this moment."""
        buffer, flusher = self._buffer, self._flusher
        delivery = flusher.delivery if flusher else None
        exchange = delivery.exchange if delivery else None
        books = buffer.books()
        return Stats(
            recorded=books.recorded,
            adopted_in=books.adopted_in,
            delivered=books.delivered,
            queued=books.queued,
            in_flight=books.in_flight,
            spooled=books.spooled,
            dropped=books.dropped,
            attempts=exchange.attempts if exchange else 0,
            retries=flusher.retries + exchange.retries if flusher and exchange else 0,
            ambiguous_resends=exchange.ambiguous_resends if exchange else 0,
            bytes_sent=exchange.bytes_sent if exchange else 0,
            recorded_interrupted=buffer.interrupted,
            truncated_values=self._encoder.truncated + (delivery.trimmed if delivery else 0),
            redaction_failures=self._redactor.failed if self._redactor else 0,
            reentrant_records=value_of(self._recorder.reentrant),
            failures=self._guard.count,
            flusher_restarts=flusher.restarts if flusher else 0,
            last_error=exchange.last_error if exchange else None,
            last_success=exchange.last_success if exchange else None,
            mode=self._mode if buffer.writer.trouble is None else f"M: {buffer.writer.trouble}",
        )

    # -- recording ---------------------------------------------------------------------------

    def current_span(self) -> Span | None:
        """Return the innermost open span of this tracer in this task or thread."""
        link = nearest(self._recorder)
        return link if isinstance(link, Span) else None

    def current_session(self) -> Session:
        """Return the session that events recorded now belong to."""
        link = nearest(self._recorder)
        if isinstance(link, Span):
            return link.session
        return link if isinstance(link, Session) else self._recorder.default

    def enrich_span(self, *, event_id: str | None = None, **fields: Unpack[SpanFields]) -> None:
        """Merge fields into the current span, or into an event that is over already.

        With `event_id` the change goes out in the background, after the event itself; outside of
        any span, and without `event_id`, there is nothing to enrich and nothing happens.
        """
        if event_id is None:
            span = self.current_span()
            if span is not None:
                span.set(**fields)
            return
        span = self._recorder.open.get(event_id)
        if span is not None:  # its event is not written yet, an update would come before it
            span.set(**fields)
            return
        check_fields(fields, UPDATE_FIELDS)
        if self._records():
            with self._guard.during("enrich_span"):
                self._recorder.update(self.current_session(), event_id, fields)

    def _records(self) -> bool:
        link = nearest(self._recorder)
        return not (self.config.disable_tracing or isinstance(link, Suppression))

    def enrich_session(
        self, *, session_id: str | None = None, **fields: Unpack[EventUpdate]
    ) -> None:
        """Merge fields into the current session, or into the one named.

        The change goes out in the background, after the events recorded before it.
        """
        check_fields(fields, UPDATE_FIELDS)
        if not self._records():
            return
        with self._guard.during("enrich_session"):
            if session_id is None:
                session = self.current_session()
            else:
                session = self._recorder.joined(session_id)
            self._recorder.update(session, session.id, fields)

    def start_span(
        self,
        name: str,
        *,
        event_type: str = "chain",
        parent: Span | Session | None = None,
        **fields: Unpack[SpanFields],
    ) -> Span:
        """Open a span that is not made current; `Span.end` ends it, in any thread or task.

        Args:
            parent: a span or session to open it below; None: what is current.
        Returns: a span; one that keeps nothing where nothing is recorded.
        """
        check_fields(fields, SPAN_FIELDS)
        if self.config.disable_tracing:
            return INERT_SPAN
        shape = shape_of(event_type, name)
        own = parent if getattr(parent, "owner", None) is self._recorder else None
        return self._recorder.begin(shape, fields=fields, detached=True, parent=own) or INERT_SPAN

    def log_event(
        self,
        event_type: str,
        name: str,
        *,
        start_time: float | datetime | None = None,
        end_time: float | datetime | None = None,
        **fields: Unpack[SpanFields],
    ) -> str | None:
        """Record something that already happened, below what is current now.

        Args:
            start_time, end_time: Unix ms or datetimes; one that is missing equals the other,
                both missing mean now.
        Returns: the event's id; None when nothing is recorded.
        """
        check_fields(fields, SPAN_FIELDS)
        if self.config.disable_tracing:
            return None
        with self._guard.during("log_event"):
            start, end = _unix_ms(start_time), _unix_ms(end_time)
            if end is None:
                end = self._recorder.clock.wall_ns() // 1_000_000 if start is None else start
            start = start if start is not None else end
            shape = shape_of(event_type, name)
            return self._recorder.log_event(shape, int(start), max(end - start, 0), fields)
        return None

    # -- across threads, processes and services ----------------------------------------------

    def inject(self, carrier: Any = None) -> Any:
        """Add W3C `traceparent` and `baggage` to the headers of a request; never raises.

        Args:
            carrier: a mutable mapping of header names to values; None for a new dict.
        Returns: the carrier. Whoever receives it goes on with `extract`.
        """
        if self.config.disable_tracing:
            return {} if carrier is None else carrier
        return inject(self._recorder, carrier)

    def extract(self, carrier: Any) -> Extracted:
        """Return a block, `with` or `async with`, below the span that received headers name.

        Headers that name none, or make no sense, change nothing.
        """
        return extract(None if self.config.disable_tracing else self._recorder, carrier)

    def logging_filter(self) -> logging.Filter:
        """Return a filter that adds `hh_session_id` and `hh_event_id` to log records."""
        return logging_filter(self._source)

    @staticmethod
    def suppress() -> Suppress:
        """Return a context manager in which nothing is recorded, by no tracer."""
        return Suppress()

    bind = staticmethod(bind_context)


def _program_name() -> str:
    return Path(sys.argv[0] if sys.argv else "").stem or "python"


def _unix_ms(moment: float | datetime | None) -> float | None:
    return moment.timestamp() * 1000 if isinstance(moment, datetime) else moment


def _let_go(buffer: Buffer, outlet: Outlet | None) -> None:
    """Stop without waiting, when the last reference to a tracer is gone."""
    if outlet is not None:
        outlet.stop(0)
    elif not buffer.writer.closed:
        buffer.refuse_writes()
        buffer.close()
