"""Faults F75 to F77 and F93: what is decorated keeps its protocol, its errors, its signature."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import math
import operator
import random
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from journal import by_name, events, local_tracer, only

from tracer.context import CURRENT
from tracer.tracer import Tracer


@pytest.fixture
def tracer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tracer]:
    """Run a tracer beside which nothing is logged, left current, or raised where nobody sees."""
    unseen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unseen.append(args.exc_value))
    CURRENT.set(None)
    with local_tracer(tmp_path) as running:
        yield running
        assert running.stats().failures == 0
    assert CURRENT.get() is None
    assert unseen == []
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


def stream_of(event: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = event["metadata"]["tracer"]["stream"]
    return found


def context() -> dict[Any, Any]:
    """Return every context variable as it is for whoever asks."""
    return dict(copy_context().items())


# -- async generators ----------------------------------------------------------------------------

Agen = Callable[[], AsyncIterator[int]]


@pytest.fixture
def counting(tracer: Tracer) -> Agen:
    @tracer.chain
    async def count() -> AsyncIterator[int]:
        try:
            for n in range(3):
                await asyncio.sleep(0)
                yield n
        finally:
            await asyncio.sleep(0)

    return count


@pytest.mark.parametrize("collects", [True, False])
def test_f75_an_early_break_gives_one_event(
    tracer: Tracer, counting: Agen, *, collects: bool
) -> None:
    async def main() -> None:
        before = context()
        async for _ in counting():
            assert context() == before
            break
        assert context() == before
        if collects:
            gc.collect()
            await asyncio.sleep(0.01)

    asyncio.run(main())
    event = only(tracer)
    assert event["outputs"] == {"result": [0]}
    assert stream_of(event) == {"completed": False, "items": 1}
    if collects:
        assert "error" not in event
    else:  # at its end the loop may cancel what is still closing
        assert event.get("error") in (None, "CancelledError")


def test_f75_what_is_open_when_the_loop_ends_is_closed_quietly(
    tracer: Tracer, counting: Agen
) -> None:
    async def main() -> list[Any]:
        open_ones: list[Any] = [counting() for _ in range(20)]
        for agen in open_ones:
            assert await agen.__anext__() == 0
        return open_ones

    assert len(asyncio.run(main())) == 20
    found = events(tracer)
    assert [stream_of(e) for e in found] == [{"completed": False, "items": 1}] * 20
    assert not [e for e in found if "error" in e]


def test_f75_cancelled_in_a_step(tracer: Tracer) -> None:
    @tracer.chain
    async def waits() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def consume() -> None:
        before = context()
        try:
            async for _ in waits():
                assert context() == before
        finally:
            assert context() == before

    async def main() -> None:
        task = asyncio.create_task(consume())
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    gc.collect()
    event = only(tracer)
    assert event["error"] == "CancelledError"
    assert event["metadata"]["tracer"] == {
        "stream": {"completed": False, "items": 1},
        "cancelled": True,
    }


def test_f75_closed_by_another_task(tracer: Tracer, counting: Agen) -> None:
    async def main() -> None:
        async def other(agen: Any) -> None:
            with tracer.tool("other"):
                before = context()
                await agen.aclose()
                assert context() == before

        with tracer.tool("one"):
            before = context()
            agen: Any = counting()
            assert await agen.__anext__() == 0
            assert context() == before
            await asyncio.create_task(other(agen))
            with pytest.raises(StopAsyncIteration):
                await agen.__anext__()

    asyncio.run(main())
    found = by_name(tracer)
    assert stream_of(found["count"]) == {"completed": False, "items": 1}
    assert "error" not in found["count"]
    assert found["count"]["parent_id"] == found["one"]["event_id"]


def test_f75_collected_after_its_loop_was_closed(tracer: Tracer, counting: Agen) -> None:
    kept: list[Any] = []

    async def main() -> None:
        before = context()
        kept.append(counting())
        assert await kept[0].__anext__() == 0
        assert context() == before

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    assert events(tracer) == []
    before = context()
    kept.clear()
    gc.collect()
    assert context() == before
    event = only(tracer)
    assert event["outputs"] == {"result": [0]}
    assert "error" not in event
    assert stream_of(event) == {"completed": False, "items": 1}


def test_f75_collected_in_the_middle_of_a_step(tracer: Tracer) -> None:
    """Whatever runs at that moment keeps what is current."""

    @tracer.chain
    async def waits() -> AsyncIterator[int]:
        with tracer.tool("inside"):
            await Never()
            yield 1

    class Never:
        def __await__(self) -> Generator[None, None, None]:
            yield

    def start() -> Any:
        step: Any = waits().__anext__()
        step.send(None)
        return step

    step = copy_context().run(start)
    with tracer.chain("meanwhile") as span:
        del step
        gc.collect()
        assert tracer.current_span() is span
    assert sorted(e["event_name"] for e in events(tracer)) == ["inside", "meanwhile", "waits"]


# -- generators ----------------------------------------------------------------------------------


class TroubleError(Exception):
    """Something the program raises."""


def talks(*, survives: bool = True) -> Generator[Any, Any, str]:
    """Answer what is sent, survive what is thrown, return what was got."""
    got: list[Any] = []
    for n in range(4):
        try:
            got.append((yield (n, tuple(got))))
        except TroubleError as error:
            if not survives:
                raise
            got.append(str(error))
    return f"got {got}"


Step = Callable[[Any], Any]
SCRIPTS: dict[str, list[Step]] = {
    "iterated": [next] * 6,
    "sent": [next, lambda g: g.send("a"), lambda g: g.send("b"), next, lambda g: g.send("c"), next],
    "thrown": [
        next,
        lambda g: g.throw(TroubleError("t")),
        next,
        lambda g: g.throw(TroubleError("u")),
        next,
    ],
    "thrown something else": [next, lambda g: g.throw(KeyError("k")), next],
    "interrupted": [next, lambda g: g.throw(KeyboardInterrupt()), next],
    "closed": [next, lambda g: g.close(), lambda g: g.close(), next],
    "closed at once": [lambda g: g.close(), next],
    "thrown at once": [lambda g: g.throw(TroubleError("t")), next],
    "sent too early": [lambda g: g.send(1), next, next],
    "abandoned": [next, next],
}


def transcript(gen: Any, steps: list[Step]) -> list[str]:
    """Return what each step gave or raised; nobody's context changes."""
    seen = []
    for step in steps:
        before = context()
        try:
            seen.append(repr(step(gen)))
        except StopIteration as stop:
            seen.append(f"returned {stop.value!r}")
        except BaseException as error:  # noqa: BLE001 - all of them are compared
            seen.append(repr(error))
        assert context() == before
    return seen


