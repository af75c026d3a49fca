"""The world a drawn program runs in: what it uses, and everything it can be seen to do.

The same program runs in two worlds, plain and traced; what they saw must be the same, line by
line. Objects are known by the number they were made with, exceptions by a mark on them, so that
nothing that is looked at is kept alive by it.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import gc
import inspect
import logging
import re
import sys
import types
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, cast

from drawn_programs import Program

from tracer.context import CURRENT, Link, nearest
from tracer.decorators import SpanFactory
from tracer.recorder import Recorder
from tracer.sessions import SessionFactory
from tracer.tracer import Source

__all__ = ["Decorate", "World"]

Decorate = Callable[[Any], Any]

PROGRAM = "<program>"
FOREIGN: ContextVar[int] = ContextVar("foreign", default=0)

ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Trouble(Exception):  # noqa: N818 - a user's class, named as users do
    """What a program may raise of its own."""


CLASSES: dict[str, type[BaseException]] = {
    "Trouble": Trouble,
    "CancelledError": asyncio.CancelledError,
    "TimeoutError": asyncio.TimeoutError,  # not the built-in one before 3.11
}


class Thing:
    """Something with an identity."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.number}"


class Fresh(Thing):
    """One that nobody keeps: it shows who does."""


class Later:
    """Something to await that is no coroutine."""

    def __init__(self, inner: Awaitable[Any]) -> None:
        self._inner = inner

    def __await__(self) -> Any:
        return self._inner.__await__()


def as_it_is(func: Any) -> Any:
    return func


