"""The tracers a benchmark compares, behind one face; each lives in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit
from uuid import UUID

import orjson

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NAMES", "Limit", "OpenTelemetry", "Plain", "Tracer", "Variant", "make"]

Function = Callable[..., Any]
PATIENCE = 240.0  # seconds; a real collector stores some 20,000 events/s


class Handle(Protocol):
    """An open span, as far as benchmarks need it."""

    def set(self, *, outputs: dict[str, Any]) -> None: ...


class Variant(Protocol):
    """One way to record a call."""

    def traced(self, func: Function) -> Function: ...
    def traced_async(self, func: Function) -> Function: ...
    def block(self, name: str, inputs: dict[str, Any]) -> AbstractContextManager[Handle]: ...
    def session(self) -> AbstractContextManager[Any]: ...
    def settle(self) -> None:
        """Get rid of everything recorded so far: sent, or given up."""
        ...


class Plain:
    """Nothing at all: what is subtracted."""

    def traced(self, func: Function) -> Function:
        return func

    def traced_async(self, func: Function) -> Function:
        return func

    def block(self, name: str, inputs: dict[str, Any]) -> Any:
        raise NotImplementedError("a block without a tracer is no call")

    def session(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def settle(self) -> None:
        return


class Limit:
    """The hand-written limit: appends while measured, posts its records when asked to."""

    def __init__(self, url: str) -> None:
        import limit  # an import of its own: no other variant pays for it

        self._limit, self._url = limit, url
        self.traced: Function = limit.traced
        self.traced_async: Function = limit.traced_async

    def block(self, name: str, inputs: dict[str, Any]) -> Any:
        return self._limit.Block(name, inputs)

    def session(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def settle(self) -> None:
        self._limit.post(self._url)

    def forget(self) -> None:
        """Drop what was recorded without sending it."""
        self._limit.records.clear()


class Tracer:
    """The tracer as a user starts it; D is the default, M keeps its queue in memory."""

    def __init__(self, url: str, **options: Any) -> None:
        import tracer

        self._tracer: Any = tracer
        self._spool = tempfile.TemporaryDirectory(prefix="bench-spool-")
        self.spool_dir = self._spool.name
        tracer.init(server_url=url, spool_dir=self.spool_dir, session_name="bench", **options)
        self.traced = self.traced_async = tracer.tool

    def block(self, name: str, inputs: dict[str, Any]) -> Any:
        return self._tracer.tool(name, inputs=inputs)

    def session(self) -> Any:
        return self._tracer.session("bench")

    def settle(self) -> None:
        result = self._tracer.flush(PATIENCE)
        if not result.ok:
            raise RuntimeError(f"not flushed: {result}")

    def stats(self) -> Any:
        """Return the tracer's books."""
        return self._tracer.stats()


class OpenTelemetry:
    """opentelemetry-sdk with its batch processor as it comes, and an exporter that does little.

    Inputs and outputs are attributes, encoded by orjson; the exporter posts the contract's events
    over one connection, without any protocol of its own.
    """

    def __init__(self, url: str) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(url)))
        self._tracer = self._provider.get_tracer("bench")

    def traced(self, func: Function) -> Function:
        names = func.__code__.co_varnames[: func.__code__.co_argcount]
        start, dumps, called = self._tracer.start_as_current_span, orjson.dumps, func.__name__

        @wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with start(called) as span:
                inputs = dict(zip(names, args, strict=False), **kwargs)
                span.set_attribute("inputs", dumps(inputs).decode())
                result = func(*args, **kwargs)
                span.set_attribute("outputs", dumps(result).decode())
                return result

        return wrapper

    def traced_async(self, func: Function) -> Function:
        names = func.__code__.co_varnames[: func.__code__.co_argcount]
        start, dumps, called = self._tracer.start_as_current_span, orjson.dumps, func.__name__

        @wraps(func)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with start(called) as span:
                inputs = dict(zip(names, args, strict=False), **kwargs)
                span.set_attribute("inputs", dumps(inputs).decode())
                result = await func(*args, **kwargs)
                span.set_attribute("outputs", dumps(result).decode())
                return result

        return wrapper

    def block(self, name: str, inputs: dict[str, Any]) -> Any:
        return _OtelBlock(self._tracer.start_as_current_span(name), inputs)

    def session(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def settle(self) -> None:
        self._provider.force_flush(int(PATIENCE * 1000))


class _OtelBlock:
    def __init__(self, manager: Any, inputs: dict[str, Any]) -> None:
        self._manager = manager
        self._inputs = inputs

    def __enter__(self) -> Self:
        self._span = self._manager.__enter__()
        self._span.set_attribute("inputs", orjson.dumps(self._inputs).decode())
        return self

    def set(self, *, outputs: dict[str, Any]) -> None:
        self._span.set_attribute("outputs", orjson.dumps(outputs).decode())

    def __exit__(self, *error: object) -> Any:
        return self._manager.__exit__(*error)


def _exporter(url: str) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"Content-Type": "application/json"}

    def post(path: str, body: bytes) -> bool:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status in (200, 409)

    class Exporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            session = str(UUID(int=spans[0].context.trace_id))
            post("/v1/sessions", b'{"session_id":"%b"}' % session.encode())
            body = b'{"events":[%b]}' % b",".join([_event(span) for span in spans])
            sent = post(f"/v1/sessions/{session}/events/batch", body)
            return SpanExportResult.SUCCESS if sent else SpanExportResult.FAILURE

    return Exporter()


def _event(span: Any) -> bytes:
    context, parent, attributes = span.context, span.parent, span.attributes
    return orjson.dumps(
        {
            "event_id": str(UUID(int=context.trace_id ^ context.span_id)),
            "parent_id": None if parent is None else str(UUID(int=parent.span_id)),
            "source": "dev",
            "event_type": "tool",
            "event_name": span.name,
            "start_time": span.start_time // 1_000_000,
            "end_time": span.end_time // 1_000_000,
            "duration": (span.end_time - span.start_time) / 1e6,
            "inputs": orjson.Fragment(attributes["inputs"]),
            "outputs": orjson.Fragment(attributes["outputs"]),
            "metadata": {},
        }
    )


NAMES = ("limit", "D", "M", "off", "opentelemetry-sdk")


def make(name: str, url: str) -> Variant:
    """Start one of `NAMES`."""
    if name == "limit":
        return Limit(url)
    if name == "opentelemetry-sdk":
        return OpenTelemetry(url)
    options = {"D": {}, "M": {"durable": False}, "off": {"disable_tracing": True}}
    return Tracer(url, **options[name])