@pytest.mark.parametrize("survives", [True, False])
@pytest.mark.parametrize("script", SCRIPTS)
def test_f76_a_generator_answers_as_it_does_undecorated(
    script: str, tracer: Tracer, *, survives: bool
) -> None:
    steps = SCRIPTS[script]
    said = transcript(tracer.chain(talks)(survives=survives), steps)
    assert said == transcript(talks(survives=survives), steps)
    yielded = sum(line.startswith("(") for line in said)
    if yielded == 0:  # it never ran
        assert [e for e in events(tracer) if "stream" in e["metadata"].get("tracer", {})] == []
        return
    event = only(tracer)
    returned = any(line.startswith("returned") and "got" in line for line in said)
    assert stream_of(event) == {"completed": returned, "items": yielded}
    failed = [line for line in said if line.startswith(("TroubleError", "KeyError", "KeyboardInt"))]
    assert event.get("error", "").split(":")[0] == (failed or [""])[0].split("(")[0]


def test_f76_generators_that_interleave_keep_their_own_parents(tracer: Tracer) -> None:
    @tracer.chain
    def counts(number: int) -> Iterator[int]:
        for _ in range(number % 7 + 1):
            with tracer.tool("inside", inputs={"number": number}):
                yield number

    chosen = random.Random(1)  # noqa: S311 - no secret is made of it
    with tracer.chain("consumer") as consumer:
        running = [(n, counts(n)) for n in range(100)]
        while running:
            at = chosen.randrange(len(running))
            number, gen = running[at]
            if next(gen, None) is None or number % 10 == 3:  # some are abandoned at once
                del running[at]
            del gen
            assert tracer.current_span() is consumer
    gc.collect()
    by_id = {event["event_id"]: event for event in events(tracer)}
    names = [event["event_name"] for event in by_id.values()]
    assert names.count("counts") == 100
    for event in by_id.values():
        if event["event_name"] == "inside":
            parent = by_id[event["parent_id"]]
            assert (parent["event_name"], parent["inputs"]) == ("counts", event["inputs"])
        elif event["event_name"] == "counts":
            assert event["parent_id"] == consumer.id
            assert stream_of(event)["completed"] == (event["inputs"]["number"] % 10 != 3)


# -- errors --------------------------------------------------------------------------------------

