"""Callables that are no plain functions, and stay what they are: wrapt makes them transparent.

Loaded when the first of them is decorated; plain functions and coroutine functions, which cost
less in a closure, do without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from wrapt import ObjectProxy

from tracer.callables import by_name
from tracer.context import CURRENT, Link
from tracer.spans import Session, Span

if TYPE_CHECKING:
    _Proxy = ObjectProxy[Any]
else:  # wrapt 1 takes no parameter
    _Proxy = ObjectProxy

__all__ = ["FollowedCoroutine", "TracedCallable", "TracedFunction"]


class TracedCallable(_Proxy):
    """An object whose calls go to `call`; everything else is the object's own."""

    is_tracers = True  # on the class: no object it stands for is asked

    def __init__(self, wrapped: Any, call: Callable[..., Any], again: partial[Any]) -> None:
        """Stand for `wrapped`, with calls going to `call`; `again` decorates a copy of it."""
        super().__init__(wrapped)
        self._self_call = call
        self._self_again = again

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object, traced."""
        return self._self_call(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by name, as a function; what has no name of its own as the object it wraps."""
        if by_name(self.__wrapped__) is self:
            return self.__wrapped__.__qualname__
        # a `process_inputs` that no pickler takes must not keep the object from being pickled
        again = self._self_again if self._self_again.keywords["prepare"].travels() else _itself
        return again, (self.__wrapped__,)

    def __reduce__(self) -> Any:
        """Pickle as `__reduce_ex__` does."""
        return self.__reduce_ex__(2)

    def __copy__(self) -> Any:
        """Be one's own copy, as functions are; of another object, decorate the copy."""
        return self._self_or(copy.copy(self.__wrapped__))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Do the same, deeply."""
        return self._self_or(copy.deepcopy(self.__wrapped__, memo))

    def _self_or(self, found: Any) -> Any:
        return self if found is self.__wrapped__ else self._self_again(found)


def _itself(found: Any) -> Any:
    return found


class TracedFunction(TracedCallable):
    """The same for what becomes a method as an attribute of a class, as functions do."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind as what it wraps does; what becomes no method is the object's own, untraced."""
        func: Any = self.__wrapped__
        found: Any = cast(Any, type(func)).__get__(func, instance, owner)
        if found is func:
            return self
        if type(found) is MethodType and found.__func__ is func:
            return MethodType(self, found.__self__)
        return found


class FollowedCoroutine(_Proxy):
    """A coroutine that a plain function returned: it ends the link of the call when it ends.

    Not a coroutine around it: one that nobody awaits would be reported twice.
    """

    def __init__(self, wrapped: Any, link: Span | Session) -> None:
        super().__init__(wrapped)
        self._self_link = link
        self._self_inside: Link | None = link

    def send(self, value: Any) -> Any:
        """Run to the next await."""
        try:
            return self._self_step(self.__wrapped__.send, value)
        finally:
            del value  # the traceback of what is raised holds this frame: it must not keep it alive

    def throw(self, *error: Any) -> Any:
        """Raise inside, and run to the next await."""
        try:
            return self._self_step(self.__wrapped__.throw, *error)
        finally:
            del error  # the same: an exception that holds itself lives until garbage is collected

    def close(self) -> None:
        """Close it, and end the link."""
        try:
            self.__wrapped__.close()
        finally:
            self._self_link.end()

    def __del__(self) -> None:
        self._self_link.end()  # nobody awaited it, or to the end

    def _self_step(self, step: Callable[..., Any], *given: Any) -> Any:
        link = self._self_link
        before = CURRENT.get()
        CURRENT.set(self._self_inside)
        try:
            return step(*given)
        except StopIteration as stop:
            link.end(stop.value)
            raise
        except BaseException as error:
            if self.__wrapped__.cr_frame is None:  # else the step was refused: it goes on
                link.end(error=error)
            raise
        finally:
            del given
            self._self_inside = CURRENT.get()
            CURRENT.set(before)

    def __await__(self) -> Any:
        if self.__wrapped__.cr_await is not None:  # as `await` itself does with a coroutine
            raise RuntimeError("coroutine is being awaited already")
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)
