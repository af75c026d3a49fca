"""A callable of any kind becomes one of the same kind that opens a link for each call.

Ours runs before and after the call, never around it: an error of ours cannot reach the program,
and what the program raises passes untouched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType
from typing import Any, Protocol, cast

from tracer import generators
from tracer.context import exchange, restore
from tracer.generators import TracedGeneratorFunction
from tracer.recorder import RecorderSource
from tracer.spans import Session, Span
from tracer.standins import stand_in
from tracer.streams import Reduce, Stream, follow_async, follow_future, follow_generator

__all__ = ["Opening", "Prepare", "name_of", "wrap"]

# Nothing of these can be awaited: one look at a set instead of one for an attribute.
_PLAIN = frozenset((type(None), bool, int, float, str, bytes, list, tuple, dict))


Open = Callable[[tuple[Any, ...], dict[str, Any]], "Span | Session | None"]


@dataclass(frozen=True, slots=True)
class Opening:
    """What is opened around each call of one callable; None: nothing is recorded.

    Attributes:
        current: opens it and makes it current. detached: leaves what is current as it is.
    """

    source: RecorderSource
    current: Open
    detached: Open
    reduce: Reduce | None = None


class Prepare(Protocol):
    """What one decorator opens around the calls of whatever it decorates; can be pickled itself."""

    def __call__(self, func: Callable[..., Any], name: str, *, bound: bool) -> Opening:
        """Return the opening of one callable; `bound`: its first argument is a `self` or `cls`."""
        ...

    def travels(self) -> bool:
        """Tell whether any pickler takes it, with the functions and values it was given."""
        ...


def wrap(func: Any, prepare: Prepare, name: str | None = None) -> Any:
    """Return `func` with what `prepare` makes for it opened around each call.

    Signature, name, documentation, pickling and kind stay. A class is changed in place: its own
    public methods are wrapped.

    Raises: TypeError: it cannot be called.
    """
    if isinstance(func, type):
        return _wrap_methods(func, prepare, name)
    kind = cast(Any, type(func))
    if issubclass(kind, (staticmethod, classmethod)):
        inner = _wrap_one(func.__func__, prepare, name, bound=issubclass(kind, classmethod))
        return _rebuilt(func, inner)
    if isinstance(func, MethodType) and isinstance(func.__func__, FunctionType):
        return MethodType(_wrap_one(func.__func__, prepare, name, bound=True), func.__self__)
    if not callable(func):
        raise TypeError(f"functions, classes and other callables can be decorated, not {func!r}")
    return _wrap_one(func, prepare, name)


def name_of(func: Any) -> str:
    """Return what events of a callable are called if nobody says: its name, or its type's."""
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None)
    return name if isinstance(name, str) else type(func).__name__


def _wrap_methods(owner: type, prepare: Prepare, name: str | None) -> type:
    for attribute, found in list(vars(owner).items()):
        kind = cast(Any, type(found))
        inner = found.__func__ if issubclass(kind, (staticmethod, classmethod)) else found
        if attribute.startswith("_") or not isinstance(inner, FunctionType) or _is_ours(inner):
            continue
        bound = not issubclass(kind, staticmethod)
        wrapped = _wrap_one(inner, prepare, f"{name or owner.__name__}.{attribute}", bound=bound)
        setattr(owner, attribute, wrapped if inner is found else _rebuilt(found, wrapped))
    return owner


def _rebuilt(method: Any, inner: Any) -> Any:
    """Return a static or class method of `inner`, with what others left on `method`: its `__final__`.

    Past the constructor of a subclass, which may want more than a function.
    """
    kind: Any = staticmethod if issubclass(type(method), staticmethod) else classmethod
    made = kind.__new__(cast(Any, type(method)))
    kind.__init__(made, inner)
    made.__dict__.update({**vars(method), **vars(made)})
    return made


def _is_ours(func: Any) -> bool:
    # the second file: of a generator function that came here by value
    return _is_proxy(func) or func.__code__.co_filename in (__file__, generators.__file__)


def _is_proxy(func: Any) -> bool:
    kind = cast(Any, type(func))
    return getattr(kind, "is_tracers", False) is True