ERRORS = [
    asyncio.CancelledError("c"),
    KeyboardInterrupt("k"),
    SystemExit(3),
    StopIteration("s"),
    StopAsyncIteration("a"),
    GeneratorExit("g"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("way", ["function", "block", "asynchronous block"])
def test_f77_the_same_object_is_raised_and_recorded(
    way: str, error: BaseException, tracer: Tracer
) -> None:
    def fails() -> None:
        raise error

    async def in_block() -> None:
        async with tracer.chain("fails"):
            fails()

    def call() -> None:
        if way == "function":
            tracer.chain(fails)()
        elif way == "block":
            with tracer.chain("fails"):
                fails()
        else:
            # by hand: no event loop makes anything else of it
            in_block().send(None)

    # Python itself makes a RuntimeError of a StopIteration that leaves a coroutine
    ends = way == "asynchronous block" and isinstance(error, StopIteration)
    with pytest.raises(RuntimeError if ends else type(error)) as caught:
        call()
    assert (caught.value.__cause__ if ends else caught.value) is error
    event = only(tracer)
    assert event["error"].startswith(type(error).__name__)
    cancelled = isinstance(error, asyncio.CancelledError)
    assert event["metadata"].get("tracer", {}) == ({"cancelled": True} if cancelled else {})


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), SystemExit(3)])
def test_f77_what_ends_a_program_leaves_its_event_loop(
    error: BaseException, tracer: Tracer
) -> None:
    @tracer.chain
    async def fails() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(type(error)) as caught:
        asyncio.run(fails())
    assert caught.value is error
    assert only(tracer)["error"].startswith(type(error).__name__)


def test_f77_a_cancelled_task_is_cancelled(tracer: Tracer) -> None:
    raised: list[BaseException] = []

    @tracer.chain
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raised.append(error)
            raise

    async def outside() -> None:
        try:
            await waits()
        except asyncio.CancelledError as error:
            raised.append(error)
            raise

    async def main() -> None:
        task = asyncio.create_task(outside())
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert raised[0] is raised[1]
    event = only(tracer)
    assert event["error"] == "CancelledError: enough"
    assert event["metadata"]["tracer"] == {"cancelled": True}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no TaskGroup and no timeout here")
def test_f77_a_group_of_tasks_cancels_the_others_and_raises_what_one_raised(
    tracer: Tracer,
) -> None:
    error = TroubleError("one")

    @tracer.tool
    async def waits() -> None:
        await asyncio.Event().wait()

    @tracer.tool
    async def fails() -> None:
        await asyncio.sleep(0)
        raise error

    tasks: list[asyncio.Task[None]] = []

    @tracer.chain
    async def group() -> None:
        async with asyncio.TaskGroup() as running:  # type: ignore[attr-defined,unused-ignore]  # 3.11
            tasks.extend(running.create_task(work()) for work in (waits, fails, waits))

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - 3.10 knows no name for it
        asyncio.run(group())
    assert caught.value.exceptions == (error,)  # type: ignore[attr-defined]  # a group has them
    assert [task.cancelled() for task in tasks] == [True, False, True]
    said = sorted((e["event_name"], e["error"].split(":")[0]) for e in events(tracer))
    assert said == [
        ("fails", "TroubleError"),
        ("group", "ExceptionGroup"),
        ("waits", "CancelledError"),
        ("waits", "CancelledError"),
    ]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no TaskGroup and no timeout here")
def test_f77_a_timeout_around_and_inside_fires(tracer: Tracer) -> None:
    @tracer.tool
    async def waits() -> None:
        await asyncio.Event().wait()

    @tracer.chain
    async def main() -> None:
        async with asyncio.timeout(0.01):  # type: ignore[attr-defined,unused-ignore]  # 3.11
            await waits()

    async def alone() -> int:
        with pytest.raises(asyncio.TimeoutError):
            await main()
        task: Any = asyncio.current_task()
        left: int = task.cancelling()
        return left

    assert asyncio.run(alone()) == 0
    found = by_name(tracer)
    assert found["waits"]["error"] == "CancelledError"
    assert found["waits"]["metadata"]["tracer"] == {"cancelled": True}
    assert found["main"]["error"] == "TimeoutError"
    assert "tracer" not in found["main"]["metadata"]


# -- signatures ----------------------------------------------------------------------------------


def everything(
    a: int, b: int = 2, /, c: int = 3, *rest: int, d: int, e: int = 5, **more: int
) -> object:
    """Take all there is."""
    return (a, b, c, rest, d, e, more)


def shadows(self: int, cls: int = 1, args: int = 2, kwargs: int = 3, /, **inputs: object) -> object:
    """Name arguments as others name theirs."""
    return (self, cls, args, kwargs, inputs)


async def later(a: int = 1, *rest: int) -> object:
    """Do it later."""
    return (a, rest)


