"""`bind`: a function that runs below what is current now, wherever it is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, ParamSpec, TypeVar

from tracer.context import CURRENT, Link, innermost_open

__all__ = ["bind_context"]

P = ParamSpec("P")
R = TypeVar("R")


def bind_context(func: Callable[P, R]) -> Callable[P, R]:
    """Return `func` running below what is current now, in whatever thread or task it is called.

    It stays what it is: a function, coroutine function, generator or async generator function,
    with its signature. What is over by the time of a call is no parent: the open one above it is.
    """
    link = innermost_open()
    kinds = func, type(func).__call__  # the second: of an object that can be called
    if any(map(inspect.isasyncgenfunction, kinds)):
        bound: Any = _async_generator_function(func, link)
    elif any(map(inspect.isgeneratorfunction, kinds)):
        bound = _generator_function(func, link)
    elif any(map(inspect.iscoroutinefunction, kinds)):
        bound = _coroutine_function(func, link)
    else:
        bound = _function(func, link)
    # the attributes of an instance or a class that can be called say nothing about its bound form
    updated = functools.WRAPPER_UPDATES if inspect.isroutine(kinds[0]) else ()
    return functools.update_wrapper(bound, func, updated=updated)


class _Below:
    """A block in which `link` is current; afterwards, by value, what was.

    Entered again it goes on where it was left: the steps of a generator have spans of their own
    open in between.
    """

    __slots__ = ("_inside", "_outside")

    def __init__(self, link: Link | None) -> None:
        self._inside = link
        self._outside: Link | None = None

    def __enter__(self) -> None:
        self._outside = CURRENT.get()
        CURRENT.set(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = CURRENT.get()
        CURRENT.set(self._outside)
        self._outside = None


def _function(func: Callable[..., Any], link: Link | None) -> Callable[..., Any]:
    def bound(*args: Any, **kwargs: Any) -> Any:
        with _Below(link):
            return func(*args, **kwargs)

    return bound


def _coroutine_function(func: Callable[..., Any], link: Link | None) -> Callable[..., Any]:
    async def bound(*args: Any, **kwargs: Any) -> Any:
        with _Below(link):
            return await func(*args, **kwargs)

    return bound


def _generator_function(func: Callable[..., Any], link: Link | None) -> Callable[..., Any]:
    def bound(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        below = _Below(link)
        with below:
            steps = func(*args, **kwargs)
        step: Callable[[Any], Any] = steps.send
        given: Any = None
        while True:
            try:
                with below:
                    items = [step(given)]  # taken out again: what is yielded is not ours to keep
            except StopIteration as stop:
                return stop.value
            finally:
                given = None  # an error thrown in would keep this frame, and the frame the error
            try:
                given = yield items.pop()
                step = steps.send
            except GeneratorExit:
                with below:
                    steps.close()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in: it goes on to `steps`
                given, step = error, steps.throw

    return bound


def _async_generator_function(func: Callable[..., Any], link: Link | None) -> Callable[..., Any]:
    async def bound(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        below = _Below(link)
        with below:
            steps = func(*args, **kwargs)
        step: Callable[[Any], Any] = steps.asend
        given: Any = None
        while True:
            try:
                with below:
                    items = [await step(given)]
            except StopAsyncIteration:
                return
            finally:
                given = None
            try:
                given = yield items.pop()
                step = steps.asend
            except GeneratorExit:
                with below:
                    await steps.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in: it goes on to `steps`
                given, step = error, steps.athrow

    return bound
