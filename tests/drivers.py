"""What a consumer does with what a call gave: scripts drawn from bytes, one kind for each flavor."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from threading import Thread
from typing import Any, NamedTuple

from drawn_programs import ERRORS, Draw, Program
from worlds import FOREIGN, World

from tracer.context import CURRENT

__all__ = ["Calls", "drive"]

# Python makes a close of a GeneratorExit that is thrown into a coroutine, at every `await`
AWAITED = tuple(kind for kind in ERRORS if kind != "GeneratorExit")

MAX_STEPS = 6
MAX_INTERRUPTS = 20  # a KeyboardInterrupt in a task leaves the loop, which is run again


class Calls(NamedTuple):
    """What a script did with the target: how often it called it, how often with wrong arguments."""

    made: int
    refused: int


def drive(world: World, program: Program, target: Any, draw: Draw) -> Calls:
    """Run a drawn script against the program's target, of which the caller keeps nothing."""
    before = CURRENT.get()
    with world.watched():
        driver = _Driver(world, program, target, draw)
        drivers: dict[str, Callable[[], None]] = {
            "function": driver.function,
            "coroutine": driver.coroutine,
            "generator": driver.generator,
            "async generator": driver.async_generator,
            "awaitable": driver.awaitable,
        }
        if draw.below(8) == 7:  # all of it in another thread, with a context of its own
            _in_thread(drivers[program.flavor])
        else:
            drivers[program.flavor]()
        world.by_hand.clear()
        world.handle = driver.target = None
        world.collect(before)
    return Calls(driver.calls, driver.refused)


