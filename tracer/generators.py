"""Generator functions: a call is followed from the moment of the call, and they stay functions.

A function that only returns a generator is no generator function to `inspect`, and a generator
function runs nothing of ours before its first item is asked for, when what was current at the
call may be over. So one object stands for both: called it is the first, looked at the second.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from types import FunctionType, MethodType, coroutine
from typing import Any, cast

from tracer.standins import StandIn, called_of, target_of
from tracer.streams import unhooked, was_taken

__all__ = ["TracedGeneratorFunction"]


class TracedGeneratorFunction(StandIn):
    """A generator function, of either kind, whose calls go to `call`.

    It stands for a function that does nearly the same, and which cloudpickle takes apart in its
    place, knowing it for a function. What is unpickled from that is the function itself: there a
    call is opened when the first item is asked for.
    """

    __slots__ = ("_is_renamed",)

    def __init__(self, func: FunctionType, call: Callable[..., Any]) -> None:
        super().__init__(_shown(func, call), call)
        _kind._is_renamed.__set__(self, False)  # noqa: FBT003 - a slot takes no keyword

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, traced."""
        steps = called_of(self)(*args, **kwargs)
        if _is_renamed(self):  # generators are named by what makes them
            shown = target_of(self)
            steps.__name__, steps.__qualname__ = shown.__name__, shown.__qualname__
        return steps

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind as functions do."""
        return self if instance is None else MethodType(self, instance)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(target_of(self), name, value)
        if name in ("__name__", "__qualname__"):
            _kind._is_renamed.__set__(self, True)  # noqa: FBT003 - the same

    def __reduce_ex__(self, protocol: Any) -> str:
        """Pickle by name, as functions do."""
        return cast(str, target_of(self).__qualname__)

    def __copy__(self) -> TracedGeneratorFunction:
        """Be one's own copy, as functions are."""
        return self

    def __deepcopy__(self, memo: object) -> TracedGeneratorFunction:
        return self


_kind: Any = TracedGeneratorFunction
_is_renamed: Callable[[object], bool] = _kind._is_renamed.__get__


def _shown(func: FunctionType, call: Callable[..., Any]) -> FunctionType:
    """Return a generator function that does what `call` does once it runs, and looks like `func`."""
    if inspect.isasyncgenfunction(func):
        steps: Any = _async_steps(call, unhooked, was_taken)
    else:
        steps = _steps(call, was_taken)
    # with the globals of `func`, in which others look for its annotations
    shown = FunctionType(steps.__code__, func.__globals__, func.__name__, None, steps.__closure__)
    if func.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE:
        shown = cast(FunctionType, coroutine(shown))
    functools.update_wrapper(shown, func)
    return shown


# No name of a module may be used in these: pickled, they run with the globals of `func`.


def _steps(call: Any, was_taken: Any) -> Callable[..., Any]:
    # not `yield from`: that closes the inner one for a GeneratorExit, which `follow` throws in
    def traced(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        gen = call(*args, **kwargs)
        step, value = gen.send, None
        box: list[Any] = []  # what is yielded is not ours to keep
        while True:
            try:
                box.append(step(value))
            except StopIteration as stop:
                box.append(stop.value)
                break
            finally:
                value = None
            try:
                value = yield box.pop()
                step = gen.send
            except BaseException as thrown:
                if gen.gi_running or was_taken(gen.gi_frame):
                    raise
                value, step = thrown, gen.throw
        return box.pop()

    return traced


def _async_steps(call: Any, unhooked: Any, was_taken: Any) -> Callable[..., Any]:
    async def traced(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        agen = call(*args, **kwargs)
        step, value = unhooked(agen), None  # the event loop is to close this one, not both
        box: list[Any] = []
        while True:
            try:
                box.append(await step(value))
            except StopAsyncIteration:
                return
            finally:
                value = None
            try:
                value = yield box.pop()
                step = agen.asend
            except BaseException as thrown:
                if was_taken(agen.ag_frame):
                    raise
                value, step = thrown, agen.athrow

    return traced
