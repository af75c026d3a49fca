"""What can be decorated, and how the arguments of a call get their names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Bind", "binder", "check_fields", "check_function"]

Bind = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]


def check_fields(given: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Refuse what the server would refuse, and with it the whole event. Raises: TypeError."""
    if not given.keys() <= allowed:
        raise TypeError(
            f"unknown argument {', '.join(sorted(given.keys() - allowed))}; "
            f"allowed are {', '.join(sorted(allowed))}"
        )


def check_function(func: Callable[..., Any]) -> None:
    """Refuse what would not be wrapped faithfully. Raises: TypeError."""
    generates = inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
    if not inspect.isfunction(func) or generates:
        raise TypeError(f"functions and coroutine functions can be decorated, not {func!r}")


def binder(func: Callable[..., Any]) -> Bind:
    """Compile what turns positional and keyword arguments into named inputs; `self` is left out."""
    signature = inspect.signature(func)
    parameters = signature.parameters.values()
    first = next(iter(signature.parameters), None)
    owner = first if first in ("self", "cls") else None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return functools.partial(_bind_any, signature, owner)
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
        if owner is not None:
            bound.pop(owner, None)
        return bound

    return bind


def _bind_any(
    signature: inspect.Signature,
    owner: str | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # the function itself is about to say so
        return {"args": args, "kwargs": kwargs}
    bound.apply_defaults()
    found = dict(bound.arguments)
    if owner is not None:
        found.pop(owner, None)
    return found