class Shop:
    """Have methods of every kind."""

    def method(self, a: int, *rest: int) -> object:
        """Sell."""
        return (a, rest)

    @classmethod
    def of_class(cls, a: int = 1) -> object:
        """Open."""
        return (cls.__name__, a)

    @staticmethod
    def static(a: int, /) -> object:
        """Count."""
        return a

    half = functools.partialmethod(method, 1)

    def __call__(self, a: int = 7) -> object:
        """Be one."""
        return a


def thousand() -> Callable[..., int]:
    names = [f"a{n}" for n in range(1000)]
    space: dict[str, Any] = {}
    exec(f"def many({', '.join(names)}):\n    return {' + '.join(names)}", space)  # noqa: S102 - our own text
    made: Callable[..., int] = space["many"]
    return made


CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "everything": (everything, (1, 2, 3, 4, 5), {"d": 6, "a": 7, "b": 8}),
    "defaults": (everything, (1,), {"d": 4}),
    "names of ours": (shadows, (1, 2), {"self": 3, "func": 4, "inputs": 5, "args": 6}),
    "only rest": (lambda *args, **kwargs: (args, kwargs), (1, 2), {"x": 3}),
    "no argument": (lambda: 1, (), {}),
    "thousand": (thousand(), tuple(range(1000)), {}),
    "thousand by name": (thousand(), (), {f"a{n}": n for n in range(1000)}),
    "partial": (functools.partial(everything, 1, d=4), (2,), {"x": 5}),
    "partial of partial": (functools.partial(functools.partial(everything, 1), 2, d=4), (), {}),
    "bound method": (Shop().method, (1, 2, 3), {}),
    "unbound method": (Shop.method, (Shop(), 1), {}),
    "class method": (Shop.of_class, (), {}),
    "static method": (Shop.static, (1,), {}),
    "callable object": (Shop(), (), {}),
    "cached": (functools.lru_cache(everything), (1,), {"d": 2}),
    "builtin": (max, (1, 2), {"key": operator.neg}),
    "C function": (math.hypot, (3, 4), {}),
    "C method": ("-".join, (["a", "b"],), {}),
    "C method descriptor": (str.upper, ("a",), {}),
    "C callable": (operator.itemgetter(1), ([1, 2],), {}),
    "C with a signature": (math.factorial, (5,), {}),
    "coroutine function": (later, (1, 2), {}),
    "partial of a coroutine function": (functools.partial(later, 3), (), {}),
}


def signature(func: Any) -> object:
    """Return the signature, or that there is none."""
    try:
        return inspect.signature(func)
    except ValueError:
        return "none"


def outcome(found: Any) -> Any:
    return asyncio.run(found) if inspect.iscoroutine(found) else found


@pytest.mark.parametrize("name", CALLS)
def test_f93_a_callable_looks_as_it_did_and_its_inputs_are_an_object(
    name: str, tracer: Tracer
) -> None:
    func, args, kwargs = CALLS[name]
    made: Any = tracer.tool(func)
    assert signature(made) == signature(func)
    assert getattr(made, "__wrapped__", None) == getattr(func, "__func__", func) or made == func
    missing = object()
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
        assert getattr(made, attribute, missing) == getattr(func, attribute, missing)
    for kind in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert kind(made) == kind(func)
    assert outcome(made(*args, **kwargs)) == outcome(func(*args, **kwargs))
    event = only(tracer)
    assert type(event["inputs"]) is dict
    alone = name in ("no argument", "C method descriptor")  # the latter's only one is its `self`
    assert alone == (event["inputs"] == {})
    if name.startswith("thousand"):
        assert event["inputs"] == {f"a{n}": n for n in range(1000)}


def test_f93_methods_of_a_class_look_as_they_did(tracer: Tracer) -> None:
    class Traced(Shop):
        method = tracer.tool(Shop.__dict__["method"])
        of_class = tracer.tool(Shop.__dict__["of_class"])
        static = tracer.tool(Shop.__dict__["static"])

    for name in ("method", "of_class", "static"):
        for plain, made in ((Shop, Traced), (Shop(), Traced())):
            assert signature(getattr(made, name)) == signature(getattr(plain, name))
            assert getattr(made, name).__doc__ == getattr(plain, name).__doc__
        assert type(inspect.getattr_static(Traced, name)) is type(
            inspect.getattr_static(Shop, name)
        )
    assert Traced().method(1, 2) == (1, (2,))
    assert Traced.of_class() == ("Traced", 1)
    assert Traced.static(3) == 3
    assert Traced().half(2) == (1, (2,))
    inputs = [event["inputs"] for event in events(tracer)]
    assert inputs == [{"a": 1, "rest": [2]}, {"a": 1}, {"a": 3}]
