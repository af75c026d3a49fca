"""`bind`: what is bound stays what it is, and runs below what was current when it was bound."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from journal import by_name, local_tracer

from tracer.context import CURRENT
from tracer.propagate import bind_context
from tracer.tracer import Tracer


class TroubleError(Exception):
    """A user's own."""


def plain(a: int, *rest: int, key: str = "k") -> Any:
    """Says so."""
    return a, rest, key, CURRENT.get()


async def plain_async(a: int, *, key: str = "k") -> Any:
    await asyncio.sleep(0)
    return a, key, CURRENT.get()


def steps(a: int) -> Generator[Any, Any, Any]:
    got = yield (a, CURRENT.get())
    while got != "stop":
        try:
            got = yield (got, CURRENT.get())
        except TroubleError as error:
            got = yield (error, CURRENT.get())
    return "returned", CURRENT.get()


async def steps_async(a: int) -> AsyncGenerator[Any, Any]:
    await asyncio.sleep(0)
    got = yield (a, CURRENT.get())
    while got != "stop":
        try:
            await asyncio.sleep(0)
            got = yield (got, CURRENT.get())
        except TroubleError as error:
            got = yield (error, CURRENT.get())


class Object:
    """Things that can be called."""

    def method(self, a: int) -> Any:
        return self, a, CURRENT.get()

    async def method_async(self, a: int) -> Any:
        return self, a, CURRENT.get()

    def method_steps(self, a: int) -> Iterator[Any]:
        yield self, a, CURRENT.get()

    async def method_steps_async(self, a: int) -> AsyncIterator[Any]:
        yield self, a, CURRENT.get()

    def __call__(self, a: int) -> Any:
        return self, a, CURRENT.get()


class AsyncObject:
    async def __call__(self, a: int) -> Any:
        return self, a, CURRENT.get()


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    with local_tracer(tmp_path, propagate_threads=False) as running:
        yield running
    assert CURRENT.get() is None


OBJECT, ASYNC_OBJECT = Object(), AsyncObject()
CALLABLES: dict[str, Callable[..., Any]] = {
    "function": plain,
    "coroutine function": plain_async,
    "generator function": steps,
    "async generator function": steps_async,
    "method": OBJECT.method,
    "coroutine method": OBJECT.method_async,
    "generator method": OBJECT.method_steps,
    "async generator method": OBJECT.method_steps_async,
    "partial": functools.partial(plain, 1),
    "partial of a coroutine function": functools.partial(plain_async, key="p"),
    "partial of a generator function": functools.partial(steps),
    "object": OBJECT,
    "async object": ASYNC_OBJECT,
    "class": Object,
    "class of async objects": AsyncObject,
    "built-in": len,
}


@pytest.mark.parametrize("what", CALLABLES)
def test_what_is_bound_stays_what_it_is(what: str) -> None:
    func = CALLABLES[what]
    bound = bind_context(func)
    kinds = (
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        inspect.iscoroutinefunction,
    )
    expected = [(what == "async object" and kind is kinds[2]) or kind(func) for kind in kinds]
    assert [kind(bound) for kind in kinds] == expected
    assert inspect.signature(bound) == inspect.signature(func)
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        if hasattr(func, name):
            assert getattr(bound, name) == getattr(func, name)


async def first(found: Any) -> Any:
    """What a call gives at first, whatever its kind."""
    if inspect.isawaitable(found):
        return await found
    if isinstance(found, Generator):
        return next(found)
    if isinstance(found, AsyncGenerator):
        item = await found.__anext__()
        await found.aclose()
        return item
    return found


@pytest.mark.parametrize("what", [w for w in CALLABLES if "class" not in w and w != "built-in"])
def test_it_runs_below_what_was_current_when_it_was_bound(what: str, tracer: Tracer) -> None:
    found: list[Any] = []

    def elsewhere(bound: Callable[..., Any]) -> None:
        found.append(asyncio.run(first(bound(7))))
        found.append(CURRENT.get())

    with tracer.chain("root") as root:
        thread = Thread(target=elsewhere, args=(bind_context(CALLABLES[what]),))
        thread.start()
        thread.join()
    result, afterwards = found
    assert 7 in result or result[1] == (7,)
    assert result[-1] is root
    assert afterwards is None


def test_classes_and_built_ins_are_called(tracer: Tracer) -> None:
    assert isinstance(bind_context(Object)(), Object)
    assert isinstance(bind_context(AsyncObject)(), AsyncObject)
    assert bind_context(len)([1, 2]) == 2


def test_a_bound_generator_follows_the_protocol_below_its_parent(tracer: Tracer) -> None:
    with tracer.chain("root") as root:
        bound = bind_context(steps)
        with tracer.chain("elsewhere") as elsewhere:
            running, trouble = bound(1), TroubleError()
            assert next(running) == (1, root)
            assert CURRENT.get() is elsewhere
            assert running.send("two") == ("two", root)
            assert running.throw(trouble) == (trouble, root)
            assert CURRENT.get() is elsewhere
            with pytest.raises(StopIteration) as stopped:
                running.send("stop")
            assert stopped.value.value == ("returned", root)
            assert CURRENT.get() is elsewhere
            assert list(running) == []