class _Driver:
    def __init__(self, world: World, program: Program, target: Any, draw: Draw) -> None:
        self.world = world
        self.target = target
        self.calls = self.refused = 0
        self._draw = draw
        self._flavor = program.flavor

    # -- the call ----------------------------------------------------------------------------

    def _call(self) -> bool:
        """Call the target; tell whether there is something to go on with."""
        self.calls += 1
        world, argument = self.world, [1]
        way = self._draw.below(16)
        wrong: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {
            14: (([], True, 3, 4), {}),
            15: (([],), {"unknown": 1}),
        }
        self.refused += way in wrong
        args, kwargs = wrong.get(way, ((argument,), {"flag": True} if way % 2 else {}))

        def call() -> Any:
            if way not in wrong or self._flavor != "coroutine":
                world.handle = self.target(*args, **kwargs)
                return world.handle
            try:  # the one difference there is: ours says so when it is awaited
                self.target(*args, **kwargs).send(None)
            except TypeError as error:
                raise error.with_traceback(None)  # noqa: B904 - it is the same
            return None

        gave = world.attempt("call", call)
        world.note("argument", argument)
        if not gave:
            world.handle = None
        handle = world.handle
        world.note("gave", inspect.iscoroutine(handle), inspect.isawaitable(handle))
        world.note("named", getattr(handle, "__name__", ""), getattr(handle, "__qualname__", ""))
        return world.handle is not None

    def _drop(self) -> None:
        self.world.note("drop")
        self.world.handle = None
        self.world.collect()

    def _drop_in_a_cycle(self) -> None:
        self.world.note("drop in a cycle")
        cycle = [self.world.handle]
        cycle.append(cycle)
        self.world.handle = None
        del cycle
        self.world.collect()

    # -- functions ---------------------------------------------------------------------------

    def function(self) -> None:
        for _ in range(1 + self._draw.below(2)):
            way = self._draw.below(4)
            if way == 0:
                self._call()
            elif way == 1:
                self._while_handling(self._call)
            elif way == 2:
                _in_thread(self._call)
            else:
                copy_context().run(self._call)
            self.world.handle = None

    def _while_handling(self, step: Callable[[], object]) -> None:
        try:
            raise self.world.error("Trouble")
        except BaseException as error:  # noqa: BLE001 - all of them
            step()
            self.world.note("still handling", self.world.name(error))

    # -- generators, and coroutines by hand --------------------------------------------------

    def generator(self) -> None:
        if not self._call():
            return
        self._steps("generator")

    def _steps(self, flavor: str) -> None:
        draw, world = self._draw, self.world
        errors = ERRORS if flavor == "generator" else AWAITED
        for _ in range(draw.below(MAX_STEPS)):
            way = draw.below(20 if flavor == "generator" else 15)
            if way < 4:
                step = self._send(None)
            elif way < 6:
                step = self._send(world.thing(draw.below(3)))
            elif way == 6:
                step = lambda: world.handle.send(world.fresh())
            elif way < 10:
                step = self._throw(draw.one_of(errors), draw.below(3))
            elif way == 10:
                step = lambda: world.handle.close()
            elif way == 11:
                self._while_handling(lambda: world.attempt("handling", self._send(None)))
                continue
            elif way == 12:
                thrown = self._throw(draw.one_of(errors), draw.below(3))
                self._while_handling(lambda: world.attempt("handling", thrown))  # noqa: B023 - it is called at once
                continue
            elif way == 13:
                return self._drop()
            elif way == 14:
                return self._drop_in_a_cycle()
            elif way == 15:
                _in_thread(lambda: world.attempt("in a thread", self._send(None)))
                continue
            elif way == 16:
                copy_context().run(lambda: world.attempt("in a context", self._send(None)))
                continue
            elif way == 17:
                step = self._break_out
            elif way == 18:
                self._delegate()
                continue
            else:
                step = self._set_foreign
            world.attempt("step", step)
        return None

    def _send(self, value: object) -> Callable[[], Any]:
        return lambda: self.world.handle.send(value)

    def _throw(self, kind: str, way: int) -> Callable[[], Any]:
        world = self.world

        def throw() -> Any:
            if way == 0:
                return world.handle.throw(world.error(kind))
            if way == 1:
                return world.handle.throw(world.error_class(kind))
            try:
                raise world.error(kind)
            except BaseException as error:  # noqa: BLE001 - all of them
                raised = error
            try:
                return world.handle.throw(raised)
            finally:
                del raised

        return throw

    def _break_out(self) -> str:
        for found in self.world.handle:
            self.world.note("loops", self.world.name(found))
            break
        return "broke out"

    def _delegate(self) -> None:
        """Put a generator of the consumer's around it."""

        def delegates(inner: Any) -> Generator[Any, Any, Any]:
            try:
                return (yield from inner)
            finally:
                self.world.note("delegated")

        self.world.handle = delegates(self.world.handle)

    def _set_foreign(self) -> None:
        FOREIGN.set(FOREIGN.get() + 10)

    # -- coroutines --------------------------------------------------------------------------

    def coroutine(self) -> None:
        if self._draw.below(3) == 0:
            if self._call():
                self.world.by_hand.append(CURRENT.get())
                self._steps("coroutine")
        else:
            self.awaitable()

    def awaitable(self) -> None:
        _run(self.world, self._awaits())

    async def _awaits(self) -> None:
        draw, world = self._draw, self.world
        if not self._call():
            return
        way = draw.below(10)
        if way == 0:
            await world.attempt_async("await", lambda: world.handle)
        elif way == 1:
            await world.attempt_async("await", lambda: world.handle)
            await world.attempt_async("again", lambda: world.handle)
        elif way == 2:
            await self._cancelled(draw.below(4), draw.one_of((None, "message")))
        elif way == 3:
            limit = draw.one_of((0, 1.5, 7))
            await world.attempt_async("wait_for", lambda: asyncio.wait_for(world.handle, limit))
        elif way == 4:
            await self._shielded(draw.below(4))
        elif way == 5:
            both = (world.handle, asyncio.sleep(0))
            gather = lambda: asyncio.gather(*both, return_exceptions=True)
            await world.attempt_async("gather", gather)
        elif way == 6:
            await self._counted()
        elif way == 7:  # never awaited
            self._drop()
        elif way == 8:  # the loop ends first
            self._ensure()
            await asyncio.sleep(draw.below(3))
        else:
            await self._in_another_context(draw.below(3))

    def _ensure(self) -> asyncio.Future[Any] | None:
        found: list[Any] = []
        handle, self.world.handle = self.world.handle, None

        def ensure() -> None:
            found.append(asyncio.ensure_future(handle))

        self.world.attempt("ensure_future", ensure)
        if not found:
            return None
        self.world.handle = found[0]
        return self.world.handle  # type: ignore[no-any-return]  # just made

    async def _cancelled(self, ticks: int, message: str | None) -> None:
        task = self._ensure()
        if task is None:
            return
        for _ in range(ticks):
            await asyncio.sleep(0)
        self.world.note("cancel", task.cancel(message) if message else task.cancel())
        if hasattr(task, "cancelling"):
            self.world.note("cancelling", task.cancelling())
        await self.world.attempt_async("await", lambda: task)
        self.world.note("done", task.done(), task.cancelled())

    async def _shielded(self, ticks: int) -> None:
        task = self._ensure()
        if task is None:
            return
        outer = asyncio.ensure_future(asyncio.shield(task))
        for _ in range(ticks):
            await asyncio.sleep(0)
        outer.cancel()
        await self.world.attempt_async("outer", lambda: outer)
        await self.world.attempt_async("inner", lambda: task)

    async def _counted(self) -> None:
        """Count the ticks of the loop: ours adds none."""
        task = self._ensure()
        ticks = 0
        while task is not None and not task.done():
            ticks += 1
            await asyncio.sleep(0 if ticks < 20 else 1)
        self.world.note("ticks", ticks)
        if task is not None:
            await self.world.attempt_async("await", lambda: task)

    async def _in_another_context(self, ticks: int) -> None:
        task = copy_context().run(self._ensure)
        for _ in range(ticks):
            await asyncio.sleep(0)
        if task is not None:
            await self.world.attempt_async("await", lambda: task)

    # -- async generators --------------------------------------------------------------------

    def async_generator(self) -> None:
        if self._draw.below(4) == 0:
            if self._call():
                self._by_hand()
        else:
            _run(self.world, self._streams())

    async def _streams(self) -> None:
        draw, world = self._draw, self.world
        if not self._call():
            return None
        for _ in range(draw.below(MAX_STEPS)):
            way = draw.below(18)
            step = self._async_step(way)
            if step is not None:
                await world.attempt_async("step", step)
            elif way == 10:
                await self._cancelled_step(draw.below(3))
            elif way == 11:
                limit = draw.one_of((0, 1.5, 7))
                step = lambda limit=limit: asyncio.wait_for(world.handle.__anext__(), limit)
                await world.attempt_async("wait_for", step)
            elif way == 12:
                await self._two_at_once()
            elif way == 13:
                await asyncio.create_task(self._closed_elsewhere())
            elif way == 14:
                self._drop()
                return await asyncio.sleep(draw.below(3))
            elif way == 15:
                self._drop_in_a_cycle()
                return await asyncio.sleep(draw.below(3))
            elif way == 16:
                await world.attempt_async("loop", self._broken_loop)
            else:
                self._set_foreign()
        return None

    def _async_step(self, way: int) -> Callable[[], Awaitable[Any]] | None:
        draw, world = self._draw, self.world
        if way < 4:
            return lambda: world.handle.__anext__()
        if way < 6:
            value = world.thing(draw.below(3))
            return lambda: world.handle.asend(value)
        if way < 9:
            kind, as_class = draw.one_of(ERRORS), draw.below(2)
            make = world.error_class if as_class else world.error
            return lambda: world.handle.athrow(make(kind))
        if way == 9:
            return lambda: world.handle.aclose()
        return None

    async def _cancelled_step(self, ticks: int) -> None:
        handle = self.world.handle

        async def step() -> Any:
            return await handle.__anext__()

        task = asyncio.create_task(step())
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await self.world.attempt_async("cancelled step", lambda: task)

    async def _two_at_once(self) -> None:
        handle = self.world.handle

        async def step() -> Any:
            return await handle.__anext__()

        both = lambda: asyncio.gather(step(), step(), return_exceptions=True)
        await self.world.attempt_async("two at once", both)

    async def _closed_elsewhere(self) -> None:
        await self.world.attempt_async("closed elsewhere", lambda: self.world.handle.aclose())

    async def _broken_loop(self) -> str:
        async for found in self.world.handle:
            self.world.note("loops", self.world.name(found))
            break
        return "broke out"

    def _by_hand(self) -> None:
        """Drive the steps without an event loop, as other frameworks do."""
        draw, world = self._draw, self.world
        world.by_hand.append(CURRENT.get())
        for _ in range(draw.below(MAX_STEPS)):
            step = self._async_step(draw.below(10))
            assert step is not None
            begun: list[Any] = []
            if not world.attempt("begin", lambda: begun.append(step())):  # noqa: B023 - it is called at once
                continue
            for _ in range(1 + draw.below(3)):
                way = draw.below(6)
                if way < 4:
                    going = world.attempt("go on", lambda: begun[0].send(None))  # noqa: B023 - it is called at once
                elif way == 4:
                    thrown = world.error(draw.one_of(AWAITED))
                    going = world.attempt("throw", lambda: begun[0].throw(thrown))  # noqa: B023 - it is called at once
                    del thrown
                else:
                    going = world.attempt("close", lambda: begun[0].close())  # noqa: B023 - it is called at once
                if not going:
                    break
            if draw.below(5) == 4:
                begun.clear()
                return self._drop()
            begun.clear()
        return None


