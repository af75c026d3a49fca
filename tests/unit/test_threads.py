"""Threads and executors: what runs there belongs to what was current where it was asked for."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import pickle
import queue
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest
from journal import by_name, events, local_tracer
from programs import run

from tracer import threads
from tracer.context import CURRENT
from tracer.threads import install, uninstall
from tracer.tracer import Tracer

PATIENCE = 20.0  # seconds before a wait is a failure


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    install()
    yield
    uninstall()
    assert CURRENT.get() is None


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    with local_tracer(tmp_path) as running:
        yield running


def leaf(tracer: Tracer, name: str) -> str:
    with tracer.tool(name):
        return name


def parent_of(tracer: Tracer, name: str) -> str | None:
    """The name of the event's parent."""
    found = by_name(tracer)
    parent = found[name].get("parent_id")
    return next((e["event_name"] for e in found.values() if e["event_id"] == parent), None)


# -- the parent rules ----------------------------------------------------------------------------


def in_thread(tracer: Tracer) -> None:
    thread = Thread(target=leaf, args=(tracer, "leaf"))
    thread.start()
    thread.join()


def in_subclass(tracer: Tracer) -> None:
    class Own(Thread):
        def start(self) -> None:
            self.begun = True
            super().start()

        def run(self) -> None:
            leaf(tracer, "leaf")

    thread = Own()
    thread.start()
    thread.join()


def in_timer(tracer: Tracer) -> None:
    timer = Timer(0.001, leaf, (tracer, "leaf"))
    timer.start()
    timer.join()


def in_pool(tracer: Tracer) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(leaf, tracer, "leaf").result(PATIENCE) == "leaf"


def in_map(tracer: Tracer) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert list(pool.map(functools.partial(leaf, tracer), ["leaf"])) == ["leaf"]


def in_copied_context(tracer: Tracer) -> None:
    contextvars.copy_context().run(leaf, tracer, "leaf")


def in_to_thread(tracer: Tracer) -> None:
    async def main() -> None:
        await asyncio.to_thread(leaf, tracer, "leaf")

    asyncio.run(main())


def in_default_executor(tracer: Tracer) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, leaf, tracer, "leaf")

    asyncio.run(main())


def in_own_executor(tracer: Tracer) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, leaf, tracer, "leaf")

    asyncio.run(main())


def in_call_later(tracer: Tracer) -> None:
    async def main() -> None:
        done = asyncio.Event()

        def call() -> None:
            leaf(tracer, "leaf")
            done.set()

        asyncio.get_running_loop().call_later(0.001, call)
        await asyncio.wait_for(done.wait(), PATIENCE)

    asyncio.run(main())


async def leaf_async(tracer: Tracer) -> None:
    await asyncio.sleep(0)
    leaf(tracer, "leaf")


def in_task(tracer: Tracer) -> None:
    async def main() -> None:
        await asyncio.create_task(leaf_async(tracer))

    asyncio.run(main())


def in_gather(tracer: Tracer) -> None:
    async def main() -> None:
        await asyncio.gather(leaf_async(tracer))

    asyncio.run(main())


def in_task_group(tracer: Tracer) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]  # 3.11
            group.create_task(leaf_async(tracer))

    asyncio.run(main())


WAYS = [
    in_call_later,
    in_copied_context,
    in_default_executor,
    in_gather,
    in_map,
    in_own_executor,
    in_pool,
    in_subclass,
    in_task,
    in_thread,
    in_timer,
    in_to_thread,
]
if sys.version_info >= (3, 11):
    WAYS.append(in_task_group)


@pytest.mark.parametrize("way", WAYS)
def test_f78_what_runs_elsewhere_is_below_the_span_that_asked(
    way: Callable[[Tracer], None], tracer: Tracer
) -> None:
    with tracer.session("mine") as session, tracer.chain("root"):
        way(tracer)
    assert parent_of(tracer, "leaf") == "root"
    assert {e["session_id"] for e in events(tracer)} == {session.id}


