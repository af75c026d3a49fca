"""`trace`, `chain`, `model`, `tool` and `session`: each a decorator and a context manager."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypedDict, TypeVar, overload

from tracer.context import CURRENT, Link, Suppression, restore
from tracer.event import Shape, shape_of
from tracer.recorder import INERT_SESSION, INERT_SPAN, Bind, Recorder, Session, Span

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "SPAN_FIELDS",
    "RecorderSource",
    "SessionFactory",
    "SpanFactory",
    "Suppress",
    "bind_context",
    "check_fields",
]

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Link)


class RecorderSource(Protocol):
    """Where a call finds its recorder; None: switched off, or `pending` until the first call."""

    recorder: Recorder | None
    pending: bool

    def start(self) -> Recorder | None: ...


class SpanFields(TypedDict, total=False):
    """What a span may be given when it is opened."""

    inputs: Any
    outputs: Any
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    metrics: Mapping[str, Any]
    feedback: Mapping[str, Any]
    user_properties: Mapping[str, Any]
    error: str


class SessionFields(TypedDict, total=False):
    """What a session may be given when it is opened."""

    inputs: Any
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    user_properties: Mapping[str, Any]


def check_fields(given: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Refuse what the server would refuse, and with it the whole event. Raises: TypeError."""
    if not given.keys() <= allowed:
        raise TypeError(
            f"unknown argument {', '.join(sorted(given.keys() - allowed))}; "
            f"allowed are {', '.join(sorted(allowed))}"
        )


SPAN_TYPES = ("chain", "model", "tool")
SPAN_FIELDS = frozenset(SpanFields.__annotations__)
SESSION_FIELDS = frozenset(SessionFields.__annotations__)


class SpanFactory:
    """Make spans of one event type: around functions, or around blocks of code."""

    def __init__(self, event_type: str | None, source: RecorderSource) -> None:
        """Fix the event type; None lets each use choose, chain being the default."""
        self._event_type = event_type
        self._source = source

    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def __call__(
        self,
        name: str | None = None,
        *,
        event_type: str | None = None,
        **fields: Unpack[SpanFields],
    ) -> SpanContext: ...
    def __call__(self, name: Any = None, *, event_type: str | None = None, **fields: Any) -> Any:
        """Decorate a function, or return what does so and opens a block: `with tool("search"):`.

        Args:
            name: a function to decorate, or the events' name (a decorated function's own if None).
            event_type: only for `trace`: chain, model or tool.
            fields: set on every event: inputs, outputs, config, metadata, metrics, feedback,
                user_properties, error.
        """
        if event_type is not None and self._event_type is not None:
            raise TypeError(f"{self._event_type}() fixes the event type; trace() takes one")
        chosen = self._event_type or event_type or "chain"
        if chosen not in SPAN_TYPES:
            raise TypeError(f"event_type must be {', '.join(SPAN_TYPES)}, not {chosen!r}")
        if name is None or isinstance(name, str):
            check_fields(fields, SPAN_FIELDS)
            return SpanContext(self._source, chosen, name, fields)
        return SpanContext(self._source, chosen, None, fields)(name)


class SpanContext:
    """A span to open: `with` and `async with` open one, calling it decorates a function."""

    __slots__ = ("_event_type", "_fields", "_name", "_open", "_source")

    def __init__(
        self,
        source: RecorderSource,
        event_type: str,
        name: str | None,
        fields: Mapping[str, Any],
    ) -> None:
        self._source = source
        self._event_type = event_type
        self._name = name
        self._fields = fields
        self._open: list[Span] = []

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        """Return `func` recording an event for each call."""
        _check_function(func)
        name = self._name or func.__name__
        fields = dict(self._fields)
        shape = Shape(
            self._event_type, name, fields.pop("config", None), fields.pop("metadata", None)
        )
        if fields:
            raise TypeError(
                f"{', '.join(fields)}: a decorator takes name, config and metadata; "
                "set the rest inside the call with enrich_span()"
            )
        return _decorated(func, shape, self._source)

    def __enter__(self) -> Span:
        source = self._source
        recorder = source.recorder
        if recorder is None and source.pending:
            recorder = source.start()
        span = None
        try:
            if recorder is not None:
                shape = shape_of(self._event_type, self._name or self._event_type)
                span = recorder.begin(shape, fields=self._fields)
            self._open.append(span or INERT_SPAN)
            return span or INERT_SPAN
        except BaseException:  # an interrupt: `with` will not call `__exit__`
            if span is not None:
                span.ended = True
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        span = _innermost(self._open)
        if span is not INERT_SPAN:
            try:
                span.owner.end(span, error=error)
            finally:
                span.ended = True

    async def __aenter__(self) -> Span:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


def _innermost(opened: list[L]) -> L:
    """Take out of `opened` what was entered last in this task or thread.

    One object may be entered by several tasks at once, which leave in any order.
    """
    link = CURRENT.get()
    while link is not None and link.owner is not None:
        for found in opened:
            if found is link:
                opened.remove(found)
                return found
        link = link.up
    return opened.pop()


