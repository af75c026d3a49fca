"""Callables that are no plain functions stay what they are: an object stands in for each.

It takes the calls, and hands everything else on. Special methods are looked up on the type, so
each has a type of its own with just those of the object it stands for: `isinstance`, `iter`,
`async with` and `__set_name__` find what they would find there, no less and no more.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, cast

from tracer.callables import by_name

__all__ = ["StandIn", "called_of", "stand_in", "target_of"]

_OWN = frozenset(("__call__", "__copy__", "__deepcopy__", "__get__", "__reduce__", "__reduce_ex__"))
# looked up on the type, but answered by `StandIn`, or about the type itself
_NOT_HANDED_ON = _OWN | frozenset(
    f"__{name}__"
    for name in (
        "annotate_func",
        "class_getitem",
        "del",
        "delattr",
        "getattr",
        "getattribute",
        "init",
        "init_subclass",
        "new",
        "setattr",
        "subclasshook",
    )
)


class StandIn:
    """Stands for an object: calls go to another one, everything else is the object's own."""

    __slots__ = ("__weakref__", "_called", "_target")

    is_tracers = True  # on the class: no object it stands for is asked

    def __init__(self, target: Any, called: Callable[..., Any]) -> None:
        _kind._called.__set__(self, called)
        _kind._target.__set__(self, target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object, traced."""
        return called_of(self)(*args, **kwargs)

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(target_of(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(target_of(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(target_of(self), name)

    def __repr__(self) -> str:
        return repr(target_of(self))

    def __dir__(self) -> list[str]:
        return dir(target_of(self))

    def __reduce__(self) -> Any:
        """Pickle as `__reduce_ex__` does."""
        return cast(Any, self).__reduce_ex__(2)


# past `__getattribute__`
_kind: Any = StandIn
called_of: Callable[[object], Any] = _kind._called.__get__
target_of: Callable[[object], Any] = _kind._target.__get__


class _TracedObject(StandIn):
    """Stands for any callable object but a function."""

    __slots__ = ("_again",)

    def __getattribute__(self, name: str) -> Any:
        if name == "__wrapped__":
            return target_of(self)
        return super().__getattribute__(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by name, as a function; what has no name of its own as what decorates it again."""
        target = target_of(self)
        if by_name(target) is self:
            return target.__qualname__
        again = _again_of(self)
        # a `process_inputs` that no pickler takes must not keep the object from being pickled
        return again if again.keywords["prepare"].travels() else _itself, (target,)

    def __copy__(self) -> Any:
        """Be one's own copy, as functions are; of another object, decorate the copy."""
        return _or_again(self, copy.copy(target_of(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Do the same, deeply."""
        return _or_again(self, copy.deepcopy(target_of(self), memo))


_again_of: Callable[[object], Any] = cast(Any, _TracedObject)._again.__get__


def _or_again(made: _TracedObject, found: Any) -> Any:
    return made if found is target_of(made) else _again_of(made)(found)


def _itself(found: Any) -> Any:
    return found


def stand_in(target: Any, called: Callable[..., Any], again: partial[Any]) -> Any:
    """Return what stands for `target`, with calls going to `called`; `again` decorates a copy."""
    kind = cast(Any, type(target))
    members: dict[str, Any] = {"__slots__": ()}
    for name in dir(kind):
        special = name.startswith("__") and name.endswith("__") and name not in _NOT_HANDED_ON
        found = inspect.getattr_static(kind, name, None) if special else None
        if special and (found is None or inspect.isroutine(found)):
            members[name] = found and _handed_on(
                name
            )  # None, as for `__hash__`, says that it has none
    if hasattr(kind, "__get__"):
        members["__get__"] = _bound
    made = type(kind.__name__, (_TracedObject,), members)(target, called)
    cast(Any, _TracedObject)._again.__set__(made, again)
    return made


def _handed_on(name: str) -> Any:
    def special(self: Any, *args: Any, **kwargs: Any) -> Any:
        target = target_of(self)
        found = getattr(cast(Any, type(target)), name)(target, *args, **kwargs)
        return self if found is target else found

    return special


def _bound(self: Any, instance: Any, owner: type | None = None) -> Any:
    """Bind as what it stands for; what becomes no method is the object's own, untraced."""
    target = target_of(self)
    found = cast(Any, type(target)).__get__(target, instance, owner)
    if found is target:
        return self
    if type(found) is MethodType and found.__func__ is target:
        return MethodType(self, found.__self__)
    return found
