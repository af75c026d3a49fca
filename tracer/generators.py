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

from tracer.streams import unhooked, was_taken

__all__ = ["TracedGeneratorFunction"]

_OWN = frozenset(("__call__", "__copy__", "__deepcopy__", "__get__", "__reduce__", "__reduce_ex__"))


class TracedGeneratorFunction:
    """A generator function, of either kind, whose calls go to `call`.

    Everything asked of it is asked of a function that does nearly the same, and which cloudpickle
    takes apart in its place, knowing it for a function. What is unpickled from that is the
    function itself: there a call is opened when the first item is asked for.
    """

    __slots__ = ("__weakref__", "_called", "_func", "_shown")

    is_tracers = True  # on the class: no object it stands for is asked

    def __init__(self, func: FunctionType, call: Callable[..., Any]) -> None:
        _kind._called.__set__(self, call)
        _kind._func.__set__(self, func)
        _kind._shown.__set__(self, _shown(func, call))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, traced."""
        return _called_of(self)(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind as functions do."""
        return self if instance is None else MethodType(self, instance)

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(_shown_of(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_shown_of(self), name, value)
        if name in ("__name__", "__qualname__"):  # generators are named by what makes them
            setattr(_func_of(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_shown_of(self), name)

    def __repr__(self) -> str:
        return repr(_shown_of(self))

    def __dir__(self) -> list[str]:
        return dir(_shown_of(self))

    def __reduce_ex__(self, protocol: Any) -> str:
        """Pickle by name, as functions do."""
        return cast(str, _shown_of(self).__qualname__)

    def __reduce__(self) -> str:
        return self.__reduce_ex__(2)

    def __copy__(self) -> TracedGeneratorFunction:
        """Be one's own copy, as functions are."""
        return self

    def __deepcopy__(self, memo: object) -> TracedGeneratorFunction:
        return self


# past `__getattribute__`
_kind: Any = TracedGeneratorFunction
_called_of: Callable[[object], Any] = _kind._called.__get__
_func_of: Callable[[object], Any] = _kind._func.__get__
_shown_of: Callable[[object], Any] = _kind._shown.__get__


def _shown(func: FunctionType, call: Callable[..., Any]) -> FunctionType:
    """Return a generator function that does what `call` does once it runs, and looks like `func`."""
    if inspect.isasyncgenfunction(func):
        steps: Any = _async_steps(call, unhooked, was_taken)
    else:
        steps = _steps(call)
    # with the globals of `func`, in which others look for its annotations
    shown = FunctionType(steps.__code__, func.__globals__, func.__name__, None, steps.__closure__)
    if func.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE:
        shown = cast(FunctionType, coroutine(shown))
    functools.update_wrapper(shown, func)
    return shown


# No name of a module may be used in these: pickled, they run with the globals of `func`.


def _steps(call: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
    def traced(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from call(*args, **kwargs))

    return traced


def _async_steps(call: Any, unhooked: Any, was_taken: Any) -> Callable[..., Any]:
    async def traced(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        agen = call(*args, **kwargs)
        step, value = unhooked(agen), None  # the event loop is to close this one, not both
        box: list[Any] = []  # what is yielded is not ours to keep
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
