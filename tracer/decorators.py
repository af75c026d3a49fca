"""`trace`, `chain`, `model` and `tool`: each a decorator and a context manager."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypedDict, TypeVar, overload

from tracer.callables import Bind, Capture, binder, check_fields, travels
from tracer.context import Block, innermost
from tracer.event import Shape, shape_of
from tracer.recorder import RecorderSource
from tracer.spans import INERT_SPAN, Span
from tracer.streams import Reduce
from tracer.wrapping import Opening, wrap

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SPAN_FIELDS", "CaptureOptions", "SpanFactory", "SpanFields", "Traced"]

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound="type[Any] | staticmethod[..., Any] | classmethod[Any, ..., Any]")


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


class Traced(Protocol):
    """A tracer that records what one decorator decorates: its factories know where to."""

    trace: SpanFactory


class CaptureOptions(TypedDict, total=False):
    """What a decorator keeps of each call; a block keeps what it is given."""

    capture_inputs: bool
    capture_outputs: bool
    only: Iterable[str]
    ignore: Iterable[str]
    process_inputs: Callable[[dict[str, Any]], Any]
    process_outputs: Callable[[Any], Any]
    reduce: Callable[[list[Any]], Any]
    tracer: Traced


class DecoratorOptions(SpanFields, CaptureOptions, total=False):
    """Everything a factory takes by keyword; checked where it is used."""


SPAN_TYPES = ("chain", "model", "tool")
SPAN_FIELDS = frozenset(SpanFields.__annotations__)
CAPTURE_OPTIONS = frozenset(CaptureOptions.__annotations__)


class SpanFactory:
    """Make spans of one event type: around callables, or around blocks of code."""

    def __init__(self, event_type: str | None, source: RecorderSource) -> None:
        """Fix the event type; None lets each use choose, chain being the default."""
        self._event_type = event_type
        self.source = source

    @overload
    def __call__(self, func: D, /) -> D: ...  # type: ignore[overload-overlap]  # a class is callable, too, but stays a class
    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def __call__(
        self,
        name: str | None = None,
        *,
        event_type: str | None = None,
        **options: Unpack[DecoratorOptions],
    ) -> SpanContext: ...
    def __call__(self, name: Any = None, *, event_type: str | None = None, **options: Any) -> Any:
        """Decorate a callable, or return what does so and opens a block: `with tool("search"):`.

        Args:
            name: a callable to decorate, or the events' name (a decorated one's own if None).
            event_type: only for `trace`: chain, model or tool.
            options: a block takes the event's fields: inputs, outputs, config, metadata, metrics,
                feedback, user_properties, error. A decorator takes config and metadata, and
                capture_inputs, capture_outputs (bool), only, ignore (names of arguments),
                process_inputs (dict of arguments -> what to record), process_outputs (result ->
                what to record), reduce (list of what was yielded -> the output), tracer (record
                there instead of in the default one).
        Raises: TypeError: names what is not taken, and what is.
        """
        if event_type is not None and self._event_type is not None:
            raise TypeError(f"{self._event_type}() fixes the event type; trace() takes one")
        chosen = self._event_type or event_type or "chain"
        if chosen not in SPAN_TYPES:
            raise TypeError(f"event_type must be {', '.join(SPAN_TYPES)}, not {chosen!r}")
        fits_a_block = options.keys() <= SPAN_FIELDS
        if not fits_a_block:
            check_fields(options, SPAN_FIELDS | CAPTURE_OPTIONS)
        if name is None or isinstance(name, str):
            return SpanContext(self.source, chosen, name, options, fits_a_block=fits_a_block)
        return SpanContext(self.source, chosen, None, options)(name)


class SpanContext(Block[Span]):
    """A span to open: `with` and `async with` open one, calling it decorates a callable."""

    __slots__ = ("_event_type", "_fits_a_block", "_name", "_open", "_options", "_source")

    def __init__(
        self,
        source: RecorderSource,
        event_type: str,
        name: str | None,
        options: Mapping[str, Any],
        *,
        fits_a_block: bool = True,
    ) -> None:
        self._fits_a_block = fits_a_block
        self._source = source
        self._event_type = event_type
        self._name = name
        self._options = options
        self._open: list[Span] = []

    @overload
    def __call__(self, func: D) -> D: ...  # type: ignore[overload-overlap]  # see SpanFactory
    @overload
    def __call__(self, func: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, func: Any) -> Any:
        """Return `func` recording an event for each call."""
        options = dict(self._options)
        config, metadata = options.pop("config", None), options.pop("metadata", None)
        given = options.pop("tracer", None)
        source = self._source if given is None else given.trace.source
        if refused := options.keys() - CAPTURE_OPTIONS:
            raise TypeError(
                f"{', '.join(sorted(refused))}: a decorator takes name, config, metadata and "
                f"{', '.join(sorted(CAPTURE_OPTIONS))}; set the rest inside the call with "
                "enrich_span()"
            )
        capture = _capture(options)
        # `only` and `ignore` are for whichever method of a class has them
        strict = not isinstance(func, type)
        prepare = _Prepare(source, self._event_type, config, metadata, capture, strict)
        return wrap(func, prepare, self._name)

    def __enter__(self) -> Span:
        source = self._source
        recorder = source.recorder
        if recorder is None and source.pending:
            recorder = source.start()
        if not self._fits_a_block:
            wrong = ", ".join(sorted(self._options.keys() - SPAN_FIELDS))
            raise TypeError(f"{wrong}: for decorators alone; a block keeps what it is given")
        span = None
        try:
            if recorder is not None:
                shape = shape_of(self._event_type, self._name or self._event_type)
                span = recorder.begin(shape, fields=self._options)
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


@dataclass(frozen=True, slots=True)
class _Prepare:
    """What one use of a decorator says about the events of what it decorates."""

    source: RecorderSource
    event_type: str
    config: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    capture: Capture
    strict: bool

    def __call__(self, func: Callable[..., Any], name: str, *, bound: bool) -> Opening:
        shape = Shape(self.event_type, name, self.config, self.metadata, self.capture)
        bind = binder(func, self.capture, bound=bound, strict=self.strict)
        return _opening(self.source, shape, bind, self.capture.reduce)

    def travels(self) -> bool:
        kept = (getattr(self.capture, field.name) for field in fields(self.capture))
        return travels((self.config, self.metadata, *kept))


def _opening(source: RecorderSource, shape: Shape, bind: Bind, reduce: Reduce | None) -> Opening:
    """Return what opens a span for each call of one decorated callable."""

    def current(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span | None:
        recorder = source.recorder
        if recorder is None:
            recorder = source.start() if source.pending else None
            if recorder is None:
                return None
        return recorder.begin(shape, bind, args, kwargs)

    def detached(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span | None:
        recorder = source.recorder
        if recorder is None:
            recorder = source.start() if source.pending else None
            if recorder is None:
                return None
        return recorder.begin(shape, bind, args, kwargs, detached=True)

    return Opening(source, current, detached, reduce)


def _capture(options: dict[str, Any]) -> Capture:
    """Return the checked capture options. Raises: TypeError: one has the wrong form."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in ("only", "ignore"):
            if isinstance(value, str) or not all(isinstance(n, str) for n in value):
                raise TypeError(f"{name}: a list of names of arguments, not {value!r}")
            found[name] = frozenset(value)
        elif name in ("capture_inputs", "capture_outputs"):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: True or False, not {value!r}")
            found[name.removeprefix("capture_")] = value
        elif not callable(value):
            raise TypeError(f"{name}: a function, not {value!r}")
        else:
            found[name] = value
    return Capture(**found)
