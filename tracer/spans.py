"""What is open: the handles on a session and on a span, and their stand-ins while nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Protocol

from tracer.clock import Clock, IdSource
from tracer.context import Link
from tracer.encode import Encoder
from tracer.errors import Guard
from tracer.event import Fields, Shape, merge
from tracer.segment import Frame

__all__ = ["INERT_SESSION", "INERT_SPAN", "NOTHING", "Owner", "Session", "Span"]

NOTHING: Any = object()  # no output was captured, as opposed to an output of None


class Owner(Protocol):
    """The recorder, as its spans and sessions see it."""

    clock: Clock
    guard: Guard
    ids: IdSource
    encoder: Encoder
    epoch: int

    def end(self, span: Span, outputs: Any = ..., error: BaseException | None = None) -> None: ...
    def close_session(self, session: Session, error: BaseException | None = None) -> None: ...


class Session(Link):
    """A run on the server, current inside `with tracer.session(...)`.

    `id` may be kept and passed on; should the server answer another one, the flusher translates.
    """

    __slots__ = (
        "announced",
        "epoch",
        "id",
        "key",
        "name",
        "recorded",
        "sampled",
        "start_ms",
        "started",
    )
    owner: Owner

    def __init__(self, owner: Owner, up: Link | None, name: str, session_id: str) -> None:
        super().__init__(owner, up)
        self.name = name
        self.id = session_id
        self.key = bytes.fromhex(session_id.replace("-", ""))
        self.epoch = owner.epoch
        self.recorded = count()  # its events, in this process
        self.sampled = True  # the same in every process: decided by the id
        self.start_ms = owner.clock.wall_ns() // 1_000_000
        self.started = owner.clock.monotonic_ns()
        self.announced: tuple[int, bytes] = (-1, b"")  # epoch of its session frame, and the body

    def end(self, _: Any = NOTHING, error: BaseException | None = None) -> None:
        """End the session; `with` and the decorator do so by themselves. Again: nothing."""
        self.owner.close_session(self, error)


class Span(Link):
    """An open event: add to it with `set` until the call it stands for has ended."""

    __slots__ = (
        "epoch",
        "fields",
        "id",
        "journaled",
        "noted",
        "parent_id",
        "session",
        "shape",
        "start_ms",
        "started",
    )
    owner: Owner
    start_ms: int  # Unix ms; both are read late, so that our own work is hardly measured
    started: int  # monotonic ns

    def __init__(
        self,
        owner: Owner,
        up: Link | None,
        shape: Shape,
        session: Session,
        parent_id: str | None,
        fields: Fields,
    ) -> None:
        self.owner = owner
        self.up = up
        self.ended = False
        self.epoch = owner.epoch
        self.shape = shape
        self.session = session
        self.parent_id = parent_id
        self.fields = fields
        self.noted: dict[str, Any] | None = None  # our own part of its metadata
        self.journaled: Frame | None = None  # says that it is open, should the process die
        self.id = owner.ids.new()

    @property
    def name(self) -> str:
        """The event's name."""
        return self.shape.name

    @property
    def event_type(self) -> str:
        """The event's type: chain, model or tool."""
        return self.shape.event_type

    @property
    def session_id(self) -> str:
        """The id of the session it belongs to."""
        return self.session.id

    def set(
        self,
        *,
        inputs: Any = None,
        outputs: Any = None,
        config: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        feedback: Mapping[str, Any] | None = None,
        user_properties: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Merge these fields into the event; values are taken as they are at this moment.

        `inputs` and `outputs` that are no objects become `{"result": value}`. After the end of
        the span nothing changes any more: `enrich_span(event_id=…)` is for that.
        """
        if self.ended:
            return
        with self.owner.guard.during("Span.set"):
            merge(
                self.fields,
                {
                    "inputs": inputs,
                    "outputs": outputs,
                    "config": config,
                    "metadata": metadata,
                    "metrics": metrics,
                    "feedback": feedback,
                    "user_properties": user_properties,
                    "error": error,
                },
                self.owner.encoder,
            )

    def first_token(self) -> None:
        """Stamp the time from the start to now as `metadata.time_to_first_token` (ms), once."""
        if self.ended or (self.noted is not None and "time_to_first_token" in self.noted):
            return
        passed = self.owner.clock.monotonic_ns() - self.started
        self.noted = {**(self.noted or {}), "time_to_first_token": round(passed / 1e6, 3)}

    def end(self, outputs: Any = NOTHING, error: BaseException | None = None) -> None:
        """End a span of `start_span`; what `set` gave as outputs is not replaced. Again: nothing.

        The span may have been opened in another thread or task.
        """
        self.owner.end(self, outputs, error)

    def note(self, **own: Any) -> None:
        """Add to `metadata.tracer`, what the tracer itself has to say about the event."""
        noted = self.noted = self.noted or {}
        noted["tracer"] = {**noted.get("tracer", {}), **own}

    def restart(self) -> None:
        """Begin to measure now: what was opened before has just started to run."""
        clock = self.owner.clock
        self.start_ms = clock.wall_ns() // 1_000_000
        self.started = clock.monotonic_ns()


class _InertSession(Session):
    """What `session()` hands out while nothing is recorded: it takes everything, keeps nothing."""

    def __init__(self) -> None:
        self.id = self.name = ""
        self.ended = True

    def end(self, _: Any = NOTHING, error: BaseException | None = None) -> None:
        """Do nothing."""


class _InertSpan(Span):
    """The same for spans."""

    def __init__(self, session: Session) -> None:
        self.id, self.parent_id, self.session = "", None, session
        self.shape = Shape("chain", "")
        self.ended = True

    def end(self, outputs: Any = NOTHING, error: BaseException | None = None) -> None:
        """Do nothing."""


INERT_SESSION: Session = _InertSession()
INERT_SPAN: Span = _InertSpan(INERT_SESSION)
