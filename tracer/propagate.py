"""Carrying what is current into other threads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tracer.context import CURRENT

__all__ = ["bind_context"]

P = ParamSpec("P")
R = TypeVar("R")


def bind_context(func: Callable[P, R]) -> Callable[P, R]:
    """Return `func` running below what is current now, in whatever thread or task it is called."""
    link = CURRENT.get()
    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def bound_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            before = CURRENT.get()
            try:
                CURRENT.set(link)
                return await func(*args, **kwargs)
            finally:
                CURRENT.set(before)

        return bound_async  # type: ignore[return-value]  # R is the coroutine it returns

    @functools.wraps(func)
    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        before = CURRENT.get()
        try:
            CURRENT.set(link)
            return func(*args, **kwargs)
        finally:
            CURRENT.set(before)

    return bound
