"""The function that a decorated generator function shows, and arrives as where it is sent by value.

What both do in a process of their own is in tests/integration/test_pickling.py.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from types import FunctionType, coroutine
from typing import Any, cast

import pytest
from journal import events, local_tracer, only

from tracer.standins import target_of
from tracer.tracer import Tracer


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    with local_tracer(tmp_path) as running:
        yield running


def steps(x: int) -> Generator[Any, Any, str]:
    try:
        yield x
    except GeneratorExit as error:
        yield error
    return "returned"


async def async_steps(x: int) -> AsyncIterator[Any]:
    try:
        yield x
    except GeneratorExit as error:
        yield error


def shown(tracer: Tracer, func: Any) -> Any:
    found = target_of(tracer.chain(func))
    assert type(found) is FunctionType
    return found


def test_it_is_a_function_of_the_same_kind_with_the_globals_of_the_original(
    tracer: Tracer,
) -> None:
    for func in (steps, async_steps):
        found = shown(tracer, func)
        for kind in (inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            assert kind(found) == kind(func)
        assert found.__globals__ is cast(Any, func).__globals__
        assert found.__wrapped__ is func


def test_its_code_uses_no_name_of_our_modules(tracer: Tracer) -> None:
    """Where it arrives there are only the globals of the original."""
    builtins = {"BaseException", "StopAsyncIteration", "StopIteration"}
    for func in (steps, async_steps):
        names = {i.argval for i in instructions(shown(tracer, func)) if i.opname == "LOAD_GLOBAL"}
        assert names <= builtins


def instructions(func: FunctionType) -> Iterator[Any]:
    import dis

    return dis.get_instructions(func)


def test_what_is_thrown_in_goes_in_and_may_be_answered(tracer: Tracer) -> None:
    error = GeneratorExit()
    made = shown(tracer, steps)(1)
    assert (next(made), made.throw(error)) == (1, error)
    with pytest.raises(StopIteration) as stop:
        next(made)
    assert stop.value.value == "returned"

    async def main() -> None:
        made = shown(tracer, async_steps)(1)
        assert await made.asend(None) == 1
        assert await made.athrow(error) is error
        with pytest.raises(StopAsyncIteration):
            await made.asend(None)

    asyncio.run(main())
    assert [event["inputs"] for event in events(tracer)] == [{"x": 1}, {"x": 1}]


def test_its_span_is_current_inside_and_nothing_is_in_between(tracer: Tracer) -> None:
    def looks() -> Iterator[object]:
        yield tracer.current_span()

    with tracer.tool("outer"):
        made = shown(tracer, looks)()
    assert tracer.current_span() is None
    with tracer.tool("first item"):
        (inside,) = made
        assert tracer.current_span() is not inside
    found = {event["event_name"]: event for event in events(tracer)}
    assert found["looks"]["event_id"] == inside.id
    assert found["looks"]["parent_id"] == found["first item"]["event_id"]


def test_one_that_types_coroutine_made_awaitable_stays_so(tracer: Tracer) -> None:
    @coroutine
    def waits() -> Any:
        yield from asyncio.sleep(0).__await__()
        return 5

    async def main() -> Any:
        return await shown(tracer, waits)()

    assert asyncio.run(main()) == 5
    assert only(tracer)["outputs"] == {"result": 5}


def test_one_that_is_left_is_closed_once_by_the_event_loop(
    tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    kept: list[Any] = []

    async def main() -> None:
        async for _ in shown(tracer, endless)():
            break  # dropped: the loop hears of it from the collector of garbage
        gc.collect()
        await asyncio.sleep(0.01)
        kept.append(shown(tracer, endless)())  # kept: the loop closes it at its end
        await kept[0].asend(None)

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(main())
    assert closed == ["closed", "closed"]
    assert caplog.records == []
    assert len(events(tracer)) == 2


def test_while_nothing_is_recorded_it_does_the_same() -> None:
    off = Tracer(disable_tracing=True)
    made = shown(off, steps)(1)
    assert (next(made), list(made)) == (1, [])
    with off.suppress():
        assert asyncio.run(anext_of(shown(off, async_steps)(2))) == 2


async def anext_of(made: AsyncIterator[Any]) -> Any:
    return await made.__anext__()