@pytest.mark.parametrize("way", WAYS)
def test_f78_it_is_in_the_session_that_was_current_alone(
    way: Callable[[Tracer], None], tracer: Tracer
) -> None:
    with tracer.session("mine") as session:
        way(tracer)
    assert by_name(tracer)["leaf"]["session_id"] == session.id
    assert parent_of(tracer, "leaf") is None


@pytest.mark.parametrize("way", [in_thread, in_timer, in_pool, in_map])
def test_without_it_threads_begin_without_a_parent(
    way: Callable[[Tracer], None], tracer: Tracer
) -> None:
    uninstall()
    with tracer.chain("root"):
        way(tracer)
    assert parent_of(tracer, "leaf") is None


@pytest.mark.parametrize("way", [in_thread, in_timer, in_pool, in_map, in_to_thread])
def test_suppress_reaches_threads(way: Callable[[Tracer], None], tracer: Tracer) -> None:
    with tracer.chain("root"), tracer.suppress():
        way(tracer)
    assert list(by_name(tracer)) == ["root"]


def test_f78_a_span_that_is_over_when_the_thread_runs_is_no_parent(tracer: Tracer) -> None:
    go = Event()

    def late(name: str) -> None:
        assert go.wait(PATIENCE)
        leaf(tracer, name)

    with tracer.chain("outer"), ThreadPoolExecutor(1) as pool:
        with tracer.chain("inner"):
            thread = Thread(target=late, args=("in thread",))
            thread.start()
            task = pool.submit(late, "in pool")
        go.set()
        thread.join(PATIENCE)
        task.result(PATIENCE)
    assert parent_of(tracer, "in thread") == "outer"
    assert parent_of(tracer, "in pool") == "outer"


def test_each_task_of_a_pool_has_its_own_parent(tracer: Tracer) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def look(expected: str | None) -> None:
        span = tracer.current_span()
        seen.append((expected, span.id if span else None))

    with ThreadPoolExecutor(4) as pool:
        with tracer.chain("the workers start here") as first:
            for _ in range(8):
                pool.submit(look, first.id)
            pool.submit(leaf, tracer, "leaf").result(PATIENCE)
            with tracer.chain("later") as later:
                list(pool.map(look, [later.id] * 50))
        for _ in range(50):
            pool.submit(look, None)
    assert len(seen) == 108
    assert [s for s in seen if s[0] != s[1]] == []


def test_the_workers_of_a_pool_belong_to_no_task(tracer: Tracer) -> None:
    """A task submitted with nothing current begins without a parent while the first one's lives."""
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:

        def outside() -> None:  # a thread of before: nothing is current in it
            asked.get()
            pool.submit(leaf, tracer, "outside").result(PATIENCE)
            asked.put(None)

        thread = Thread(target=outside)
        thread.start()
        with tracer.chain("root"):
            pool.submit(leaf, tracer, "inside").result(PATIENCE)
            asked.put(None)
            thread.join(PATIENCE)
    assert parent_of(tracer, "inside") == "root"
    assert parent_of(tracer, "outside") is None


# -- nothing else changes ------------------------------------------------------------------------


def test_the_methods_look_as_they_did() -> None:
    patched: list[Any] = [Thread.start, ThreadPoolExecutor.submit, ProcessPoolExecutor.submit]
    looks = [(m.__qualname__, m.__module__, m.__doc__, inspect.signature(m)) for m in patched]
    assert pickle.loads(pickle.dumps(Thread.start)) is Thread.start  # noqa: S301 - our own
    uninstall()
    bare: list[Any] = [Thread.start, ThreadPoolExecutor.submit, ProcessPoolExecutor.submit]
    assert looks == [(m.__qualname__, m.__module__, m.__doc__, inspect.signature(m)) for m in bare]
    assert not any(hasattr(m, "__wrapped__") for m in bare)


def test_a_thread_that_runs_has_nothing_of_ours(tracer: Tracer) -> None:
    running, go = Event(), Event()

    def work() -> None:
        running.set()
        assert go.wait(PATIENCE)

    with tracer.chain("root"):
        bare, carried = Thread(target=work), Thread(target=work)
        kept = set(vars(bare))
        carried.start()
        assert running.wait(PATIENCE)
        assert set(vars(carried)) == kept
        assert carried.run.__func__ is Thread.run  # type: ignore[attr-defined]
        go.set()
        carried.join(PATIENCE)


