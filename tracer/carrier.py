"""What is current here, carried to another process and picked up there."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import suppress as no_more
from types import TracebackType
from typing import Any

from tracer.context import CURRENT, Block, Foreign, Link, Suppression, innermost, nearest, restore
from tracer.event import Shape
from tracer.recorder import Recorder
from tracer.spans import INERT_SESSION, Session, Span
from tracer.w3c import Origin, origin_of, write

__all__ = ["Arrival", "Extracted", "carrier_of", "extract", "inject"]


def inject(recorder: Recorder, carrier: Any = None) -> Any:
    """Add to `carrier`, or to a new dict, what lets another process go on from here; never raises.

    Outside any session that is the default one; inside `suppress()` nothing is added. Members of
    others stay in `baggage`, and so does the `traceparent` of another trace.

    Args:
        carrier: a mutable mapping of header names, in any case, to values.
    Returns: `carrier` itself, or the new dict.
    """
    into: MutableMapping[str, str] = {} if carrier is None else carrier
    with recorder.guard.during("inject"):
        link = nearest(recorder) or recorder.default
        if not isinstance(link, Suppression):
            write(into, _origin(link))
    return into


def carrier_of(link: Link) -> dict[str, str] | None:
    """Return a new carrier of what is open, whichever tracer's it is; None for a suppression."""
    if isinstance(link, Suppression):
        return None
    carrier: dict[str, str] = {}
    write(carrier, _origin(link))
    return carrier


def _origin(link: Link) -> Origin:
    if isinstance(link, _Arrived):
        return link.origin
    if not isinstance(link, (Span, Session)):
        raise TypeError(f"{type(link).__name__} cannot be carried")
    session = link.session if isinstance(link, Span) else link
    parent_id = link.id if isinstance(link, Span) else None
    return Origin(session.id, session.name, parent_id, session.sampled)


def extract(recorder: Recorder | None, carrier: Any) -> Extracted:
    """Return a block below the span that the headers in `carrier` name.

    Events inside belong to its session, which this process creates too, under the same name.
    Where `carrier` names no session nothing changes: no error, no log.

    Args:
        recorder: None while nothing is recorded.
        carrier: a mapping, or pairs, of header names in any case and values; text or bytes.
    """
    return Extracted(recorder, carrier)


class Extracted(Block[Session]):
    """A block below a span of another process; `with` and `async with` give the session."""

    __slots__ = ("_carrier", "_open", "_recorder")

    def __init__(self, recorder: Recorder | None, carrier: Any) -> None:
        self._recorder = recorder
        self._carrier = carrier
        self._open: list[Session | Span] = []

    def __enter__(self) -> Session:
        recorder = self._recorder
        link: Session | Span = INERT_SESSION
        with no_more(Exception):  # whatever a stranger sent is no reason to say anything
            origin = origin_of(self._carrier)
            if recorder is None or origin is None or isinstance(nearest(recorder), Suppression):
                pass
            else:
                link = _below(origin, recorder, CURRENT.get())
                CURRENT.set(link)
        self._open.append(link)
        return link.session if isinstance(link, Span) else link

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        link = innermost(self._open)
        if link is not INERT_SESSION:
            link.ended = True
            restore(link)


class Arrival:
    """A block below a span of another process, for whichever tracer records in it.

    In the worker of a process pool the tracer may come to be only inside the task.
    """

    __slots__ = ("_carrier", "_link")

    def __init__(self, carrier: Mapping[str, str]) -> None:
        self._carrier = carrier
        self._link: _Arrived | None = None

    def __enter__(self) -> None:
        with no_more(Exception):
            origin = origin_of(self._carrier)
            if origin is not None:
                self._link = _Arrived(origin, CURRENT.get())
                CURRENT.set(self._link)

    def __exit__(self, *_: object) -> None:
        if self._link is not None:
            self._link.ended = True
            restore(self._link)


class _Arrived(Foreign):
    """The link of an `Arrival`: each recorder that looks gets one of its own."""

    __slots__ = ("_seen", "origin")

    def __init__(self, origin: Origin, up: Link | None) -> None:
        super().__init__(up)
        self.origin = origin
        self._seen: dict[object, Link] = {}

    def seen_by(self, owner: object) -> Link | None:
        if isinstance(owner, Recorder) and owner not in self._seen:
            self._seen.setdefault(owner, _below(self.origin, owner, self.up))
        return self._seen.get(owner)


_NAMELESS = Shape("chain", "")


class _RemoteSpan(Span):
    """A span that another process has open: a parent here; what is set on it goes nowhere."""

    __slots__ = ()

    def __init__(self, owner: Recorder, up: Link | None, session: Session, span_id: str) -> None:
        Link.__init__(self, owner, up)
        self.id, self.parent_id, self.session = span_id, None, session
        self.shape = _NAMELESS
        self.fields = {}
        self.noted = None
        self.epoch = -1  # never this process's: `Recorder.end` leaves it to the one that opened it
        self.start_ms = self.started = 0


def _below(origin: Origin, recorder: Recorder, up: Link | None) -> Session | Span:
    session = recorder.joined(origin.session_id, origin.session_name)
    if origin.sampled is not None:  # decided once, where the session began
        session.sampled = origin.sampled
    if origin.parent_id is None:
        session.up = up
        return session
    return _RemoteSpan(recorder, up, session, origin.parent_id)