def _decorated(func: Callable[P, R], shape: Shape, source: RecorderSource) -> Callable[P, R]:
    """Wrap a function; ours runs before and after the call, never around it."""
    bind = _binder(func)

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def traced_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            recorder = source.recorder
            if recorder is None and source.pending:
                recorder = source.start()
            span = None if recorder is None else recorder.begin(shape, bind, args, kwargs)
            if span is None:
                return await func(*args, **kwargs)
            try:
                result = await func(*args, **kwargs)
            except BaseException as error:
                span.owner.end(span, error=error)
                raise
            else:
                span.owner.end(span, result)
                return result
            finally:
                span.ended = True  # also when an interrupt comes before `end` gets so far

        return traced_async  # type: ignore[return-value]  # R is the coroutine it returns

    @functools.wraps(func)
    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        recorder = source.recorder
        if recorder is None and source.pending:
            recorder = source.start()
        span = None if recorder is None else recorder.begin(shape, bind, args, kwargs)
        if span is None:
            return func(*args, **kwargs)
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            span.owner.end(span, error=error)
            raise
        else:
            span.owner.end(span, result)
            return result
        finally:
            span.ended = True  # also when an interrupt comes before `end` gets so far

    return traced


def _check_function(func: Callable[..., Any]) -> None:
    generates = inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
    if not inspect.isfunction(func) or generates:
        raise TypeError(f"functions and coroutine functions can be decorated, not {func!r}")


def _binder(func: Callable[..., Any]) -> Bind:
    """Compile what turns positional and keyword arguments into named inputs; `self` is left out."""
    signature = inspect.signature(func)
    parameters = signature.parameters.values()
    first = next(iter(signature.parameters), None)
    owner = first if first in ("self", "cls") else None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return functools.partial(_bind_any, signature, owner)
    names = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    total = len(signature.parameters)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = dict(zip(names, args, strict=False))
        if kwargs:
            bound.update(kwargs)
        if len(bound) < total:
            for name, default in defaults.items():
                bound.setdefault(name, default)
        if owner is not None:
            bound.pop(owner, None)
        return bound

    return bind


def _bind_any(
    signature: inspect.Signature,
    owner: str | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # the function itself is about to say so
        return {"args": args, "kwargs": kwargs}
    bound.apply_defaults()
    found = dict(bound.arguments)
    if owner is not None:
        found.pop(owner, None)
    return found


class SessionFactory:
    """Open sessions around functions or blocks; opening one does no I/O."""

    def __init__(self, source: RecorderSource) -> None:
        self._source = source

    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def __call__(
        self,
        name: str | None = None,
        *,
        session_id: str | None = None,
        **fields: Unpack[SessionFields],
    ) -> SessionContext: ...
    def __call__(self, name: Any = None, *, session_id: str | None = None, **fields: Any) -> Any:
        """Decorate a function, or return what does so and opens a block.

        Args:
            name: a function to decorate, or the session's name.
            session_id: join or open this one; text that is no UUID is mapped to one.
            fields: inputs, config, metadata, user_properties.
        """
        check_fields(fields, SESSION_FIELDS)
        if name is None or isinstance(name, str):
            return SessionContext(self._source, name, session_id, fields)
        return SessionContext(self._source, None, session_id, fields)(name)


class SessionContext:
    """A session to open: `with` and `async with` open one, calling it decorates a function."""

    __slots__ = ("_fields", "_name", "_open", "_session_id", "_source")

    def __init__(
        self,
        source: RecorderSource,
        name: str | None,
        session_id: str | None,
        fields: Mapping[str, Any],
    ) -> None:
        self._source = source
        self._name = name
        self._session_id = session_id
        self._fields = fields
        self._open: list[Session] = []

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        """Return `func` opening a session for each call."""
        _check_function(func)
        name = self._name or func.__name__

        def opened() -> SessionContext:
            return SessionContext(self._source, name, self._session_id, self._fields)

        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def in_session_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with opened():
                    return await func(*args, **kwargs)

            return in_session_async  # type: ignore[return-value]  # R is the coroutine it returns

        @functools.wraps(func)
        def in_session(*args: P.args, **kwargs: P.kwargs) -> R:
            with opened():
                return func(*args, **kwargs)

        return in_session

    def __enter__(self) -> Session:
        source = self._source
        recorder = source.recorder
        if recorder is None and source.pending:
            recorder = source.start()
        session = None
        if recorder is not None:
            name = self._name or recorder.default.name
            session = recorder.open_session(name, self._session_id, self._fields)
        if session is None:
            session = INERT_SESSION
        self._open.append(session)
        return session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session = _innermost(self._open)
        if session is not INERT_SESSION:
            try:
                session.owner.close_session(session, error)
            finally:
                session.ended = True

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


class Suppress:
    """A block in which nothing is recorded, by no tracer."""

    def __init__(self) -> None:
        self._open: list[Suppression] = []

    def __enter__(self) -> None:
        link = Suppression(CURRENT.get())
        self._open.append(link)
        CURRENT.set(link)

    def __exit__(self, *_: object) -> None:
        link = self._open.pop()
        link.ended = True
        restore(link)


def bind_context(func: Callable[P, R]) -> Callable[P, R]:
    """Return `func` running below what is current now, in whatever thread or task it is called."""
    link = CURRENT.get()
    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def bound_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            before = CURRENT.get()
            try:
                CURRENT.set(link)
                return await func(*args, **kwargs)
            finally:
                CURRENT.set(before)

        return bound_async  # type: ignore[return-value]  # R is the coroutine it returns

    @functools.wraps(func)
    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        before = CURRENT.get()
        try:
            CURRENT.set(link)
            return func(*args, **kwargs)
        finally:
            CURRENT.set(before)

    return bound