def test_a_run_of_the_users_own_on_the_instance_is_run(tracer: Tracer) -> None:
    ran: list[object] = []
    with tracer.chain("root"):
        thread = Thread()
        own = functools.partial(ran.append, "own")
        thread.run = own  # type: ignore[method-assign]
        thread.start()
        thread.join(PATIENCE)
    assert ran == ["own"]
    assert thread.run is own


def test_a_slotted_subclass_and_arguments_named_as_ours(tracer: Tracer) -> None:
    class Slotted(Thread):
        __slots__ = ("self_",)

        def run(self) -> None:
            self.self_ = leaf(tracer, "leaf")

    def named(**kwargs: int) -> dict[str, int]:
        return kwargs

    with tracer.chain("root"), ThreadPoolExecutor(1) as pool:
        thread = Slotted()
        thread.start()
        thread.join(PATIENCE)
        odd = {"self": 1, "self_": 2, "fn": 3, "link": 4, "original": 5, "task": 6}
        assert pool.submit(named, **odd).result(PATIENCE) == odd
    assert thread.self_ == "leaf"
    assert parent_of(tracer, "leaf") == "root"


def test_a_thread_that_fails_prints_what_it_did(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", caught.append)
    trouble = ValueError("mine")

    def fail() -> None:
        raise trouble

    with tracer.chain("root"):
        thread = Thread(target=fail)
        thread.start()
        thread.join(PATIENCE)
    (args,) = caught
    assert args.exc_value is trouble
    assert args.thread is thread


def test_calls_that_are_wrong_fail_as_they_did(tracer: Tracer) -> None:
    class NotMade(Thread):
        def __init__(self) -> None:
            pass

    with tracer.chain("root"), ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="__init__"):
            NotMade().start()
        thread = Thread(target=leaf, args=(tracer, "leaf"))
        thread.start()
        with pytest.raises(RuntimeError, match="once"):
            thread.start()
        thread.join(PATIENCE)
        assert "run" not in vars(thread)
        with pytest.raises(TypeError, match="fn"):
            pool.submit()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="callable"):
            pool.submit(None).result(PATIENCE)  # type: ignore[arg-type]
        pool.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(leaf, tracer, "never")
        with pytest.raises(AttributeError, match="_initialized"):
            Thread.start(object())  # type: ignore[arg-type]
    assert parent_of(tracer, "leaf") == "root"