class World:
    """Run one program and write down what it does.

    Args:
        source: where blocks record.
        decorate: what the program's `deco` does. nested: what is done to the callables it uses.
        owner: the recorder whose links the body must find current; None: nobody looks.
        looks_at_current: what is current is the same after each step.
        lifetimes: look at what is still alive.
    """

    def __init__(
        self,
        source: Source,
        decorate: Decorate = as_it_is,
        nested: Decorate = as_it_is,
        owner: Recorder | None = None,
        *,
        looks_at_current: bool = True,
        lifetimes: bool = True,
    ) -> None:
        self.seen: list[str] = []
        self.handle: Any = None  # what a call of `target` gave
        # what was current before a coroutine was driven by hand: between its steps it leaves its
        # own span current, as it leaves every context variable; only at its end it must be back
        self.by_hand: list[Link | None] = []
        self.begun = 0  # bodies of the target
        self.opened = self.opened_sessions = 0  # blocks and nested calls; blocks of sessions
        self._owner = owner
        self._looks_at_current, self._lifetimes = looks_at_current, lifetimes
        self._things = [Thing(n) for n in range(3)]
        self._made: list[weakref.ref[Fresh]] = []
        self._raised = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._decorate = decorate
        self._block = SpanFactory("tool", source)
        self._session = SessionFactory(source)
        self._nested = nested

    def target(self, program: Program) -> Any:
        """Return the callable that the program defines."""
        names: dict[str, Any] = {
            "__name__": "drawn",
            "functools": functools,
            "sys": sys,
            "asyncio": asyncio,
            "deco": self._decorate,
            "stranger": _stranger,
            "begun": self._count_begun,
            "saw": lambda value: self.note("saw", self.name(value)),
            "inside": self.inside,
            "thing": self.thing,
            "fresh": self.fresh,
            "error": self.error,
            "foreign": FOREIGN,
            "block": self._open_block,
            "block_session": self._open_session,
            "reenter": self._reenter,
            "spawn": self._spawn,
            "finish_spawned": self._finish_spawned,
            "promised": self._promised,
            "Awaitable": Later,
            **self._nested_calls(),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `return` in a `finally` is drawn on purpose
            exec(compile(program.source, PROGRAM, "exec"), names)  # noqa: S102 - ours
        target = names["target"]
        self.note("is", *_facts(target))
        return target

    # -- what it is seen to do ---------------------------------------------------------------

    def note(self, what: str, *details: object) -> None:
        self.seen.append(ADDRESS.sub("", " ".join((what, *map(str, details)))))

    def name(self, value: Any) -> str:
        """Return what a value is called: the same for counterparts in both worlds."""
        kind: Any = value.__class__
        if isinstance(value, BaseException):
            return self._error_name(value, [])
        if kind in (list, tuple):
            return f"{kind.__name__}({', '.join(map(self.name, value))})"
        if isinstance(value, Thing) or value is None or kind in (int, str, bool):
            return repr(value)
        return f"<{kind.__name__}>"

    def _error_name(self, error: BaseException, above: list[int]) -> str:
        kind = type(error)
        label = f"{kind.__name__}{error.args!r}#{getattr(error, 'mark', '')}"
        if id(error) in above:
            return f"{label} again"
        above = [*above, id(error)]
        lines: list[int] = []
        traceback = error.__traceback__
        while traceback is not None:  # of the program alone: ours, and the test's, do not count
            code = traceback.tb_frame.f_code
            # a frame that has not started stands at its first line: there ours stands in its place
            if code.co_filename == PROGRAM and traceback.tb_lineno != code.co_firstlineno:
                lines.append(traceback.tb_lineno)
            traceback = traceback.tb_next
        found = [label, f"lines={lines}"]
        if error.__cause__ is not None:
            found.append(f"cause=({self._error_name(error.__cause__, above)})")
        if error.__context__ is not None:
            found.append(f"context=({self._error_name(error.__context__, above)})")
        if error.__suppress_context__:
            found.append("suppressed")
        if isinstance(error, StopIteration):
            found.append(f"value={self.name(error.value)}")
        return " ".join(found)

    def attempt(self, what: str, step: Callable[[], Any]) -> bool:
        """Take one step as its consumer, write down what came of it; tell whether it gave."""
        before = CURRENT.get()
        try:
            self.note(what, "gave", self.name(step()))
            gave = True
        except BaseException as error:  # noqa: BLE001 - whatever comes is compared
            self.note(what, "raised", self.name(error))
            gave = False
        self._after(before)
        return gave

    async def attempt_async(self, what: str, step: Callable[[], Awaitable[Any]]) -> bool:
        """Do the same with something to await."""
        before = CURRENT.get()
        try:
            self.note(what, "gave", self.name(await step()))
            gave = True
        except BaseException as error:  # noqa: BLE001 - the same
            self.note(what, "raised", self.name(error))
            gave = False
        self._after(before)
        return gave

    def _after(self, before: Link | None) -> None:
        if self.by_hand:
            before = CURRENT.get() if _is_suspended(self.handle) else self.by_hand[0]
        if self._looks_at_current and CURRENT.get() is not before:
            self.note("OTHER CURRENT", CURRENT.get())
        refs = self._made if self._lifetimes else []
        alive = [fresh for ref in refs if (fresh := ref()) is not None]
        self.note("  then", _state(self.handle), "foreign", FOREIGN.get(), "alive", alive)

    def collect(self, before: Link | None = None) -> None:
        """Collect the garbage, and see what is left."""
        gc.collect()
        self._after(before or CURRENT.get())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Write down what is reported behind a program's back: warnings, logs, unraisable."""

        def unraisable(args: Any) -> None:
            self.note("unraisable", self.name(args.exc_value))

        def warned(message: Warning | str, *_: object, **__: object) -> None:
            self.note("warned", message)

        noted = _Logged(self)
        logger = logging.getLogger("asyncio")
        before = sys.unraisablehook
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("always")
            warnings.showwarning = warned
            sys.unraisablehook = unraisable
            stack.callback(setattr, sys, "unraisablehook", before)
            logger.addHandler(noted)
            stack.callback(logger.removeHandler, noted)
            yield

    def loop_problem(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what an event loop would log."""
        self.note("loop says", context["message"], self.name(context.get("exception")))

    # -- what programs use -------------------------------------------------------------------

    def thing(self, number: int) -> Thing:
        return self._things[number]

    def fresh(self) -> Fresh:
        made = Fresh(len(self._made))
        self._made.append(weakref.ref(made))
        return made

    def error(self, kind: str) -> BaseException:
        """Make an exception that is recognised, and whose end is seen."""
        self._raised += 1
        made: Any = self.error_class(kind)(self._raised)
        made.mark = self._raised
        made.held = self.fresh()
        return made  # type: ignore[no-any-return]  # set above

    def error_class(self, kind: str) -> type[BaseException]:
        found: type[BaseException] = CLASSES.get(kind) or getattr(builtins, kind)
        return found

    def inside(self, expected: str) -> None:
        """Look at what is current in the body: the innermost block, else the call itself."""
        self.note("inside", expected)
        if self._owner is None:
            return
        link: Any = nearest(self._owner)
        name = getattr(link, "name", "nothing")
        # what is closed from outside ends in the context of whoever closes it
        closed = any("GeneratorExit" in line for line in self.seen)
        if name.split(".")[0] != expected and not (closed and name == "nothing"):
            self.note("FOUND INSIDE", name)

    def _count_begun(self) -> None:
        self.begun += 1

    def _open_block(self, name: str) -> Any:
        self.opened += 1
        return self._block(name)

    def _open_session(self, name: str) -> Any:
        self.opened_sessions += 1
        return self._session(name)

    def _reenter(self) -> None:
        handle = step = self.handle
        if inspect.isasyncgen(handle):
            step = cast(Any, handle).asend(None)
        elif not (inspect.isgenerator(handle) or inspect.iscoroutine(handle)):
            return
        try:
            self.note("reentered", self.name(step.send(None)))
        except Exception as error:  # noqa: BLE001 - it is running already
            self.note("reentered", self.name(error))
        if step is not handle:
            step.close()

    def _spawn(self, number: int) -> None:
        async def child() -> int:
            self.note("child", number, FOREIGN.get())
            await asyncio.sleep(number)
            if number == 2:
                raise self.error("Trouble")
            return number

        running = asyncio.get_running_loop()
        self._tasks.append(running.create_task(child()))

    async def _finish_spawned(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await asyncio.wait([task])
            self.note("child ended", self.name(task.exception() or task.result()))

    def _promised(self, coroutine: Any) -> asyncio.Future[Any]:
        """Return a future that is settled by a task: the two are not the same."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def settle(task: asyncio.Task[Any]) -> None:
            if future.done():
                return
            if task.cancelled():
                future.cancel()
            elif (error := task.exception()) is not None:
                try:
                    future.set_exception(error)
                except TypeError as refused:  # a StopIteration
                    future.set_exception(refused)
            else:
                future.set_result(task.result())

        task = loop.create_task(coroutine)
        task.add_done_callback(settle)
        self._tasks.append(task)
        return future

    def _nested_calls(self) -> dict[str, Any]:
        """Return what bodies call: traced callables, and some that are not."""
        traced = self._nested

        def nested(number: int) -> Thing:
            self.opened += 1
            return self.thing(number)

        def nested_generator(number: int) -> Iterator[int]:
            self.opened += 1
            yield from range(number)

        async def nested_coroutine(number: int) -> Thing:
            self.opened += 1
            await asyncio.sleep(0)
            return self.thing(number)

        async def nested_stream(number: int) -> AsyncIterator[int]:
            self.opened += 1
            for n in range(number):
                await asyncio.sleep(0)
                yield n

        def fails(error: BaseException) -> None:
            try:
                raise error
            except Exception:  # noqa: BLE001 - others pass
                self.note("failed", self.name(sys.exc_info()[1]))

        def relay(number: int) -> Generator[Any, Any, Any]:
            try:
                self.note("relayed", self.name((yield self.thing(number))))
            except ValueError as error:
                yield error.args
            return self.thing(number)

        @types.coroutine
        def bare(number: int) -> Generator[Any, Any, Any]:
            return (yield self.thing(number))

        @types.coroutine
        def awaited_generator(coroutine: Any) -> Generator[Any, Any, Any]:
            return (yield from coroutine)

        return {
            "nested": traced(nested),
            "nested_generator": traced(nested_generator),
            "nested_coroutine": traced(nested_coroutine),
            "nested_stream": traced(nested_stream),
            "fails": fails,
            "relay": relay,
            "bare": bare,
            "awaited_generator": awaited_generator,
        }


class _Logged(logging.Handler):
    """What asyncio logs, as a line of what a world saw."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note("logged", record.levelname, record.msg)


def _stranger(func: Any) -> Any:
    """Decorate as other libraries do."""

    @functools.wraps(func)
    def strange(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return strange


def _facts(target: Any) -> Iterator[object]:
    """Tell what `inspect` and readers of attributes find."""
    for asked in (
        inspect.isroutine,
        inspect.isfunction,
        inspect.ismethod,
        inspect.isgeneratorfunction,
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
        callable,
        inspect.signature,
        inspect.getdoc,
    ):
        yield asked(target)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        yield getattr(target, name, "none")
    for name in ("__defaults__", "__kwdefaults__", "__self__", "func", "args", "keywords"):
        yield name, hasattr(target, name)


def _state(handle: Any) -> str:
    if inspect.isgenerator(handle):
        return inspect.getgeneratorstate(handle)
    if inspect.iscoroutine(handle):
        return inspect.getcoroutinestate(handle)
    if inspect.isasyncgen(handle):
        running = "running" if handle.ag_running else "at rest"
        return f"{running}, {'over' if handle.ag_frame is None else 'open'}"
    if isinstance(handle, asyncio.Future):
        return f"{handle._state}"
    return ""


def _is_suspended(handle: Any) -> bool:
    if inspect.iscoroutine(handle):
        return inspect.getcoroutinestate(handle) == inspect.CORO_SUSPENDED
    return bool(inspect.isasyncgen(handle) and handle.ag_running)