def _in_thread(work: Callable[[], object]) -> None:
    thread = Thread(target=work)
    thread.start()
    thread.join()


MAX_TICKS = 2000  # turns of an event loop; a program that ends takes less than a hundred


class _Never(selectors.SelectSelector):
    """Nothing ever arrives; what waits for a time waits in the loop's own."""

    waited = 0.0
    looked = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left to wait for")
        self.looked += 1
        if self.looked > MAX_TICKS:  # two tasks that wait for each other by asking again and again
            self.looked = 0
            raise RuntimeError("this goes on for ever")
        self.waited += max(timeout, 0)
        return []


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that has the time: sleeping takes none."""

    def __init__(self) -> None:
        self._never = _Never()
        super().__init__(self._never)

    def time(self) -> float:
        return self._never.waited


def _run(world: World, main: Coroutine[Any, Any, None]) -> None:
    loop = _Loop()
    loop.set_exception_handler(world.loop_problem)
    _finish(world, loop, main)
    left = sorted(asyncio.all_tasks(loop), key=lambda task: int(task.get_name().split("-")[1]))
    for task in left:
        task.cancel()
    if left:
        world.note("left", len(left))
        _finish(world, loop, _wait(left))
    del left[:]
    _finish(world, loop, loop.shutdown_asyncgens())
    loop.close()


async def _wait(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


def _finish(world: World, loop: _Loop, work: Coroutine[Any, Any, Any]) -> None:
    task = loop.create_task(work)
    for _ in range(MAX_INTERRUPTS):
        try:
            loop.run_until_complete(task)
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt, or the end of a deadlock
            world.note("loop left", world.name(error))
            if task.done():
                break
            if type(error) is RuntimeError:
                task.cancel()
        else:
            break
    with contextlib.suppress(BaseException):
        task.result()