def test_a_thread_that_could_not_start_starts_later(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = (
        "_start_joinable_thread"
        if hasattr(threading, "_start_joinable_thread")
        else "_start_new_thread"
    )
    thread = Thread(target=leaf, args=(tracer, "leaf"))

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with tracer.chain("too early"):
        with monkeypatch.context() as patch:
            patch.setattr(threading, starter, refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                thread.start()
        assert "run" not in vars(thread)
        with tracer.chain("root"):
            thread.start()
            thread.join(PATIENCE)
    assert parent_of(tracer, "leaf") == "root"


def test_an_executor_of_the_users_own_gets_the_users_own_task(tracer: Tracer) -> None:
    class Counting(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            given.append(fn)
            return super().submit(fn, *args, **kwargs)

    class Inline(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(fn(*args, **kwargs))
            return done

    given: list[object] = []
    with tracer.chain("root"), Counting(1) as pool:
        pool.submit(leaf, tracer, "leaf").result(PATIENCE)
        Inline().submit(leaf, tracer, "inline").result(PATIENCE)
    assert given == [leaf]
    assert parent_of(tracer, "leaf") == "root"
    assert parent_of(tracer, "inline") == "root"


def test_a_pool_that_pickles_its_tasks_pickles_the_bare_task(tracer: Tracer) -> None:
    """As the pool of interpreters does, whose `submit` is that of the thread pool (3.14)."""

    class Pickling(ThreadPoolExecutor):
        def _adjust_thread_count(self) -> None:
            item: Any = self._work_queue.get()
            task = getattr(item, "fn", None) or item.task[0]  # 3.14 keeps them together
            pickled.append(pickle.loads(pickle.dumps(task)))  # noqa: S301 - our own

    pickled: list[object] = []
    with tracer.chain("root"), Pickling(1) as pool:
        pool.submit(leaf, tracer, "never")
    assert pickled == [leaf]


def test_the_context_of_a_user_is_not_carried(tracer: Tracer) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("users", default="untouched")
    seen: list[str] = []
    with tracer.chain("root"), ThreadPoolExecutor(1) as pool:
        variable.set("changed")
        pool.submit(lambda: seen.append(variable.get())).result(PATIENCE)
        if not getattr(sys.flags, "thread_inherit_context", False):  # 3.14
            thread = Thread(target=lambda: seen.append(variable.get()))
            thread.start()
            thread.join(PATIENCE)
    assert set(seen) == {"untouched"}


# -- installing ----------------------------------------------------------------------------------


LATER = """
import sys
from tracer.threads import install, uninstall
install()
assert not {"multiprocessing", "concurrent.futures.process", "asyncio"} & set(sys.modules)
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
pools = ProcessPoolExecutor, ThreadPoolExecutor
assert all(hasattr(pool.submit, "__wrapped__") for pool in pools)

class Base:
    def __init_subclass__(cls, **kwargs):
        cls.given = kwargs
class Own(Executor, Base, word=1):
    def submit(self): pass
assert Own.given == {"word": 1} and not hasattr(Own.submit, "__wrapped__")
try:
    class Wrong(ThreadPoolExecutor, word=1): pass
except TypeError as error:
    assert "no keyword arguments" in str(error)
uninstall()
assert not any(hasattr(pool.submit, "__wrapped__") for pool in pools)
assert "__init_subclass__" not in vars(Executor)
"""


def test_pools_that_are_loaded_later_are_carried_and_none_is_loaded_for_us() -> None:
    ended = run(LATER)
    assert (ended.code, ended.err) == (0, "")


def test_installed_many_times_is_installed_once() -> None:
    once = Thread.start
    install()
    install()
    assert Thread.start is once
    uninstall()
    uninstall()
    assert not hasattr(Thread.start, "__wrapped__")


def test_threads_that_install_at_once_install_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threads._Replaced):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            if not others:
                others.append(Thread(target=install))
                others[0].start()
                others[0].join(PATIENCE)
                first.append(Thread.start)

    uninstall()
    bare: Any = Thread.start
    others: list[Thread] = []
    first: list[Any] = []
    monkeypatch.setattr(threads, "_Replaced", Interrupted)
    install()
    installed: Any = Thread.start
    assert installed is first[0]
    assert first[0].__wrapped__ is bare
    uninstall()
    assert Thread.start is bare


@pytest.mark.parametrize("keeps_wrapped", [True, False])
def test_what_others_put_on_top_stays_there(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch, *, keeps_wrapped: bool
) -> None:
    ours = Thread.start
    calls: list[Thread] = []

    def on_top(self: Thread) -> None:
        calls.append(self)
        ours(self)

    if keeps_wrapped:
        functools.update_wrapper(on_top, ours)
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", on_top)
        uninstall()
        assert Thread.start is on_top
        with tracer.chain("one"):
            leaf_in(tracer, "after uninstall")
        install()
        with tracer.chain("two"):
            leaf_in(tracer, "after install")
    assert parent_of(tracer, "after uninstall") is None
    assert parent_of(tracer, "after install") == "two"
    assert len(calls) == 2
    uninstall()


def leaf_in(tracer: Tracer, name: str) -> None:
    thread = Thread(target=leaf, args=(tracer, name))
    thread.start()
    thread.join(PATIENCE)


@pytest.mark.parametrize("theirs", ["below", "above"])
def test_others_who_wrap_run_in_start_still_work(
    theirs: str, tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way error trackers do it: `start` puts a `run` on the instance."""
    ran: list[str] = []

    def wrapping(start: Callable[[Thread], None]) -> Callable[[Thread], None]:
        def own_start(self: Thread) -> None:
            inner: Any = getattr(self.run, "__func__", self.run)

            def run() -> None:
                ran.append(theirs)
                inner(threading.current_thread())

            self.run = run  # type: ignore[method-assign]
            start(self)

        return own_start

    uninstall()
    bare = Thread.start
    if theirs == "below":
        Thread.start = wrapping(Thread.start)  # type: ignore[method-assign,assignment]
        install()
    else:
        install()
        Thread.start = wrapping(Thread.start)  # type: ignore[method-assign,assignment]
    try:
        with tracer.chain("root"):
            leaf_in(tracer, "leaf")
    finally:
        uninstall()
        Thread.start = bare  # type: ignore[method-assign]
    assert ran == [theirs]
    assert parent_of(tracer, "leaf") == "root"


# -- nothing is kept -----------------------------------------------------------------------------


def test_a_thread_that_lives_on_keeps_no_span(tracer: Tracer) -> None:
    running, go = Event(), Event()

    def forever() -> None:
        leaf(tracer, "one")  # what ends in it brings back nothing that is over
        running.set()
        assert go.wait(PATIENCE)

    with tracer.chain("root") as root:
        thread = Thread(target=forever)
        thread.start()
        assert running.wait(PATIENCE)
    leaf(tracer, "afterwards")
    gc.collect()
    kept = [f for f in gc.get_referrers(root) if f is not sys._getframe()]
    go.set()
    thread.join(PATIENCE)
    # the thread's own variable, and nothing of ours beside it
    assert not [k for k in kept if isinstance(k, (list, dict, type(lambda: 0)))]


def ask_a_pool(tracer: Tracer, number: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(number):
            with tracer.chain("root"):
                pool.submit(leaf, tracer, "leaf").result(PATIENCE)


def ask_threads(tracer: Tracer, number: int) -> None:
    for _ in range(number):
        with tracer.chain("root"):
            leaf_in(tracer, "leaf")


def ask_a_loop(tracer: Tracer, number: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(number // 5):
            with tracer.chain("root"):
                await asyncio.to_thread(leaf, tracer, "leaf")
                await loop.run_in_executor(None, leaf, tracer, "leaf")
                await asyncio.create_task(leaf_async(tracer))
                contextvars.copy_context().run(leaf, tracer, "leaf")
                called = asyncio.Event()
                loop.call_later(0, leaf, tracer, "leaf")
                loop.call_later(0, called.set)
                await called.wait()

    asyncio.run(main())


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("ask", "number"),
    [
        (ask_a_pool, 4000),
        (ask_threads, 1000),
        (ask_a_loop, 5000),
        *(
            pytest.param(ask, 100_000, marks=pytest.mark.slow)
            for ask in (ask_a_pool, ask_threads, ask_a_loop)
        ),
    ],
)
def test_f78_tasks_leave_nothing_behind(
    ask: Callable[[Tracer, int], None], number: int, tmp_path: Path
) -> None:
    """At most 1 MB for 100,000 tasks: 10 bytes for each."""
    with local_tracer(tmp_path) as tracer:
        ask(tracer, 200)
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            ask(tracer, number)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert grown < 10 * number, f"{grown} bytes more after {number} tasks"


def test_our_own_thread_is_carried_nowhere(tmp_path: Path) -> None:
    """The first span starts the background thread: it records nothing and keeps nothing."""
    seen: list[object] = []
    options: dict[str, Any] = {"server_url": "http://127.0.0.1:9", "spool_dir": tmp_path}
    running = Tracer(**options)
    try:
        flusher = running._flusher
        assert flusher is not None
        send = flusher._attempt

        def attempt() -> bool:
            with running.chain("in the background"):
                seen.append(running.current_span())
            return send()

        flusher._attempt = attempt  # type: ignore[method-assign]
        with running.chain("root"):
            running.flush(0.2)
        assert seen
        assert set(seen) == {None}
    finally:
        running.shutdown(0.1)
    assert running.stats().recorded == 1
