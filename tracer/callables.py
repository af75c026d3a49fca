"""How the arguments of a call get their names, and which of them are kept."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tracer.context import quietly

__all__ = ["Bind", "Capture", "binder", "by_name", "check_fields", "processed", "travels"]

Bind = Callable[[tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Capture:
    """What a decorator keeps of a call; None leaves it to the tracer's configuration."""

    inputs: bool | None = None
    outputs: bool | None = None
    only: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    process_inputs: Callable[[dict[str, Any]], Any] | None = None
    process_outputs: Callable[[Any], Any] | None = None
    reduce: Callable[[list[Any]], Any] | None = None


def check_fields(given: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Refuse what the server would refuse, and with it the whole event. Raises: TypeError."""
    if not given.keys() <= allowed:
        raise TypeError(
            f"unknown argument {', '.join(sorted(given.keys() - allowed))}; "
            f"allowed are {', '.join(sorted(allowed))}"
        )


def binder(
    func: Callable[..., Any],
    capture: Capture = Capture(),
    *,
    bound: bool = False,
    strict: bool = True,
) -> Bind:
    """Compile what turns positional and keyword arguments into the inputs that are kept.

    Args:
        bound: the first argument is the object or class of a method, whatever its name.
        strict: refuse names in `only` and `ignore` that `func` does not take.
    Raises: TypeError: an argument named in `only` or `ignore` does not exist.
    """
    try:
        signature = inspect.signature(func)
    except (ValueError, TypeError):  # a function in C that does not tell
        return _processed(_bind_unnamed, capture)
    parameters = signature.parameters.values()
    first = next(iter(signature.parameters), None)
    dropped = {first} if first is not None and (bound or first in ("self", "cls")) else set[str]()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if strict and not open_ended:
        _check_names(capture, [n for n in signature.parameters if n not in dropped], func)
    if capture.only is not None and not open_ended:
        dropped |= signature.parameters.keys() - capture.only
    dropped |= capture.ignore
    if open_ended or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        bind: Bind = functools.partial(_bind_any, signature, frozenset(dropped), capture.only)
    else:
        bind = _quick(signature, tuple(dropped & signature.parameters.keys()))
    return _processed(bind, capture)


def by_name(found: Any) -> Any:
    """Return what is where `found` says that it is defined: if that is another, it has no name."""
    name = getattr(found, "__qualname__", None)
    place: Any = sys.modules.get(getattr(found, "__module__", None) or "")
    for part in name.split(".") if isinstance(name, str) else ():
        place = getattr(place, part, None)
    return place if isinstance(name, str) else None


_ATOMS = (type(None), bool, int, float, str, bytes)


def travels(value: Any) -> bool:
    """Tell whether any pickler takes `value`: plain data, or something that a module has by name."""
    kind = cast(Any, type(value))
    if kind in (list, tuple, frozenset):
        return all(map(travels, value))
    if kind is dict:
        return all(map(travels, (*value, *value.values())))
    return kind in _ATOMS or by_name(value) is value


def _quick(signature: inspect.Signature, dropped: tuple[str, ...]) -> Bind:
    """Bind without `*args` and `**kwargs`: names in order, then defaults."""
    parameters = signature.parameters.values()
    names = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    total = len(signature.parameters)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = dict(zip(names, args, strict=False))
        if kwargs:
            bound.update(kwargs)
        if len(bound) < total:
            for name, default in defaults.items():
                bound.setdefault(name, default)
        for name in dropped:
            bound.pop(name, None)
        return bound

    return bind


def _bind_any(
    signature: inspect.Signature,
    dropped: frozenset[str],
    only: frozenset[str] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # the function itself is about to say so
        return {"args": args, "kwargs": kwargs}
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if name in dropped:
            continue
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            wanted = None if only is None or name in only else only
            found[name] = {
                n: v for n, v in value.items() if n not in dropped and (not wanted or n in wanted)
            }
        elif only is None or name in only:
            found[name] = value
    return found


def _bind_unnamed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"args": args, **kwargs} if args else dict(kwargs)


def _check_names(capture: Capture, known: list[str], func: Callable[..., Any]) -> None:
    wrong = ((capture.only or frozenset()) | capture.ignore) - set(known)
    if wrong:
        name = getattr(func, "__qualname__", repr(func))
        raise TypeError(
            f"only, ignore: {name} takes no argument {', '.join(sorted(wrong))}; "
            f"it takes {', '.join(known) or 'none'}"
        )


def _processed(bind: Bind, capture: Capture) -> Bind:
    process = capture.process_inputs
    if process is None:
        return bind

    def bind_and_process(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return processed(process, bind(args, kwargs), "process_inputs")

    return bind_and_process


def processed(process: Callable[[Any], Any], value: Any, name: str) -> Any:
    """Return what the user's function makes of `value`; if it raises, that alone is recorded.

    It may be there to take a secret out: the value itself must not be recorded in its place.
    """
    try:
        return quietly(process, value)
    except Exception as error:  # noqa: BLE001 - the user's function may raise anything
        # not its message: that may quote what must not be recorded
        return {"__type__": "tracer.not_captured", "repr": f"{name} raised {type(error).__name__}"}
