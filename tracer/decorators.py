"""`trace`, `chain`, `model` and `tool`: each a decorator and a context manager."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, overload

from tracer.callables import binder, check_fields, check_function
from tracer.context import innermost
from tracer.event import Shape, shape_of
from tracer.recorder import RecorderSource
from tracer.spans import INERT_SPAN, Span

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SPAN_FIELDS", "SpanFactory", "SpanFields"]

P = ParamSpec("P")
R = TypeVar("R")


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


SPAN_TYPES = ("chain", "model", "tool")
SPAN_FIELDS = frozenset(SpanFields.__annotations__)


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
        check_function(func)
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
        span = innermost(self._open)
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


def _decorated(func: Callable[P, R], shape: Shape, source: RecorderSource) -> Callable[P, R]:
    """Wrap a function; ours runs before and after the call, never around it."""
    bind = binder(func)

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
