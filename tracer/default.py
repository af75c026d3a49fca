"""The default tracer, which the functions of the package use, and how it comes to be."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextlib import suppress as no_more
from datetime import datetime
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

from tracer import logs
from tracer.books import FlushResult, Stats
from tracer.carrier import Extracted
from tracer.config import Config
from tracer.context import Suppress
from tracer.decorators import SpanFactory
from tracer.propagate import bind_context
from tracer.recorder import Recorder
from tracer.sessions import SessionFactory
from tracer.spans import Session, Span
from tracer.tracer import Source, Tracer
from tracer.voice import log

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tracer.config import Options
    from tracer.decorators import SpanFields
    from tracer.schema import EventUpdate

__all__ = [
    "bind",
    "chain",
    "current_session",
    "current_span",
    "enrich_session",
    "enrich_span",
    "extract",
    "flush",
    "init",
    "inject",
    "log_event",
    "logging_filter",
    "model",
    "session",
    "shutdown",
    "start_span",
    "stats",
    "suppress",
    "tool",
    "trace",
]

Build = Callable[[Config, Source], Tracer]


class _State(NamedTuple):
    """What the default was when something took its place."""

    recorder: Recorder | None
    tracer: Tracer | None
    pending: bool
    build: Build | None


class _Built(Source):
    """Leads to a tracer that was the default one once: elsewhere, to the default one there."""

    def __reduce__(self) -> Any:
        return _there, ()


def _there() -> Source:
    """Return the default source of the process in which something is unpickled."""
    return _default


class _Default(_Built):
    """Initialises itself from the environment at the first call, if that holds a key."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = True
        self._starting: set[int] = set()
        self._first: dict[str, Source] = {}
        self.build: Build | None = None  # what `init` makes a tracer with, if not `Tracer.of`
        self._before: dict[Source, _State] = {}  # what each open block replaced, oldest first
        self._replacing = Lock()  # protects _before, and the default while it is replaced

    def start(self) -> Recorder | None:
        """Look at the environment once; nothing that is wrong there raises in a user's call."""
        me = get_ident()
        if me in self._starting:  # a signal handler or an import hook, while we import
            return self.recorder
        self._starting.add(me)
        try:
            if os.environ.get("HH_API_KEY"):
                built = _Built()
                Tracer.of(Config.resolve(), built)
                # No lock: threads whose first calls come together each build one and agree here,
                # in one step, on which they use; the others recorded nothing.
                first = self._first.setdefault("first", built)
                if self.pending:
                    self.follow(first)
        except Exception as error:  # noqa: BLE001 - also a home directory that cannot be found
            with no_more(Exception):  # a user's logging handler may raise anything
                log.error("tracing is off: %s", error)
        finally:
            self._starting.discard(me)
            self.pending = False
            self._first.clear()
        return self.recorder

    def follow(self, built: Source) -> None:
        """Lead to what `built` leads to, without a moment in which there is no recorder."""
        self.recorder, self.tracer, self.pending = built.recorder, built.tracer, False

    @contextmanager
    def replaced(self, build: Build, config: Config) -> Generator[None, None, None]:
        """Lead to what `build` makes, also of `init` inside, then to what was there before.

        Blocks that overlap in several threads may end in any order.
        """
        built = _Built()
        build(config, built)
        with self._replacing:
            self._before[built] = _State(self.recorder, self.tracer, self.pending, self.build)
            self.build = build
            self.follow(built)
        try:
            yield
        finally:
            with self._replacing:
                blocks = list(self._before)
                later = blocks[blocks.index(built) + 1 :]
                before = self._before.pop(built)
                if later:  # the next one to come restores what we would have
                    self._before[later[0]] = before
                else:
                    self.pending, self.build = before.pending, before.build
                    self.recorder, self.tracer = before.recorder, before.tracer


_default = _Default()

trace = SpanFactory(None, _default)
chain = SpanFactory("chain", _default)
model = SpanFactory("model", _default)
tool = SpanFactory("tool", _default)
session = SessionFactory(_default)
suppress = Suppress
bind = bind_context
replaced = _default.replaced


def init(**options: Unpack[Options]) -> Tracer:
    """Build the default tracer, which the functions of the package use; no network, no thread.

    Called again with the same configuration it returns the same tracer; with another one the old
    tracer sends what it holds in the background, once nothing uses it any more.

    Args:
        options: the fields of `Config`; what is None or missing comes from the environment.
    Raises: ConfigError: names the option, where it came from and what is allowed.
    """
    config = Config.resolve(**options)
    current = _default.tracer
    if current is not None and current.config == config and not current.is_closed:
        return current
    built = _Built()
    tracer = (_default.build or Tracer.of)(config, built)
    _default.follow(built)
    return tracer


def flush(timeout: float | None = None) -> FlushResult:
    """Wait until everything recorded so far is settled: `Tracer.flush` of the default tracer."""
    return _default.running().flush(timeout)


def shutdown(timeout: float | None = None) -> FlushResult:
    """Flush, then stop for good: `Tracer.shutdown` of the default tracer."""
    return _default.running().shutdown(timeout)


def stats() -> Stats:
    """Return the books of the default tracer at this moment."""
    return _default.running().stats()


def current_span() -> Span | None:
    """Return the innermost open span in this task or thread."""
    return _default.running().current_span()


def current_session() -> Session:
    """Return the session that events recorded now belong to."""
    return _default.running().current_session()


def enrich_span(*, event_id: str | None = None, **fields: Unpack[SpanFields]) -> None:
    """Merge fields into the current span, or into an event that is over already."""
    _default.running().enrich_span(event_id=event_id, **fields)


def enrich_session(*, session_id: str | None = None, **fields: Unpack[EventUpdate]) -> None:
    """Merge fields into the current session, or into the one named."""
    _default.running().enrich_session(session_id=session_id, **fields)


def start_span(
    name: str,
    *,
    event_type: str = "chain",
    parent: Span | Session | None = None,
    **fields: Unpack[SpanFields],
) -> Span:
    """Open a span that is not made current; `Span.end` ends it, in any thread or task."""
    return _default.running().start_span(name, event_type=event_type, parent=parent, **fields)


def inject(carrier: Any = None) -> Any:
    """Add W3C `traceparent` and `baggage` to the headers of a request; see `Tracer.inject`."""
    return _default.running().inject(carrier)


def extract(carrier: Any) -> Extracted:
    """Return a block below the span that received headers name; see `Tracer.extract`."""
    return _default.running().extract(carrier)


def logging_filter() -> logging.Filter:
    """Return a filter that adds `hh_session_id` and `hh_event_id` to log records."""
    return logs.logging_filter(_default)


def log_event(
    event_type: str,
    name: str,
    *,
    start_time: float | datetime | None = None,
    end_time: float | datetime | None = None,
    **fields: Unpack[SpanFields],
) -> str | None:
    """Record something that already happened; returns the event's id, see `Tracer.log_event`."""
    return _default.running().log_event(
        event_type, name, start_time=start_time, end_time=end_time, **fields
    )