def test_a_bound_async_generator_follows_the_protocol_below_its_parent(tracer: Tracer) -> None:
    async def main() -> None:
        with tracer.chain("root") as root:
            bound = bind_context(steps_async)
            with tracer.chain("elsewhere") as elsewhere:
                running, trouble = bound(1), TroubleError()
                assert await running.__anext__() == (1, root)
                assert CURRENT.get() is elsewhere
                assert await running.asend("two") == ("two", root)
                assert await running.athrow(trouble) == (trouble, root)
                assert CURRENT.get() is elsewhere
                with pytest.raises(StopAsyncIteration):
                    await running.asend("stop")
                assert CURRENT.get() is elsewhere

    asyncio.run(main())


@pytest.mark.parametrize("how", ["close", "throw", "collected"])
def test_the_end_of_a_bound_generator_reaches_the_users(how: str, tracer: Tracer) -> None:
    ended: list[object] = []

    def work() -> Iterator[int]:
        try:
            yield 1
        except BaseException as error:
            ended.append((type(error), CURRENT.get()))
            raise

    with tracer.chain("root") as root:
        running: Any = bind_context(work)()
        assert next(running) == 1
        trouble = TroubleError()
        with tracer.chain("elsewhere"):
            if how == "close":
                running.close()
            elif how == "throw":
                with pytest.raises(TroubleError) as raised:
                    running.throw(trouble)
                assert raised.value is trouble
            running = None
            gc.collect()
    assert ended == [(TroubleError if how == "throw" else GeneratorExit, root)]


@pytest.mark.parametrize("how", ["aclose", "athrow", "cancelled", "broken off"])
def test_the_end_of_a_bound_async_generator_reaches_the_users(how: str, tracer: Tracer) -> None:
    ended: list[object] = []

    async def work() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(60)
        except BaseException as error:
            ended.append((type(error), CURRENT.get()))
            await asyncio.sleep(0)
            raise

    async def main() -> None:
        with tracer.chain("root") as root:
            running = bind_context(work)()
            assert await running.__anext__() == 1
            if how == "aclose":
                await running.aclose()
            elif how == "athrow":
                with pytest.raises(TroubleError):
                    await running.athrow(TroubleError())
            elif how == "cancelled":
                task = asyncio.ensure_future(running.__anext__())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                del running
                while not ended:  # the loop closes what is collected
                    gc.collect()
                    await asyncio.sleep(0)
            expected = {"athrow": TroubleError, "cancelled": asyncio.CancelledError}
            assert ended == [(expected.get(how, GeneratorExit), root)]

    asyncio.run(main())


def test_spans_that_stay_open_between_the_steps_stay_the_generators(tracer: Tracer) -> None:
    def work(name: str) -> Iterator[int]:
        with tracer.chain(f"outer {name}"):
            yield 1
            with tracer.tool(f"inner {name}"):
                yield 2

    with tracer.chain("root"):
        bound = bind_context(work)
    with tracer.chain("root 2"):
        bound_2 = bind_context(work)
        for _ in zip(bound("a"), bound_2("b"), strict=True):
            assert tracer.current_span() is not None
            assert tracer.current_span().name == "root 2"  # type: ignore[union-attr]
    named = by_name(tracer)
    assert "parent_id" not in named["outer a"]  # root was over before the first step
    assert named["outer b"]["parent_id"] == named["root 2"]["event_id"]
    for name in "ab":
        assert named[f"inner {name}"]["parent_id"] == named[f"outer {name}"]["event_id"]


def test_what_is_over_when_it_is_bound_is_no_parent(tracer: Tracer) -> None:
    with tracer.chain("outer") as outer:
        with tracer.chain("inner") as inner:
            bound = bind_context(tracer.current_span)
            assert bound() is inner
        assert bound() is outer
    assert bound() is None


class Item:
    """What a generator yields, or an error: seen when it is let go."""


class ItemError(Exception):
    """The same, thrown in."""


def test_a_bound_generator_keeps_neither_items_nor_errors() -> None:
    def work() -> Generator[object, None, None]:
        yield Item()
        with suppress(ItemError):
            yield Item()
        yield None

    running = bind_context(work)()
    gc.disable()  # without its help: nothing of ours makes a cycle
    try:
        gone: weakref.ref[Any]
        for _ in range(2):
            gone = weakref.ref(next(running))
            assert gone() is None
        trouble = ItemError()
        gone = weakref.ref(trouble)
        running.throw(trouble)
        del trouble
        assert gone() is None
    finally:
        gc.enable()
