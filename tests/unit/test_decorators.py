"""Decorated functions stay what they are; what they do is recorded."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import random
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from journal import by_name, events, local_tracer, only, sessions, updates

from tracer.buffer import Buffer
from tracer.clock import Clock, IdSource
from tracer.context import CURRENT, Suppress
from tracer.decorators import SpanFactory
from tracer.propagate import bind_context
from tracer.sessions import SessionFactory
from tracer.spans import INERT_SESSION, INERT_SPAN
from tracer.tracer import Source, Tracer


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    CURRENT.set(None)
    with local_tracer(tmp_path) as running:
        yield running
    assert CURRENT.get() is None, "something was left current"


def plain(order: str, count: int = 2, /, *rest: int, flag: bool = True, **more: Any) -> object:
    """Do as told."""
    return (order, count, rest, flag, more)


async def plain_async(order: str, count: int = 2) -> tuple[str, int]:
    """Do as told, later."""
    await asyncio.sleep(0)
    return (order, count)


def module_level(x: int) -> int:
    return x + 1


off = SpanFactory("tool", Source())  # no recorder: switched off
module_level = off(module_level)


# -- what stays as it was --------------------------------------------------------------------


@pytest.mark.parametrize("func", [plain, plain_async])
@pytest.mark.parametrize("bare", [True, False])
def test_signature_name_doc_and_kind_stay(
    tracer: Tracer, func: Callable[..., Any], *, bare: bool
) -> None:
    made: Any = tracer.tool(func) if bare else tracer.tool("named", config={"a": 1})(func)
    assert inspect.signature(made) == inspect.signature(func)
    for name in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(made, name) == getattr(func, name)
    assert made.__wrapped__ is func
    for kind in (inspect.isfunction, inspect.iscoroutinefunction, inspect.isgeneratorfunction):
        assert kind(made) == kind(func)


def test_attributes_of_a_function_stay(tracer: Tracer) -> None:
    def func() -> None: ...

    func.role = "admin"  # type: ignore[attr-defined]  # what other decorators leave behind
    assert tracer.tool(func).role == "admin"  # type: ignore[attr-defined]  # the same


def test_a_decorated_function_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(module_level)) is module_level  # noqa: S301 - our own bytes
    assert module_level(1) == 2


def words(text: str) -> Iterator[str]:
    yield from text.split()


@pytest.mark.parametrize("func", [words, functools.lru_cache(plain)])
def test_a_copy_of_a_function_is_the_function(tracer: Tracer, func: Any) -> None:
    """Configurations that hold functions are copied deeply."""
    made = tracer.tool(func)
    assert copy.copy(made) is copy.deepcopy([made])[0] is made


def test_a_copy_of_a_callable_object_is_one_of_its_own(tracer: Tracer) -> None:
    class Shop:
        stock = 0

        def __call__(self) -> int:
            return self.stock

    made: Any = tracer.tool(Shop())
    for other in (copy.copy(made), copy.deepcopy(made)):
        other.stock = 1
        assert (other(), made()) == (1, 0)


@pytest.mark.parametrize("inner", [functools.lru_cache, functools.partial])
def test_a_callable_in_a_class_binds_as_it_would_undecorated(tracer: Tracer, inner: Any) -> None:
    def add(*args: Any) -> Any:
        return args

    class Plain:
        method = inner(add)

    class Decorated:
        method = tracer.tool(inner(add))

    plain, decorated = Plain(), Decorated()
    with warnings.catch_warnings():  # 3.13 tells of a change to partial
        warnings.simplefilter("ignore")
        found, expected = decorated.method(1), plain.method(1)
    assert [arg is decorated for arg in found] == [arg is plain for arg in expected]
    assert Decorated.method(decorated, 1) == (decorated, 1)
    assert len(events(tracer)) == 2


def test_the_result_is_the_same_object(tracer: Tracer) -> None:
    made = object()
    assert tracer.tool(lambda: made)() is made

    @tracer.tool
    async def later() -> object:
        return made

    assert asyncio.run(later()) is made
    assert len(events(tracer)) == 2


def test_a_coroutine_function_starts_when_awaited(tracer: Tracer) -> None:
    started: list[object] = []

    @tracer.chain
    async def later() -> None:
        started.append(True)

    pending = later()
    assert inspect.iscoroutine(pending)
    assert pending.__qualname__.endswith("later")
    assert started == []
    assert events(tracer) == []
    asyncio.run(pending)
    assert started == [True]


class Trouble(Exception):  # noqa: N818 - what it is called is looked for
    pass


RAISED = [Trouble("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), StopIteration(1)]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_exception_passes_untouched_and_is_recorded(
    tracer: Tracer, error: BaseException
) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as undecorated:
        fails()
    expected = traceback.extract_tb(undecorated.value.__traceback__)[1:]
    error.__traceback__ = None
    with pytest.raises(type(error)) as caught:
        tracer.tool(fails)()
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[2:] == expected  # the test and the wrapper are before
    assert frames[1].filename.endswith("wrapping.py")
    text = only(tracer)["error"]
    assert text == type(error).__name__ + (f": {error}" if str(error) else "")
    assert "outputs" not in only(tracer)


@pytest.mark.parametrize("error", [Trouble("no"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_of_a_coroutine_passes_untouched(tracer: Tracer, error: BaseException) -> None:
    @tracer.tool
    async def fails() -> None:
        raise error

    coroutine = fails()
    with pytest.raises(type(error)) as caught:
        coroutine.send(None)
    assert caught.value is error
    assert only(tracer)["error"].startswith(type(error).__name__)


def test_the_context_of_an_exception_stays(tracer: Tracer) -> None:
    first, second = Trouble("first"), Trouble("second")

    @tracer.tool
    def fails() -> None:
        try:
            raise first
        except Trouble:
            raise second  # noqa: B904 - the implicit context is what is looked at

    with pytest.raises(Trouble):
        fails()
    assert second.__context__ is first
    assert second.__cause__ is None


def test_cancellation_passes_and_is_recorded(tracer: Tracer) -> None:
    @tracer.chain
    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert only(tracer)["error"].startswith("CancelledError")


def test_a_timeout_around_a_decorated_coroutine_fires(tracer: Tracer) -> None:
    @tracer.chain
    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waits(), 0.01)

    asyncio.run(main())
    assert only(tracer)["error"].startswith("CancelledError")


def test_a_closed_coroutine_ends_its_event(tracer: Tracer) -> None:
    @tracer.chain
    async def waits() -> None:
        await asyncio.sleep(0)

    coroutine = waits()
    copy_context().run(coroutine.send, None)
    coroutine.close()
    assert only(tracer)["error"] == "GeneratorExit"


def test_the_function_runs_once_whatever_ours_does(tracer: Tracer) -> None:
    calls = []

    @tracer.tool
    def once(x: object) -> None:
        calls.append(x)

    ids, tracer._recorder.ids = tracer._recorder.ids, cast(IdSource, None)  # a defect of ours
    once(1)
    tracer._recorder.ids = ids
    tracer._recorder.buffer, buffer = cast(Buffer, None), tracer._recorder.buffer  # another
    once(2)
    tracer._recorder.buffer = buffer
    assert calls == [1, 2]
    assert tracer.stats().failures == 2


# -- arguments -------------------------------------------------------------------------------


def called(tracer: Tracer, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    tracer.tool(func)(*args, **kwargs)
    return events(tracer)[-1]["inputs"]


def test_arguments_are_bound_to_names_defaults_included(tracer: Tracer) -> None:
    def func(a: int, b: int = 2, *, c: int = 3) -> None: ...

    assert called(tracer, func, 1) == {"a": 1, "b": 2, "c": 3}
    assert called(tracer, func, 1, 5, c=6) == {"a": 1, "b": 5, "c": 6}
    assert called(tracer, func, c=6, b=5, a=1) == {"a": 1, "b": 5, "c": 6}


def test_collected_arguments_are_bound_as_the_function_sees_them(tracer: Tracer) -> None:
    assert called(tracer, plain, "o") == {
        "order": "o",
        "count": 2,
        "rest": [],
        "flag": True,
        "more": {},
    }
    found = called(tracer, plain, "o", 1, 7, 8, flag=False, order="kept apart", x=1)
    assert found == {
        "order": "o",
        "count": 1,
        "rest": [7, 8],
        "flag": False,
        "more": {"order": "kept apart", "x": 1},
    }


def test_positional_only_arguments_are_bound(tracer: Tracer) -> None:
    def func(a: int, b: int = 2, /) -> None: ...

    assert called(tracer, func, 1) == {"a": 1, "b": 2}


def test_a_function_without_arguments_has_empty_inputs(tracer: Tracer) -> None:
    assert called(tracer, lambda: None) == {}


def test_self_and_cls_are_never_captured(tracer: Tracer) -> None:
    class Service:
        @tracer.tool
        def method(self, a: int) -> None: ...

        @tracer.tool
        async def later(self, a: int, *rest: int) -> None: ...

        @classmethod
        @tracer.tool
        def of(cls, a: int, **more: int) -> None: ...

        @staticmethod
        @tracer.tool
        def static(a: int) -> None: ...

    service = Service()
    service.method(1)
    Service.method(service, a=1)
    asyncio.run(service.later(1, 2))
    Service.of(1, x=3)
    service.static(1)
    assert [event["inputs"] for event in events(tracer)] == [
        {"a": 1},
        {"a": 1},
        {"a": 1, "rest": [2]},
        {"a": 1, "more": {"x": 3}},
        {"a": 1},
    ]
    assert [e["event_name"] for e in events(tracer)] == [
        "method",
        "method",
        "later",
        "of",
        "static",
    ]


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"unknown": 1}), ((1,), {"a": 2})]
)
@pytest.mark.parametrize("collects", [True, False])
def test_a_wrong_call_raises_the_functions_own_error(
    tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any], *, collects: bool
) -> None:
    def narrow(a: int, b: int = 2) -> None: ...

    def wide(a: int, *, c: int, **more: int) -> None: ...

    func: Callable[..., Any] = wide if collects else narrow
    with pytest.raises(TypeError) as expected:
        func(*args, **kwargs)
    with pytest.raises(TypeError) as found:
        tracer.tool(func)(*args, **kwargs)
    assert str(found.value) == str(expected.value)
    assert only(tracer)["error"] == f"TypeError: {expected.value}"


def test_inputs_and_outputs_are_taken_at_the_time(tracer: Tracer) -> None:
    @tracer.tool
    def changes(items: list[int]) -> list[int]:
        items.append(2)
        return items

    result = changes([1])
    result.append(3)
    event = only(tracer)
    assert event["inputs"] == {"items": [1]}
    assert event["outputs"] == {"result": [1, 2]}


def test_what_no_json_has_a_form_for_costs_no_call(tracer: Tracer) -> None:
    class Connection:
        def __repr__(self) -> str:
            raise RuntimeError("closed")

    connection = Connection()
    assert tracer.tool(lambda db: db)(connection) is connection
    event = only(tracer)
    assert event["inputs"]["db"]["__type__"].endswith("Connection")
    assert event["outputs"]["result"]["__type__"].endswith("Connection")


def test_a_decorator_under_ours_is_followed(tracer: Tracer) -> None:
    def twice(func: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(func)
        def inner(*args: Any, **kwargs: Any) -> int:
            return func(*args, **kwargs) * 2

        return inner

    def func(a: int, b: int = 3) -> int:
        return a + b

    assert tracer.tool(twice(func))(1) == 8
    assert only(tracer)["inputs"] == {"a": 1, "b": 3}


# -- names, types, fields ----------------------------------------------------------------------


def test_each_name_fixes_its_event_type(tracer: Tracer) -> None:
    for name in ("chain", "model", "tool", "trace"):
        getattr(tracer, name)(plain)("o")
        with getattr(tracer, name)():
            pass
    with tracer.trace("x", event_type="model"):
        pass
    found = [event["event_type"] for event in events(tracer)]
    assert found == ["chain", "chain", "model", "model", "tool", "tool", "chain", "chain", "model"]
    with pytest.raises(TypeError, match="fixes the event type"):
        tracer.tool("x", event_type="model")


def test_name_config_and_metadata_are_on_every_event(tracer: Tracer) -> None:
    @tracer.model("answer", config={"model": "m"}, metadata={"team": "a"})
    def func() -> None:
        tracer.enrich_span(metadata={"more": 1}, metrics={"n": 1})

    func()
    event = only(tracer)
    assert event["event_name"] == "answer"
    assert event["config"] == {"model": "m"}
    assert event["metadata"] == {"team": "a", "more": 1}
    assert event["metrics"] == {"n": 1}


def test_one_decorator_may_serve_several_functions(tracer: Tracer) -> None:
    decorate = tracer.tool(config={"a": 1})
    decorate(plain)("o")
    asyncio.run(decorate(plain_async)("o"))
    assert {e["event_name"]: e["config"] for e in events(tracer)} == {
        "plain": {"a": 1},
        "plain_async": {"a": 1},
    }


@pytest.mark.parametrize(
    "use",
    [
        lambda t: t.tool("x", unknown=1),
        lambda t: t.tool("x", inputs={})(plain),
        lambda t: t.session("x", outputs={}),
    ],
)
def test_an_argument_that_would_be_lost_is_refused(
    tracer: Tracer, use: Callable[[Tracer], object]
) -> None:
    with pytest.raises(TypeError):
        use(tracer)


@pytest.mark.parametrize("func", [1, property(plain), object()])
def test_what_cannot_be_called_is_refused_when_decorated(tracer: Tracer, func: Any) -> None:
    with pytest.raises(TypeError, match="can be decorated, not"):
        tracer.tool("named")(func)


# -- blocks ------------------------------------------------------------------------------------


def test_a_block_is_an_event(tracer: Tracer) -> None:
    with tracer.chain("plan", inputs={"q": 1}, config={"a": 1}, metadata={"m": 1}) as span:
        span.set(outputs={"steps": 3}, metrics={"steps": 3})
    event = only(tracer)
    assert event["event_id"] == span.id
    assert (event["inputs"], event["outputs"]) == ({"q": 1}, {"steps": 3})
    assert (event["config"], event["metadata"]) == ({"a": 1}, {"m": 1})


def test_an_asynchronous_block_is_an_event(tracer: Tracer) -> None:
    async def main() -> None:
        async with tracer.session("s"), tracer.chain("outer"), tracer.tool("inner"):
            await asyncio.sleep(0)

    asyncio.run(main())
    found = by_name(tracer)
    assert found["inner"]["parent_id"] == found["outer"]["event_id"]
    assert found["outer"]["session_id"] == sessions(tracer)[0]["session_id"]


@pytest.mark.parametrize("error", [Trouble("no"), KeyboardInterrupt(), GeneratorExit()])
def test_a_block_lets_every_exception_pass(tracer: Tracer, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, tracer.chain("outer"), tracer.tool("inner"):
        raise error
    assert caught.value is error
    text = type(error).__name__
    assert [event["error"].partition(":")[0] for event in events(tracer)] == [text, text]


def test_one_block_may_be_entered_again_and_inside_itself(tracer: Tracer) -> None:
    block = tracer.chain("again")
    with block as first, block as second:
        assert tracer.current_span() is second
    with block as third:
        assert tracer.current_span() is third
    assert [e["event_id"] for e in events(tracer)] == [second.id, first.id, third.id]
    assert [e.get("parent_id") for e in events(tracer)] == [first.id, None, None]


# -- parents -----------------------------------------------------------------------------------


def test_calls_inside_calls_are_children(tracer: Tracer) -> None:
    @tracer.tool
    def leaf() -> None: ...

    @tracer.chain
    def middle() -> None:
        leaf()

    @tracer.chain
    def root() -> None:
        middle()
        with tracer.model("block"):
            leaf()

    root()
    found = events(tracer)
    names = {event["event_id"]: event["event_name"] for event in found}
    parents = [(e["event_name"], names.get(e.get("parent_id", ""))) for e in found]
    assert parents == [
        ("leaf", "middle"),
        ("middle", "root"),
        ("leaf", "block"),
        ("block", "root"),
        ("root", None),
    ]


def test_an_exception_between_leaves_nothing_current(tracer: Tracer) -> None:
    @tracer.chain
    def fails() -> None:
        raise Trouble

    with pytest.raises(Trouble):
        fails()
    assert tracer.current_span() is None
    with tracer.chain("next"):
        pass
    assert "parent_id" not in events(tracer)[-1]


def test_every_one_of_10000_tasks_has_the_right_parent(tracer: Tracer) -> None:
    chosen = random.Random(1)  # noqa: S311 - no secret is made of it

    @tracer.tool
    async def leaf(number: int, pauses: list[int]) -> None:
        for _ in range(pauses[0]):
            await asyncio.sleep(0)

    @tracer.chain
    async def task(number: int, pauses: list[int]) -> None:
        for _ in range(pauses[1]):
            await asyncio.sleep(0)
        await leaf(number, pauses)
        for _ in range(pauses[2]):
            await asyncio.sleep(0)
        with tracer.model("block", inputs={"number": number}):
            await asyncio.sleep(0)

    async def main() -> None:
        with tracer.chain("root", inputs={"number": -1}):
            await asyncio.gather(
                *(task(n, [chosen.randrange(3) for _ in range(3)]) for n in range(10_000))
            )
        assert tracer.current_span() is None

    asyncio.run(main())
    found = events(tracer)
    assert len(found) == 30_001
    by_id = {event["event_id"]: event for event in found}
    (root,) = (event["event_id"] for event in found if event["event_name"] == "root")
    for event in found:
        if event["event_name"] == "task":
            assert event["parent_id"] == root
        elif event["event_name"] != "root":
            parent = by_id[event["parent_id"]]
            assert parent["event_name"] == "task"
            assert parent["inputs"]["number"] == event["inputs"]["number"]


def test_a_task_that_outlives_its_parent_starts_below_what_is_still_open(tracer: Tracer) -> None:
    async def late(may_go_on: asyncio.Event) -> None:
        await may_go_on.wait()
        with tracer.tool("late"):
            pass

    async def main() -> None:
        may_go_on = asyncio.Event()
        with tracer.chain("root"):
            with tracer.chain("short"):
                task = asyncio.ensure_future(late(may_go_on))
                await asyncio.sleep(0)
            may_go_on.set()
            await task

    asyncio.run(main())
    found = by_name(tracer)
    assert found["late"]["parent_id"] == found["root"]["event_id"]


def test_without_propagation_a_thread_has_no_parent_and_with_bind_the_current_one(
    tmp_path: Path,
) -> None:
    with local_tracer(tmp_path, propagate_threads=False) as tracer:

        def work(name: str) -> None:
            with tracer.tool(name):
                pass

        with tracer.chain("root"):
            for target, name in ((work, "alone"), (bind_context(work), "bound")):
                thread = Thread(target=target, args=(name,))
                thread.start()
                thread.join()
        found = by_name(tracer)
        assert "parent_id" not in found["alone"]
        assert found["bound"]["parent_id"] == found["root"]["event_id"]


def test_a_pool_of_threads_keeps_every_parent(tracer: Tracer) -> None:
    def work(number: int) -> None:
        with tracer.tool("leaf", inputs={"number": number}):
            pass

    with ThreadPoolExecutor(8) as pool:

        def job(number: int) -> None:
            with tracer.session(f"s{number}"), tracer.chain("job", inputs={"number": number}):
                list(pool.map(bind_context(work), [number] * 5))

        with ThreadPoolExecutor(8) as outer:
            list(outer.map(job, range(50)))
    found = events(tracer)
    jobs = {e["event_id"]: e for e in found if e["event_name"] == "job"}
    leaves = [e for e in found if e["event_name"] == "leaf"]
    assert (len(jobs), len(leaves)) == (50, 250)
    for leaf in leaves:
        assert jobs[leaf["parent_id"]]["inputs"] == leaf["inputs"]
        assert jobs[leaf["parent_id"]]["session_id"] == leaf["session_id"]
    assert len({e["session_id"] for e in found}) == 50


def test_bind_keeps_what_the_function_is(tracer: Tracer) -> None:
    bound, bound_async = bind_context(plain), bind_context(plain_async)
    assert inspect.signature(bound) == inspect.signature(plain)
    assert inspect.iscoroutinefunction(bound_async)
    assert not inspect.iscoroutinefunction(bound)
    assert bound.__name__ == "plain"
    assert bound("o", 1) == ("o", 1, (), True, {})
    assert asyncio.run(bound_async("o")) == ("o", 2)


def test_bind_restores_what_was_current_where_it_ran(tracer: Tracer) -> None:
    with tracer.chain("a") as a:
        bound = bind_context(tracer.current_span)
        bound_error = bind_context(plain_error)
    with tracer.chain("b") as b:
        assert bound() is None  # a is over
        with pytest.raises(Trouble):
            bound_error()
        assert tracer.current_span() is b
    assert a.ended


def plain_error() -> None:
    raise Trouble


def test_bound_coroutines_interleave(tracer: Tracer) -> None:
    async def work(name: str) -> None:
        await asyncio.sleep(0)
        with tracer.tool(name):
            await asyncio.sleep(0)

    async def main() -> None:
        bound = {}
        for name in "abc":
            with tracer.chain(f"parent {name}"):
                bound[name] = bind_context(work)(name)
                await asyncio.sleep(0)
                await bound[name]
        assert tracer.current_span() is None

    asyncio.run(main())
    found = by_name(tracer)
    for name in "abc":
        assert found[name]["parent_id"] == found[f"parent {name}"]["event_id"]


def test_tracers_that_interleave_never_parent_each_other(tmp_path: Path) -> None:
    with local_tracer(tmp_path / "a") as a, local_tracer(tmp_path / "b") as b:

        @a.chain
        def outer_a() -> None:
            outer_b()

        @b.chain
        def outer_b() -> None:
            with a.session("inner a"):
                inner_a()
            with b.tool("inner b"):
                assert a.current_span() is not None

        @a.tool
        def inner_a() -> None:
            with b.tool("below"):
                pass

        outer_a()
        in_a, in_b = by_name(a), by_name(b)
        assert "parent_id" not in in_a["inner_a"]  # the root of its own session
        assert in_a["outer_a"]["session_id"] != in_a["inner_a"]["session_id"]
        assert in_b["below"]["parent_id"] == in_b["outer_b"]["event_id"]
        assert in_b["inner b"]["parent_id"] == in_b["outer_b"]["event_id"]
        assert {e["session_id"] for e in in_b.values()} == {b.current_session().id}
        assert set(in_a) == {"outer_a", "inner_a"}


# -- sessions, suppression, switched off ----------------------------------------------------


def test_a_session_around_a_function_is_one_for_each_call(tracer: Tracer) -> None:
    @tracer.session(metadata={"k": 1})
    def run(x: int) -> int:
        with tracer.tool("t"):
            return x

    @tracer.session
    async def run_async() -> str:
        with tracer.tool("t"):
            return tracer.current_session().id

    assert inspect.iscoroutinefunction(run_async)
    before = tracer.current_session()
    assert (run(1), run(2)) == (1, 2)
    joined = asyncio.run(run_async())
    assert tracer.current_session() is before
    opened = sessions(tracer)
    assert [s["session_name"] for s in opened] == ["run", "run", "run_async"]
    assert [s["session_id"] for s in opened] == [e["session_id"] for e in events(tracer)]
    assert opened[0]["metadata"] == {"k": 1}
    assert opened[2]["session_id"] == joined
    assert [event_id for event_id, _ in updates(tracer)] == [s["session_id"] for s in opened]


def test_an_exception_through_a_session_passes_untouched(tracer: Tracer) -> None:
    error = Trouble("no")

    @tracer.session
    def run() -> None:
        raise error

    with pytest.raises(Trouble) as caught:
        run()
    assert caught.value is error
    ((_, body),) = updates(tracer)
    assert body["metadata"]["error"] == "Trouble: no"


def test_nothing_is_recorded_while_suppressed(tracer: Tracer, tmp_path: Path) -> None:
    with local_tracer(tmp_path / "other") as other:
        with tracer.chain("outer"):
            with Suppress():
                assert tracer.tool(plain)("o") == ("o", 2, (), True, {})
                assert asyncio.run(other.tool(plain_async)("o")) == ("o", 2)
                with tracer.session("s") as session, tracer.chain("inner") as span:
                    span.set(outputs=1)
                assert (span, session) == (INERT_SPAN, INERT_SESSION)
                assert tracer.log_event("tool", "logged") is None
                assert tracer.current_span() is None
            with tracer.tool("after"):
                pass
        assert set(by_name(tracer)) == {"outer", "after"}
        assert events(other) == []


def test_what_is_switched_off_records_nothing_and_changes_nothing() -> None:
    source = Source()
    tool, session = SpanFactory("tool", source), SessionFactory(source)
    before = CURRENT.get()
    assert tool(plain)("o") == ("o", 2, (), True, {})
    assert asyncio.run(tool(plain_async)("o")) == ("o", 2)
    with pytest.raises(Trouble):
        tool(plain_error)()
    with tool("t", inputs={}) as span, session("s") as opened:
        span.set(outputs={"a": 1})
        assert (span.id, opened.id) == ("", "")
    assert CURRENT.get() is before


def test_recording_may_be_switched_on_inside_a_call() -> None:
    source = Source()
    tool = SpanFactory("tool", source)
    other = Tracer(local=True, durable=False)

    @tool
    def switches() -> int:
        source.recorder = other._recorder
        return 1

    assert switches() == 1
    assert events(other) == []
    assert switches() == 1
    assert len(events(other)) == 1
    other.shutdown()


def test_garbage_collected_meanwhile_may_record(tracer: Tracer) -> None:
    @tracer.tool
    def note(number: int) -> None: ...

    class Noisy:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            note(0)

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for n in range(300):
            Noisy()
            with tracer.chain("outer"):
                note(n)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(events(tracer)) == 900
    assert tracer.current_span() is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs setitimer")
def test_a_signal_handler_may_record(tracer: Tracer) -> None:
    @tracer.tool
    def note() -> None: ...

    seen = 0

    def handler(*_: object) -> None:
        nonlocal seen
        seen += 1
        note()

    note()  # a first segment takes longer to make than it takes to the next signal
    made = 1
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        while made < 5000:  # all in one segment
            with tracer.chain("outer"):
                note()
            made += 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found = events(tracer)
    assert len(found) == made + seen
    assert len({event["event_id"] for event in found}) == len(found)
    assert {e["event_name"] for e in found} == {"outer", "note"}
    assert tracer.current_span() is None


# -- interrupts, limits, shared blocks ---------------------------------------------------------


class InterruptingClock(Clock):
    """Stand for a Ctrl-C that comes while ours runs: at the chosen reading of a clock."""

    def __init__(self, at: int) -> None:
        left = iter(range(at, -1_000_000, -1))

        def reading() -> int:
            if next(left) == 0:
                raise KeyboardInterrupt
            return 0

        self.wall_ns = reading
        self.monotonic_ns = reading


@pytest.mark.parametrize(
    ("way", "at"),  # begin: wall and monotonic; end: monotonic, in a coroutine one step later
    [(way, at) for way in ("function", "block") for at in range(3)]
    + [("coroutine", at) for at in range(2)],
)
def test_an_interrupt_inside_ours_passes_and_leaves_nothing_current(
    tracer: Tracer, way: str, at: int
) -> None:
    def block() -> None:
        with tracer.tool("block"):
            pass

    ways: dict[str, Callable[[], object]] = {
        "function": lambda: tracer.tool(module_level)(1),
        "coroutine": lambda: tracer.tool(plain_async)("o").send(None),
        "block": block,
    }
    tracer._recorder.clock = InterruptingClock(at)
    with pytest.raises(KeyboardInterrupt):
        ways[way]()
    left = tracer.current_span()
    CURRENT.set(None)
    assert left is None


def test_at_the_recursion_limit_what_works_undecorated_works_decorated(tracer: Tracer) -> None:
    def leaf() -> int:
        return 1

    def through() -> int:  # as many frames as a decorated leaf takes
        return leaf()

    def at_depth(depth: int, func: Callable[[], int]) -> int:
        return func() if depth == 0 else at_depth(depth - 1, func)

    def deepest(func: Callable[[], int]) -> int:
        depth = sys.getrecursionlimit()
        while True:
            try:
                at_depth(depth, func)
            except RecursionError:
                depth -= 1
            else:
                return depth

    reached = deepest(through)
    decorated = tracer.tool(leaf)
    for depth in range(reached - 40, reached + 1):
        assert at_depth(depth, decorated) == 1
        assert tracer.current_span() is None
    assert tracer.stats().failures > 0


def test_a_block_shared_by_tasks_ends_each_ones_own_span(tracer: Tracer) -> None:
    block, opened = tracer.chain("shared"), tracer.session("shared")

    async def main() -> None:
        first_may_end = asyncio.Event()

        async def first() -> None:
            async with opened as session, block as span:
                await first_may_end.wait()
            assert (span.ended, session.ended) == (True, True)

        async def second() -> None:
            async with opened as session, block as span:
                first_may_end.set()
                await task
                assert (span.ended, session.ended) == (False, False)
            assert (span.ended, session.ended) == (True, True)

        task = asyncio.ensure_future(first())
        await asyncio.sleep(0)
        await second()

    asyncio.run(main())
    assert len({event["session_id"] for event in events(tracer)}) == 2
    assert [len(u) for u in (updates(tracer), sessions(tracer))] == [2, 2]


def test_a_wrong_event_type_is_refused_where_it_is_written() -> None:
    trace = SpanFactory(None, Source())  # also while nothing is recorded
    with pytest.raises(TypeError, match="event_type must be chain, model, tool, not 'agent'"):
        trace("x", event_type="agent")


def test_a_session_refuses_what_cannot_be_called(tracer: Tracer) -> None:
    with pytest.raises(TypeError, match="can be decorated, not"):
        tracer.session(cast(Any, 1))
    with pytest.raises(TypeError, match="can be decorated, not"):
        tracer.session("named")(cast(Any, None))


def test_a_traced_repr_that_our_encoding_calls_is_no_event(tracer: Tracer) -> None:
    class Shown:
        @tracer.tool
        def __repr__(self) -> str:
            return "<shown>"

    tracer.chain(lambda x: x)(Shown())
    assert len(events(tracer)) == 1


def test_what_is_ours_already_is_not_wrapped_again_by_its_class(tracer: Tracer) -> None:
    @tracer.chain
    class Service:
        @tracer.tool
        def stream(self) -> Iterator[int]:
            yield 1

        @tracer.tool
        def plain(self) -> int:
            return 1

    assert list(Service().stream()) == [Service().plain()]
    assert sorted(e["event_name"] for e in events(tracer)) == ["plain", "stream"]


def test_a_generator_decorated_twice_stays_a_generator_function(tracer: Tracer) -> None:
    def stream() -> Iterator[int]:
        yield 1

    twice = tracer.chain(tracer.tool("inner")(stream))
    assert inspect.isgeneratorfunction(twice)
    assert list(twice()) == [1]
    found = by_name(tracer)
    assert found["inner"]["parent_id"] == found["stream"]["event_id"]


def test_a_coroutine_of_a_decorated_partial_keeps_the_name_of_its_function(
    tracer: Tracer,
) -> None:
    coroutine: Any = tracer.chain(functools.partial(plain_async, "o"))()
    assert coroutine.__qualname__ == "plain_async"
    coroutine.close()


def test_a_traceback_that_is_kept_does_not_keep_the_result(tracer: Tracer) -> None:
    class Result:
        pass

    @tracer.tool
    def works() -> Result:
        return Result()

    seen = weakref.ref(works())
    assert seen() is None


# -- what is captured --------------------------------------------------------------------------


def inputs_of(tracer: Tracer, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
    tracer.tool(**options)(func)(*args)
    return events(tracer)[-1]["inputs"]


def test_only_and_ignore_choose_arguments_by_name(tracer: Tracer) -> None:
    def func(db: object, order: str, k: int = 5) -> None: ...

    def wide(db: object, *rest: int, **more: int) -> None: ...

    assert inputs_of(tracer, func, 1, "a", ignore=["db"]) == {"order": "a", "k": 5}
    assert inputs_of(tracer, func, 1, "a", only=["order"]) == {"order": "a"}
    assert inputs_of(tracer, func, 1, "a", only=["order", "k"], ignore=["k"]) == {"order": "a"}
    assert inputs_of(tracer, wide, 1, 2, ignore=["db"]) == {"rest": [2], "more": {}}
    tracer.tool(only=["a"])(wide)(1, 2, a=3, b=4)
    assert events(tracer)[-1]["inputs"] == {"more": {"a": 3}}
    tracer.tool(ignore=["a"])(wide)(1, 2, a=3, b=4)
    assert events(tracer)[-1]["inputs"] == {"db": 1, "rest": [2], "more": {"b": 4}}


def test_capture_can_be_switched_off_for_one_function(tracer: Tracer) -> None:
    tracer.tool(capture_inputs=False, capture_outputs=False)(lambda x: x)(1)
    event = only(tracer)
    assert event["inputs"] == {}
    assert "outputs" not in event


def test_the_program_makes_what_is_recorded(tracer: Tracer) -> None:
    @tracer.tool(
        process_inputs=lambda inputs: {"length": len(inputs["text"])},
        process_outputs=lambda result: result.upper(),
    )
    def func(text: str) -> str:
        return text * 2

    assert func("ab") == "abab"
    event = only(tracer)
    assert event["inputs"] == {"length": 2}
    assert event["outputs"] == {"result": "ABAB"}

    @tracer.tool(process_outputs=len)
    def stream() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        yield {"b": 2}

    assert len(list(stream())) == 2
    assert events(tracer)[-1]["outputs"] == {"result": 2}


def test_what_a_process_function_raises_is_named_instead_of_the_value(tracer: Tracer) -> None:
    def fails(value: object) -> object:
        raise KeyError("s3cret")

    assert tracer.tool(process_inputs=fails, process_outputs=fails)(lambda x: x)("s3cret")
    event = only(tracer)
    assert "s3cret" not in str(event)
    assert event["inputs"]["repr"] == "process_inputs raised KeyError"
    assert event["outputs"]["repr"] == "process_outputs raised KeyError"


def test_what_a_process_function_calls_is_no_event(tracer: Tracer) -> None:
    inner = tracer.tool("inner")(lambda: 1)
    tracer.tool("outer", process_inputs=lambda _: {"n": inner()})(lambda: None)()
    assert [e["event_name"] for e in events(tracer)] == ["outer"]
    assert only(tracer)["inputs"] == {"n": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["nothing"]}, "takes no argument nothing; it takes order, count, rest"),
        ({"ignore": "order"}, "ignore: a list of names of arguments, not 'order'"),
        ({"capture_inputs": 1}, "capture_inputs: True or False, not 1"),
        ({"process_inputs": 1}, "process_inputs: a function, not 1"),
        ({"inputs": {}}, "a decorator takes name, config, metadata and capture_inputs"),
    ],
)
def test_a_wrong_capture_is_refused_where_it_is_written(
    tracer: Tracer, options: dict[str, Any], message: str
) -> None:
    def func(order: str, count: int, *rest: int) -> None: ...

    with pytest.raises(TypeError, match=message):
        tracer.tool(**options)(func)


def test_a_block_refuses_what_is_for_decorators(tracer: Tracer) -> None:
    with pytest.raises(TypeError, match="ignore: for decorators alone"), tracer.tool(ignore=["a"]):
        pass


def test_a_decorator_may_record_into_another_tracer(tracer: Tracer, tmp_path: Path) -> None:
    with local_tracer(tmp_path / "other") as other:
        tracer.tool(tracer=other)(lambda: None)()
        assert events(tracer) == []
        assert len(events(other)) == 1