def _wrap_one(func: Any, prepare: Prepare, name: str | None, *, bound: bool = False) -> Any:
    opening = prepare(func, name or name_of(func), bound=bound)
    target = _target_of(func)
    is_function = isinstance(func, FunctionType)
    if inspect.isgeneratorfunction(target):
        call = _starts_stream(func, opening, follow_generator)
    elif inspect.isasyncgenfunction(target):
        call = _starts_stream(func, opening, follow_async)
    elif inspect.iscoroutinefunction(target):
        call = _awaits(func, opening)
        if is_function:
            return call
        _name_coroutines(call, target)
    else:
        call = _calls(func, opening)
        if is_function:
            return call
    if is_function:
        return TracedGeneratorFunction(func, call)
    again = functools.partial(_wrap_one, prepare=prepare, name=name, bound=bound)
    return stand_in(func, call, again)


def _target_of(func: Any) -> Any:
    """Return what `inspect` must ask to tell what a call gives: of an object, its class knows."""
    while _is_proxy(func) and not isinstance(func, FunctionType):
        func = func.__wrapped__
    if isinstance(func, (FunctionType, BuiltinFunctionType, MethodType, functools.partial)):
        return cast(Any, func)
    return inspect.getattr_static(cast(Any, type(func)), "__call__")


def _name_coroutines(call: Any, target: Any) -> None:
    """Let coroutines be called what they always were: a coroutine is named by its function."""
    while isinstance(target, functools.partial):
        target = target.func
    for attribute in ("__name__", "__qualname__"):
        setattr(call, attribute, getattr(target, attribute, getattr(call, attribute)))


def _calls(func: Callable[..., Any], opening: Opening) -> Callable[..., Any]:
    source, open_link = opening.source, opening.current

    @functools.wraps(func)
    def traced(*args: Any, **kwargs: Any) -> Any:
        if source.recorder is None and not source.pending:  # switched off: the shortest way
            return func(*args, **kwargs)
        try:
            link = open_link(args, kwargs)
        except RecursionError:  # the call itself needs less room than ours
            link = None
        if link is None:
            return func(*args, **kwargs)
        stays_open = False
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            link.end(error=error)
            raise
        else:
            kind = cast(Any, type(result))
            if kind in _PLAIN or not hasattr(kind, "__await__"):
                link.end(result)
                return result
            stays_open = True
            return _followed(result, link)
        finally:
            if not stays_open:
                link.ended = True  # also when an interrupt comes before `end` gets so far
            result = None  # a traceback somebody keeps holds this frame: not the result with it

    return traced


def _followed(result: Any, link: Span | Session) -> Any:
    """Leave `link` open until what was returned has been awaited; that stays what it is."""
    kind = cast(Any, type(result))
    if kind is CoroutineType:
        from tracer.proxies import FollowedCoroutine  # takes 5 ms to load: wrapt, for this alone

        restore(link)
        return FollowedCoroutine(result, link)
    if hasattr(kind, "add_done_callback") and hasattr(kind, "cancelled"):
        restore(link)
        follow_future(result, link)
    else:
        link.end(result)
    return result


def _awaits(func: Callable[..., Any], opening: Opening) -> Callable[..., Any]:
    source, open_link = opening.source, opening.current

    @functools.wraps(func)
    async def traced_async(*args: Any, **kwargs: Any) -> Any:
        if source.recorder is None and not source.pending:
            return await func(*args, **kwargs)
        try:
            link = open_link(args, kwargs)
        except RecursionError:
            link = None
        if link is None:
            return await func(*args, **kwargs)
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            link.end(error=error)
            raise
        else:
            link.end(result)
            return result
        finally:
            link.ended = True  # also when an interrupt comes before `end` gets so far
            result = None  # a traceback somebody keeps holds this frame: not the result with it

    return traced_async


def _starts_stream(
    func: Callable[..., Any], opening: Opening, following: Callable[[Any, Stream], Any]
) -> Callable[..., Any]:
    """Return what calls a generator function: parent and inputs are those of this moment."""

    # not `opening` itself: a closure is pickled with all it holds
    open_link, reduce = opening.detached, opening.reduce

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            link = open_link(args, kwargs)
        except RecursionError:
            link = None
        if link is None:
            return func(*args, **kwargs)
        before = exchange(link)  # `func` may be decorated itself, and look for its parent now
        try:
            gen = func(*args, **kwargs)  # runs nothing of it; wrong arguments are refused
        finally:
            exchange(before)
        outer = following(gen, Stream(link, reduce))
        outer.__name__, outer.__qualname__ = gen.__name__, gen.__qualname__
        return outer

    return call
