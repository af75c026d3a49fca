"""The public API as a type checker sees it: checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

import tracer
from tracer import (
    AsyncClient,
    Client,
    ConfigError,
    FlushResult,
    Session,
    Span,
    Stats,
    Tracer,
    TracerError,
)
from tracer.schema import Acknowledgement, SearchAnswer, SessionAnswer
from tracer.testing import Captured, capture


@tracer.tool
def bare(order: str, count: int = 1, *, flag: bool = False) -> dict[str, int]:
    return {order: count if flag else 0}


assert_type(bare("a", 2, flag=True), dict[str, int])
bare(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - a decorator keeps types
bare()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - and what is required


@tracer.model("answer", config={"model": "m"}, metadata={"team": "a"})
def named(question: str) -> str:
    return question


assert_type(named("q"), str)


@tracer.chain
async def agent(question: str) -> int:
    return len(question)


@tracer.trace(event_type="model")
async def traced(question: str) -> int:
    return len(question)


async def awaits() -> None:
    assert_type(await agent("q"), int)
    assert_type(await traced("q"), int)
    async with tracer.chain("plan") as span:
        assert_type(span, Span)
    async with tracer.session("chat") as session:
        assert_type(session, Session)


@tracer.tool
def generates(n: int) -> Iterator[int]:
    yield n


@tracer.model("stream", reduce=lambda chunks: "".join(chunks), capture_inputs=False)
async def streams(n: int) -> AsyncIterator[str]:
    yield str(n)


assert_type(generates(1), Iterator[int])
assert_type(streams(1), AsyncIterator[str])


@tracer.chain
class Traced:
    def __init__(self, x: int) -> None:
        self.x = x

    def method(self, y: str) -> int:
        return self.x + len(y)


assert_type(Traced(1), Traced)
assert_type(Traced(1).method("a"), int)


@tracer.tool(only=["order"], ignore=("db",), process_inputs=lambda inputs: {**inputs, "a": 1})
def captured(db: object, order: str) -> str:
    return order


assert_type(captured(None, "a"), str)
tracer.tool(only=1)(captured)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType] - refused


class Service:
    @tracer.tool
    @staticmethod
    def static_inside(order: str) -> int:
        return len(order)

    @tracer.tool
    @classmethod
    def class_inside(cls, order: str) -> int:
        return len(order)

    @tracer.tool
    def method(self, order: str) -> int:
        return len(order)

    @tracer.tool(name="later")
    async def later(self, order: str) -> int:
        return len(order)

    @classmethod
    @tracer.tool
    def of(cls, order: str) -> Service:
        return cls()

    @staticmethod
    @tracer.tool
    def static(order: str) -> int:
        return len(order)


assert_type(Service().method("a"), int)
assert_type(Service.static_inside("a"), int)
assert_type(Service.class_inside("a"), int)
assert_type(Service.of("a"), Service)
assert_type(Service.static("a"), int)


@tracer.session
def bare_session(x: int) -> str:
    return str(x)


@tracer.session("named", session_id="chat 42", user_properties={"id": "u"})
def named_session(x: int) -> str:
    return str(x)


assert_type(bare_session(1), str)
assert_type(named_session(1), str)


def blocks() -> None:
    with tracer.session("chat", session_id="42", inputs={"q": 1}, metadata={}) as session:
        assert_type(session, Session)
        assert_type(session.id, str)
        assert_type(session.name, str)
    with tracer.tool("search", inputs=[1], config={"k": 5}, error="none") as span:
        assert_type(span.id, str)
        assert_type(span.session_id, str)
        assert_type(span.name, str)
        assert_type(span.event_type, str)
        span.set(inputs={}, outputs=[1], metrics={"n": 1}, feedback={}, user_properties={})
        span.set(unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - refused
    with tracer.chain("plan", unknown=1):  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType] - refused
        pass
    with tracer.suppress():
        pass


def spans(parent: Span) -> None:
    span = tracer.start_span("late", event_type="tool", parent=parent, inputs={"q": 1})
    assert_type(span, Span)
    span.first_token()
    span.end({"a": 1}, ValueError("no"))


def functions() -> None:
    assert_type(tracer.current_span(), "Span | None")
    assert_type(tracer.current_session(), Session)
    tracer.enrich_span(metadata={"a": 1}, feedback={"ok": True})
    tracer.enrich_span(event_id="e", metrics={"n": 1.5})
    tracer.enrich_session(session_id="s", outputs={"status": "ok"}, end_time=1.0)
    assert_type(
        tracer.log_event(
            "tool", "t", start_time=datetime.now().astimezone(), end_time=1.5, inputs=1
        ),
        "str | None",
    )
    assert_type(tracer.flush(), FlushResult)
    assert_type(tracer.flush(timeout=1.0).ok, bool)
    assert_type(tracer.shutdown(1.0).dropped, dict[str, int])
    assert_type(tracer.stats(), Stats)
    assert_type(tracer.stats().recorded, int)
    assert_type(tracer.__version__, str)


def life() -> None:
    running = tracer.init(
        api_key=None,
        server_url="https://api.example.com",
        session_name="bot",
        batch_size=10,
        flush_interval=1,
        durable=True,
        spool_dir=Path("spool"),
    )
    assert_type(running, Tracer)
    assert_type(Tracer(local=True), Tracer)
    tracer.init(batch_size="ten")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - refused
    tracer.init(unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - refused

    @running.tool
    def own(x: int) -> int:
        return x

    assert_type(own(1), int)
    with running.session("s") as session, running.chain("c") as span, running.suppress():
        assert_type(session, Session)
        assert_type(span, Span)
    assert_type(running.flush(), FlushResult)
    assert_type(running.shutdown(), FlushResult)
    assert_type(running.stats(), Stats)


def plain(x: int, *, y: str = "") -> float:
    return float(x) + len(y)


async def plain_async(x: int) -> str:
    return str(x)


assert_type(tracer.bind(plain)(1, y="a"), float)
bound: Callable[[int], Coroutine[Any, Any, str]] = tracer.bind(plain_async)
assert_type(tracer.tool(plain)(1), float)
keeps: Callable[[int], Coroutine[Any, Any, str]] = tracer.tool(plain_async)


def errors() -> None:
    try:
        tracer.init(timeout=-1)
    except ConfigError as error:
        assert_type(error, ConfigError)
        as_value_error: ValueError = error
        as_tracer_error: TracerError = error
        del as_value_error, as_tracer_error


def a_test(tracer_events: Captured) -> None:
    assert_type(tracer_events.only("lookup")["outputs"]["order"], Any)
    with capture() as captured, capture(deterministic=True):
        assert_type(captured, Captured)
        assert_type(captured.tracer, Tracer)
    assert_type(captured.events, list[dict[str, Any]])
    assert_type(captured.sessions, list[dict[str, Any]])
    assert_type(captured.updates, list[dict[str, Any]])
    assert_type(captured.named("lookup"), list[dict[str, Any]])
    assert_type(captured.only(), dict[str, Any])
    assert_type(captured.tree(), str)
    capture(unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - refused


async def clients() -> None:
    with Client(api_key="hh_key", timeout=5) as client:
        assert_type(client.sessions.create(session_name="chat"), SessionAnswer)
        assert_type(client.events.update("e", feedback={"ok": True}), Acknowledgement)
    async with AsyncClient(base_url="https://api.example.com") as waiting:
        assert_type(waiting, AsyncClient)
        assert_type(await waiting.sessions.create(session_name="chat"), SessionAnswer)
        assert_type(
            await waiting.sessions.create_event_batch("s", [{"event_type": "tool", "inputs": {}}]),
            Acknowledgement,
        )
        assert_type(await waiting.events.search(limit=2), SearchAnswer)
        await waiting.sessions.create(unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] - refused
    await waiting.aclose()
